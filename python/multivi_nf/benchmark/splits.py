"""Hide part of a set of cells measured in several modalities, so that what is predicted can be scored.

Every split takes the complete modalities and gives a mosaic that a model may see; the hidden values stay with the
caller, found again through `origin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from multivi_nf.modalities import MODALITIES

Cells = Mapping[str, anndata.AnnData]
"""Modality to complete cells, counts in X."""
Shown = tuple[str, str, tuple[str, ...]]
"""Name in the mosaic, original cell, modalities that are shown."""


@dataclass
class Split:
    """A mosaic and where its cells come from.

    Attributes
    ----------
    mosaic
        What a model may see. A cell may appear twice, as one view each, under names `CELL.rna` and `CELL.atac`.
    origin
        Name in the mosaic to the original cell.
    modalities
        Name in the mosaic to what is shown of it, such as `rna+atac` or `atac`.
    """

    mosaic: mudata.MuData
    origin: pd.Series
    modalities: pd.Series

    def views(self, modality: str) -> pd.Index:
        """Names of the cells of which this modality alone is shown."""
        return self.modalities.index[self.modalities == modality]

    def both_views(self) -> tuple[pd.Index, pd.Index]:
        """Names of the RNA views and the ATAC views of the same original cells, in the same order."""
        rna, atac = (pd.Series(self.views(m), index=self.origin[self.views(m)].to_numpy()) for m in ("rna", "atac"))
        common = rna.index.intersection(atac.index, sort=False)
        return pd.Index(rna[common]), pd.Index(atac[common])


def build_mosaic(
    complete: Cells,
    shown: Sequence[Shown],
    *,
    batch: str = "batch",
    min_fraction: Mapping[str, float] | None = None,
) -> Split:
    """Make a mosaic of the shown parts of complete cells.

    Parameters
    ----------
    complete
        Modality to AnnData of all cells with counts in `X`; the same obs_names where they share cells.
    shown
        (name in the mosaic, original cell, modalities shown) of each cell or view.
    batch
        Column of `obs` that becomes `batch`; the first modality that has the cell gives it.
    min_fraction
        Modality to the share of shown cells that a feature must be seen in. Computed on what is shown only, so
        that hidden profiles choose no features.

    Returns
    -------
    The split; its mosaic has `obs["sample"]`, `["batch"]`, `has_*` and `modality` as a pipeline's.
    """
    table = pd.DataFrame(shown, columns=["name", "origin", "modalities"]).set_index("name")
    parts = {}
    for modality in (m for m in MODALITIES if m in complete):
        names = table.index[[modality in shows for shows in table["modalities"]]]
        if not len(names):
            continue
        source = complete[modality]
        rows = source.obs_names.get_indexer(table.loc[names, "origin"])
        if (rows < 0).any():
            msg = f"{modality} does not have the cell {table.loc[names, 'origin'].iloc[int((rows < 0).argmax())]!r}"
            raise ValueError(msg)
        part = anndata.AnnData(sp.csr_matrix(source.X[rows], dtype=np.int32), var=source.var.copy())
        part.obs_names = names
        part.obs["batch"] = source.obs[batch].to_numpy()[rows].astype(str)
        fraction = (min_fraction or {}).get(modality, 0.0)
        seen = np.asarray((part.X > 0).sum(0)).ravel()
        part = part[:, seen >= max(fraction * part.n_obs, 1)].copy()
        if modality == "atac":
            part.layers["counts"] = part.X.copy()
            part.X.data[:] = 1
        if modality == "protein":
            batches = np.unique(part.obs["batch"])
            part.uns["panel"] = pd.DataFrame(True, index=batches, columns=part.var_names)
        parts[modality] = part
    mosaic = mudata.MuData(parts)
    mosaic = in_order(mosaic, table.index)
    batches = pd.concat([part.obs["batch"] for part in parts.values()])
    mosaic.obs["batch"] = batches[~batches.index.duplicated()].reindex(mosaic.obs_names).to_numpy()
    mosaic.obs["sample"] = mosaic.obs["batch"]
    for modality, part in parts.items():
        mosaic.obs[f"has_{modality}"] = mosaic.obs_names.isin(part.obs_names)
    labels = table["modalities"].map(lambda shows: "+".join(m for m in MODALITIES if m in shows))
    mosaic.obs["modality"] = labels.reindex(mosaic.obs_names).to_numpy()
    return Split(mosaic, table["origin"].reindex(mosaic.obs_names), labels.reindex(mosaic.obs_names))


def in_order(mosaic: mudata.MuData, names: pd.Index) -> mudata.MuData:
    """The mosaic with its cells in the order of `names`."""
    if list(mosaic.obs_names) == list(names):
        return mosaic
    return mosaic[names].copy()


def stratified_pairs(
    cells: pd.Index, fraction: float, labels: pd.Series | None, rng: np.random.Generator
) -> np.ndarray:
    """(n_cells,) booleans: `fraction` of the cells of each label, drawn at random."""
    groups = pd.Series("all", index=cells) if labels is None else labels.reindex(cells).astype(str)
    paired = np.zeros(len(cells), bool)
    for group in sorted(groups.unique()):
        of = np.flatnonzero(groups.to_numpy() == group)
        paired[rng.permutation(of)[: round(fraction * of.size)]] = True
    return paired


def random_unpairing(
    complete: Cells,
    fraction: float,
    *,
    seed: int = 0,
    labels: pd.Series | None = None,
    **build: Any,
) -> Split:
    """S1: a fraction stays paired; every other cell enters twice, once as its RNA and once as its ATAC.

    Good for pairing and mixing. Too kind for imputation: the hidden profile is shown as the other view.
    """
    rng = np.random.default_rng([seed, 1])
    cells = complete["rna"].obs_names
    paired = stratified_pairs(cells, fraction, labels, rng)
    shown: list[Shown] = [(cell, cell, ("rna", "atac")) for cell in cells[paired]]
    for modality in ("rna", "atac"):
        shown += [(f"{cell}.{modality}", cell, (modality,)) for cell in cells[~paired]]
    return build_mosaic(complete, shown, **build)


def strict_unpairing(
    complete: Cells,
    fraction: float,
    *,
    seed: int = 0,
    labels: pd.Series | None = None,
    **build: Any,
) -> Split:
    """S2: a fraction stays paired; of other cells one modality is shown, half RNA and half ATAC, the other nowhere."""
    rng = np.random.default_rng([seed, 2])
    cells = complete["rna"].obs_names
    paired = stratified_pairs(cells, fraction, labels, rng)
    as_rna = np.zeros(len(cells), bool)
    rest = np.flatnonzero(~paired)
    as_rna[rest[stratified_pairs(cells[rest], 0.5, labels, rng)]] = True
    shown: list[Shown] = [
        (cell, cell, ("rna", "atac") if p else ("rna",) if r else ("atac",))
        for cell, p, r in zip(cells, paired, as_rna)
    ]
    return build_mosaic(complete, shown, **build)


def batches_held_out(
    complete: Cells, shows: Mapping[str, tuple[str, ...]], *, batch: str = "batch", **build: Any
) -> Split:
    """S3: whole libraries or donors show only some modalities.

    Parameters
    ----------
    shows
        Batch to its shown modalities; batches not named show everything.
    """
    source = complete["rna"].obs[batch].astype(str)
    unknown = sorted(set(shows) - set(source))
    if unknown:
        msg = f"no cell is of batch {unknown}; batches are {sorted(set(source))}"
        raise ValueError(msg)
    everything = tuple(m for m in MODALITIES if m in complete)
    shown = [(cell, cell, tuple(shows.get(b, everything))) for cell, b in source.items()]
    return build_mosaic(complete, shown, batch=batch, **build)


def type_without(
    split: Split, complete: Cells, labels: pd.Series, target: str, modality: str = "rna", **build: Any
) -> Split:
    """S4: take one modality from every cell of a type in a split; views left with nothing are dropped."""
    shown = []
    for name, origin in split.origin.items():
        own = tuple(split.modalities[name].split("+"))
        if labels[origin] == target:
            own = tuple(m for m in own if m != modality)
        if own:
            shown.append((name, origin, own))
    return build_mosaic(complete, shown, **build)


def type_without_pairs(split: Split, complete: Cells, labels: pd.Series, target: str, **build: Any) -> Split:
    """S5: the paired cells of a type become one RNA and one ATAC view each; the rest of the split stays."""
    shown = []
    for name, origin in split.origin.items():
        modalities = tuple(split.modalities[name].split("+"))
        if labels[origin] == target and len(modalities) > 1:
            shown += [(f"{name}.{m}", origin, (m,)) for m in modalities]
        else:
            shown.append((name, origin, modalities))
    return build_mosaic(complete, shown, **build)


def presence_patterns(complete: Cells, patterns: list[tuple[str, ...]], *, seed: int = 0, **build: Any) -> Split:
    """S6: each cell shows one of the patterns, dealt out evenly at random (three modalities: seven patterns)."""
    cells = complete[MODALITIES[0]].obs_names
    rng = np.random.default_rng([seed, 6])
    dealt = rng.permutation(np.arange(len(cells)) % len(patterns))
    return build_mosaic(complete, [(cell, cell, tuple(patterns[k])) for cell, k in zip(cells, dealt)], **build)
