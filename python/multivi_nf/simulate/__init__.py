"""A mosaic with known truth: raw fragments and count matrices of paired and unpaired cells on a toy genome.

Cells come from log-linear gene and peak programmes (cell types, a branch with continuous positions, a cell
cycle, programmes that vary within types), shared by both modalities; never from the model's own decoder. On top of them
lie what makes real cells hard: batch effects, ambient counts, doublets, dying cells, uneven depth, unequal
compositions, few fragments a cell.
"""

from __future__ import annotations

from multivi_nf.simulate.design import PRESETS, Options
from multivi_nf.simulate.memory import simulated_mosaic
from multivi_nf.simulate.truth import Truth, read_truth
from multivi_nf.simulate.write import simulate

__all__ = ["PRESETS", "Options", "Truth", "read_truth", "simulate", "simulated_mosaic"]
