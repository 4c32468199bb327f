"""Who the cells are: types, branch positions, programmes, depths, doublets and barcodes of each sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from multivi_nf.simulate.design import SAMPLES, Options, Sample
from multivi_nf.simulate.world import DISCRETE, STATES

DOUBLETS = 0.04
DYING = 0.02
SITES = ("site_1", "site_2")
BASE_COMPOSITION = {
    "type_1": 0.17, "type_2": 0.11, "type_3": 0.15, "type_4": 0.10, "type_5": 0.09, "branch": 0.38,
}  # fmt: skip
RARE = 0.022
"""Share of the rare type, the same in every sample: a sample without it could not be scored."""


@dataclass
class SampleCells:
    """The cells of one sample.

    Attributes
    ----------
    sample
        The design's row.
    cells
        One row a barcode: barcode, cell_type, arm, position, doublet, dying, rna_library, atac_library, ...
    states
        (n_nuclei, n_states). A doublet has two nuclei.
    owner
        (n_nuclei,) row of `cells` that a nucleus belongs to.
    """

    sample: Sample
    cells: pd.DataFrame
    states: np.ndarray
    owner: np.ndarray

    @property
    def site(self) -> int:
        """Row of the site effects that holds for this sample."""
        return SITES.index(self.sample.site)


def barcodes(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) distinct 10x-like barcodes: 16 random bases and `-1`."""
    codes = np.unique(rng.integers(0, 4**16, int(n * 1.01) + 10, dtype=np.int64))
    codes = rng.permutation(codes)[:n]
    digits = (codes[:, None] >> (2 * np.arange(16))[None, :]) & 3
    bases = np.frombuffer(b"ACGT", dtype="S1")[digits]
    return np.char.add(bases.reshape(n, 16).view("S16").ravel(), b"-1").astype("U18")


def composition(rng: np.random.Generator) -> np.ndarray:
    """Shares of the common discrete types and the branch in one sample: the base, tilted."""
    base = np.array(list(BASE_COMPOSITION.values()))
    tilt = np.exp(rng.normal(0.0, 0.45, base.size))
    return base * tilt / (base * tilt).sum()


def draw_states(rng: np.random.Generator, n: int, shares: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
    """States of `n` nuclei of one sample and who they are (cell_type, arm, position)."""
    groups = np.array(list(BASE_COMPOSITION))
    group = groups[rng.choice(groups.size, n, p=shares)]
    group[: max(1, round(RARE * n))] = "rare"
    group = rng.permutation(group)
    on_branch = group == "branch"
    position = np.where(on_branch, rng.beta(1.3, 1.1, n), np.nan)
    arm = np.where(rng.random(n) < 0.55, "a", "b")
    cell_type = np.where(on_branch, np.where(position < 0.35, "progenitor", np.char.add("arm_", arm)), group)

    states = np.zeros((n, len(STATES)), dtype=np.float32)
    column = {state: i for i, state in enumerate(STATES)}
    for name in DISCRETE:
        states[group == name, column[name]] = 1.0
    t = np.nan_to_num(position)
    states[:, column["trunk"]] = on_branch * np.exp(-((t / 0.45) ** 2))
    ramp = on_branch * np.clip((t - 0.15) / 0.85, 0, 1) ** 0.8
    states[:, column["a_ramp"]] = ramp * (arm == "a")
    states[:, column["b_ramp"]] = ramp * (arm == "b")
    states[:, column["bump"]] = on_branch * np.exp(-(((t - 0.5) / 0.12) ** 2))
    cycling = rng.random(n) < np.where(cell_type == "progenitor", 0.6, 0.08)
    phase = rng.uniform(0, 2 * np.pi, n)
    states[:, column["cycle_sin"]] = cycling * 1.6 * np.sin(phase)
    states[:, column["cycle_cos"]] = cycling * 1.6 * np.cos(phase)
    states[:, column["stress"]] = rng.gamma(1.0, 0.7, n)
    states[:, column["gradient_1"]] = rng.normal(0, 1, n) + 0.6 * np.isin(cell_type, ["type_1", "type_2"])
    states[:, column["gradient_2"]] = rng.normal(0, 1, n) - 0.5 * np.isin(cell_type, ["type_3", "arm_a"])
    who = pd.DataFrame({"cell_type": cell_type, "arm": np.where(on_branch, arm, ""), "position": position})
    return states, who


def draw_sample(sample: Sample, options: Options, index: int) -> SampleCells:
    """Draw the cells of one sample: its own random stream, so that samples do not depend on one another."""
    rng = np.random.default_rng([options.seed, 2, index])
    n = max(8, round(sample.share * options.cells))
    states, who = draw_states(rng, n, composition(rng))
    n_doublets = round(DOUBLETS * n)
    partners, partner_who = draw_states(rng, max(2, n_doublets), composition(rng))
    doublet = np.zeros(n, bool)
    doublet[rng.choice(n, n_doublets, replace=False)] = True
    hosts = np.flatnonzero(doublet)

    cells = who.assign(sample=sample.name, site=sample.site, donor=sample.donor, barcode=barcodes(rng, n))
    cells["doublet"] = doublet
    cells["doublet_partner"] = ""
    cells.loc[hosts, "doublet_partner"] = partner_who["cell_type"].to_numpy()[:n_doublets]
    cells["dying"] = (rng.random(n) < DYING) & ~doublet
    size = np.exp(rng.normal(0, 0.25, n)) * np.where(cells["cell_type"] == "type_5", 1.6, 1.0)  # big cells
    poor = np.where(cells["dying"], 0.35, 1.0)
    depth = options.called_depth if sample.cells == "call" else 1.0
    cells["rna_library"] = options.rna_counts * size * poor * np.exp(rng.normal(0, 0.35, n))
    cells["atac_library"] = depth * options.atac_fragments * size * poor * np.exp(rng.normal(0, 0.3, n))
    cells["ambient"] = rng.beta(3, 45, n)
    cells.index = pd.Index(sample.name + ":" + cells["barcode"], name="cell")
    owner = np.concatenate([np.arange(n), hosts])
    return SampleCells(sample, cells, np.concatenate([states, partners[:n_doublets]]), owner)


def draw_cells(options: Options) -> list[SampleCells]:
    """The cells of all samples, in samplesheet order."""
    return [draw_sample(sample, options, i) for i, sample in enumerate(SAMPLES)]
