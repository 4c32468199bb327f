"""Run by the peers' Python, which does not have multivi_nf: scvi-tools TOTALVI on cells of which some lack protein.

python scvi_totalvi.py INPUT.npz SETTINGS.json OUTPUT.npz
"""

from __future__ import annotations

import json
import sys
import warnings

import anndata
import numpy as np
import pandas as pd
import scvi
import torch

warnings.filterwarnings("ignore")


def main() -> None:
    source, settings, target = sys.argv[1], json.loads(open(sys.argv[2]).read()), sys.argv[3]  # noqa: PTH123
    torch.set_num_threads(settings["threads"])
    scvi.settings.seed = settings["seed"]
    scvi.settings.verbosity = 40
    data = np.load(source)
    cells = anndata.AnnData(data["rna"].astype(np.float32))
    # a batch whose proteins are all 0 is what tells totalVI that they were not measured
    cells.obsm["protein"] = np.where(data["hidden"][:, None], 0, data["protein"]).astype(np.float32)
    names = np.char.add(data["batch"], np.where(data["hidden"], " hidden", " shown"))
    cells.obs["batch"] = pd.Categorical(names)
    scvi.model.TOTALVI.setup_anndata(cells, protein_expression_obsm_key="protein", batch_key="batch")
    model = scvi.model.TOTALVI(cells)
    model.train(accelerator="cpu", enable_progress_bar=False, train_size=0.9, validation_size=0.1)
    _, protein = model.get_normalized_expression(
        indices=np.flatnonzero(data["hidden"]),
        transform_batch=sorted(set(names[~data["hidden"]])),
        n_samples=25,
        return_mean=True,
        include_protein_background=True,
    )
    np.savez(target, protein=np.asarray(protein, np.float32))


if __name__ == "__main__":
    main()
