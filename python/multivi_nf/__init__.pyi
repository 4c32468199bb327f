# What `multivi_nf.__getattr__` hands out, for readers of types
from multivi_nf._version import __version__ as __version__
from multivi_nf.comparison.compare import differential as differential
from multivi_nf.held_out.calibrate import calibrate as calibrate
from multivi_nf.imputation.impute import impute as impute
from multivi_nf.latent.embed import embed as embed
from multivi_nf.mosaic.read import read_mosaic as read_mosaic
from multivi_nf.training.fit import train as train
from multivi_nf.training.model_folder import MultiVI as MultiVI
