"""Which genes are mitochondrial: by the spelling of their symbols, by their ids, by the species, or as the user says.

Every animal's mitochondrion codes for the same 13 proteins. How their genes are called differs: `MT-ND1` (human),
`mt-Nd1` (mouse), `mt:ND1` (fly), `nduo-1` (worm), `ND1` (pig, macaque and others), `GRCh38_MT-ND1` (two species).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from multivi_nf.errors import InputError

_PREFIXED = re.compile(r"^(?:[A-Za-z0-9.]+_+)?(?:mt[-:._]|mito[-_:])", re.IGNORECASE)
_ALONE = re.compile(r"^(MTCE\.\d|ATMG\d|Q0\d{3}$)")  # gene ids of worm, thale cress and baker's yeast
_WORM = {*(f"nduo-{n}" for n in range(1, 7)), "ndfl-4", "ctc-1", "ctc-2", "ctc-3", "ctb-1", "atp-6"}
_BARE = frozenset("ND1 ND2 ND3 ND4 ND4L ND5 ND6 COX1 COX2 COX3 COI COII COIII CO1 CO2 CO3 ATP6 ATP8 CYTB COB".split())
_JOINED = {f"MT{name}" for name in _BARE} | {"MTCYB"}
LEAST_BARE = 5
"""So many of the 13 names without a prefix must be there: `COX1` alone may be something else."""

_HUMAN = (198695, 198712, 198727, 198763, 198786, 198804, 198840, 198886, 198888, 198899, 198938, 212907, 228253)
_MOUSE = (64341, 64345, 64351, 64354, 64356, 64357, 64358, 64360, 64363, 64367, 64368, 64370, 65947)
MITO_IDS = {*(f"ENSG{n:011d}" for n in _HUMAN), *(f"ENSMUSG{n:011d}" for n in _MOUSE)}
"""Ensembl ids of the 13 mitochondrial proteins of human and mouse, for matrices that have no symbols."""


def mitochondrial(symbols: Sequence[str], ids: Sequence[str], given: str | None = None) -> np.ndarray:
    """Tell which genes are mitochondrial.

    Parameters
    ----------
    symbols, ids
        Of each gene, shape (n_genes,).
    given
        What the user says (`--mito_genes`): names or ids, separated by commas; one that ends in `*` is the beginning of
        names. It replaces all rules.

    Returns
    -------
    Booleans, shape (n_genes,).

    Raises
    ------
    InputError
        A name given that no gene has.
    """
    symbols, ids = [str(s) for s in symbols], [re.sub(r"^[A-Za-z0-9.]+_+(?=ENS)", "", str(i)) for i in ids]
    if given:
        return _given(symbols, ids, given)
    mask = np.array(
        [bool(_PREFIXED.match(s) or _ALONE.match(s) or _ALONE.match(i)) for s, i in zip(symbols, ids)], bool
    )
    mask |= np.array([i.split(".")[0] in MITO_IDS for i in ids], bool)
    if mask.any():
        return mask
    bare = np.array([s.upper() in _BARE or s.upper() in _JOINED or s in _WORM for s in symbols], bool)
    return bare if bare.sum() >= LEAST_BARE else mask


def _given(symbols: list[str], ids: list[str], given: str) -> np.ndarray:
    mask = np.zeros(len(symbols), dtype=bool)
    absent = []
    for word in filter(None, (word.strip() for word in given.split(","))):
        if word.endswith("*"):
            start = word[:-1].lower()
            hit = [s.lower().startswith(start) or i.lower().startswith(start) for s, i in zip(symbols, ids)]
        else:
            hit = [word.lower() in (s.lower(), i.lower()) for s, i in zip(symbols, ids)]
        mask |= np.array(hit, bool)
        absent += [] if any(hit) else [word]
    if absent and not mask.any():
        raise InputError(
            f"--mito_genes names {', '.join(map(repr, absent[:5]))}, which no gene is called (genes are e.g. "
            f"{', '.join(symbols[:3])})",
            "the mitochondrial percentage would be 0 in every cell",
            "give symbols or ids as in the matrix, separated by commas, or a beginning with *, such as mt:*",
        )
    return mask
