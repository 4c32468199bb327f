"""Test at the level of replicates: pseudobulks of measured cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from multivi_nf.comparison.quasi_likelihood import quasi_likelihood_test

if TYPE_CHECKING:
    from multivi_nf.data.mosaic_data import MosaicData

MINIMUM = 3
MINIMUM_CELLS = 10


def pseudobulks(data: MosaicData, cells: np.ndarray, replicate: np.ndarray, modality: str) -> dict[str, np.ndarray]:
    """Replicate to (n_features,) summed counts over the measured ones of `cells`.

    NaN for a protein that the panel of some of them lacks.

    Parameters
    ----------
    cells
        Positions in the mosaic.
    replicate
        (n_all_cells,) replicate of every cell of the mosaic. Replicates with fewer than 10 measured cells are left out:
        the noise of so few would pass for that of a replicate.
    """
    return pseudobulks_of({"": cells}, data, replicate, modality)[""]


def pseudobulks_of(
    groups: dict[str, np.ndarray], data: MosaicData, replicate: np.ndarray, modality: str
) -> dict[str, dict[str, np.ndarray]]:
    """Group to what :func:`pseudobulks` gives for its cells; groups share no cell, and each count is read once."""
    has = data.has[modality]
    sums: dict[str, dict[str, np.ndarray]] = {}
    code = np.full(len(has), -1)
    places: list[tuple[str, str, np.ndarray]] = []
    for group, cells in groups.items():
        cells, sums[group] = cells[has[cells]], {}
        for name in sorted(set(replicate[cells])):
            mine = cells[replicate[cells] == name]
            if len(mine) >= MINIMUM_CELLS:
                code[mine] = len(places)
                places.append((group, name, mine))
    wanted = np.flatnonzero(code >= 0)
    for start in range(0, len(wanted), 2048):
        cells = wanted[start : start + 2048]
        counts = data.minibatch(cells).modalities[modality].counts
        values = None if counts.values is None else counts.values.double().cpu().numpy()
        indices, of = counts.indices.cpu().numpy(), np.repeat(code[cells], np.diff(counts.indptr.cpu().numpy()))
        for one in np.unique(code[cells]):
            group, name, _ = places[one]
            mine = of == one
            weights = None if values is None else values[mine]
            part = np.bincount(indices[mine], weights=weights, minlength=counts.n_features)
            sums[group][name] = sums[group].get(name, 0) + part
    for group, name, mine in places:
        panel = data.in_panel(mine, modality)
        if panel is not None:
            sums[group][name] = np.where(panel.all(axis=0), sums[group][name], np.nan)
    return {group: {name: of[name] for name in sorted(of)} for group, of in sums.items()}


def cells_of_pseudobulks(data: MosaicData, cells: np.ndarray, replicate: np.ndarray, modality: str) -> dict[str, int]:
    """Replicate to the number of cells that :func:`pseudobulks` summed."""
    cells = cells[data.has[modality][cells]]
    names, n = np.unique(replicate[cells].astype(str), return_counts=True)
    return {str(name): int(k) for name, k in zip(names, n, strict=True) if k >= MINIMUM_CELLS}


def comparable(target: set[str], reference: set[str]) -> str | None:
    """Say "blocked" where both sides have the same replicates, "independent" where they share none (two or more)."""
    if min(len(target), len(reference)) >= 2 and target == reference:
        return "blocked"
    if min(len(target), len(reference)) >= 2 and not target & reference:
        return "independent"
    shared = target & reference
    return "blocked" if len(shared) >= MINIMUM else None


def replicate_test(
    target: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    n_cells: tuple[dict[str, int], dict[str, int]] | None = None,
) -> np.ndarray | None:
    """(n_features,) two-sided p-values of the sides' difference in pseudobulks; None where replicates are too few.

    Replicates that both sides have are blocks of the design, and others are then left out. Proteins that only some
    replicates measured are tested on these, p NaN where they are too few.

    Parameters
    ----------
    target, reference
        Replicate to (n_features,) summed counts.
    n_cells
        Replicate to cells of the target and of the reference: counts a cell are compared, as effects of proteins are
        (a panel is no library: its total rises with the very proteins that differ). None: shares of all counts.
    """
    bulks = [*target.values(), *reference.values()]
    absent = np.isnan(np.stack(bulks)) if target and reference else np.zeros((0, 0), bool)
    if not absent.any():
        return _tested(target, reference, n_cells)
    patterns, which = np.unique(absent, axis=1, return_inverse=True)
    which, p = which.ravel(), np.full(absent.shape[1], np.nan)
    for i, gone in enumerate(patterns.T):
        if gone.all():
            continue
        # without cells, offsets are sums over all that these replicates measured
        shared = ~absent[~gone].any(axis=0)
        n = len(target)
        one, other = (
            {name: bulk[shared] for name, bulk, out in zip(side, some, apart) if not out}
            for side, some, apart in ((target, bulks[:n], gone[:n]), (reference, bulks[n:], gone[n:]))
        )
        found = _tested(one, other, n_cells)
        if found is not None:
            p[which == i] = found[which[shared] == i]
    return None if np.isnan(p).all() else p


def _tested(
    target: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    n_cells: tuple[dict[str, int], dict[str, int]] | None,
) -> np.ndarray | None:
    kind = comparable(set(target), set(reference))
    if kind is None:
        return None
    names = [sorted(set(target) & set(reference))] * 2 if kind == "blocked" else [sorted(target), sorted(reference)]
    counts = np.stack([side[name] for side, mine in zip((target, reference), names, strict=True) for name in mine])
    side = np.repeat([1, 0], [len(mine) for mine in names])
    block = np.tile(np.arange(len(names[0])), 2) if kind == "blocked" else np.zeros(len(side), int)
    size = None
    if n_cells is not None:
        size = np.array([of[name] for of, mine in zip(n_cells, names, strict=True) for name in mine], dtype=float)
    return quasi_likelihood_test(counts.astype(float), side, block, size)


def false_discovery_rate(p: np.ndarray) -> np.ndarray:
    """Benjamini & Hochberg (1995); NaN stays NaN."""
    out, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        out[known] = stats.false_discovery_control(p[known])
    return out
