"""Which features the mosaic has, and where each part's columns go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.counts.features import is_ensembl, species_of
from multivi_nf.errors import Damaged, InputError
from multivi_nf.inputs.genome import built_in_genes
from multivi_nf.io.limits import read_tsv
from multivi_nf.mosaic.names import Aliases, met_by_spelling, protein_keys, symbol_keys
from multivi_nf.mosaic.parts import Part

LEAST_CELLS = 10
"""A feature needs this many cells, whatever the fraction (in a modality that has at least as many)."""


@dataclass
class Features:
    """Features of one modality.

    Attributes
    ----------
    var
        Table, index = names in the mosaic.
    target
        Per part (by its place in the list of parts of the modality) the new column of each old one, −1 = left out.
    facts
        What to record: numbers in and out, by what matched.
    notes
        What the user should know.
    panel
        Proteins only: part × feature, whether the part's antibodies include it.
    """

    var: pd.DataFrame
    target: list[np.ndarray]
    facts: dict
    notes: list[str] = field(default_factory=list)
    panel: np.ndarray | None = None

    def project(self, place: int, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Bring the columns of a part into the mosaic's order; old columns with the same target are added up."""
        target = self.target[place]
        old = np.flatnonzero(target >= 0)
        fold = sparse.csr_matrix(
            (np.ones(len(old), dtype=np.int32), (old, target[old])), shape=(len(target), len(self.var))
        )
        result = (counts @ fold).tocsr()
        result.sort_indices()
        return result

    def keep(self, chosen: np.ndarray) -> None:
        """Keep only the features where `chosen` is True."""
        new = np.where(chosen, np.cumsum(chosen) - 1, -1)
        self.target = [np.where(t >= 0, new[t], -1) for t in self.target]
        self.var = self.var[chosen]
        if self.panel is not None:
            self.panel = self.panel[:, chosen]


def shared_genes(parts: Sequence[Part], min_shared: float, aliases: Aliases | None = None) -> Features:
    """Intersect the genes of all samples: by Ensembl id, or by symbol where a sample has only symbols.

    Raises
    ------
    InputError
        The shared genes are fewer than `min_shared` of the smallest sample's; names examples, and the species if they
        differ.
    """
    with_ids = [has_ids(part.var.index) for part in parts]
    by = "id" if all(with_ids) else "symbol"
    keys = gene_keys([part.var.index.tolist() for part in parts], [_symbols(part) for part in parts], by, aliases)
    shared = _intersection(keys)
    sizes = [len(set(k)) for k in keys]
    check_shared([part.sample for part in parts], keys, sizes, len(shared), by, min_shared)
    place = {key: index for index, key in enumerate(shared)}
    target = [np.array([place.get(key, -1) for key in k], dtype=np.int64) for k in keys]
    names = _gene_names(parts, with_ids, target, shared)
    symbols = _first_of(parts, target, len(shared), "symbol")
    var = pd.DataFrame({"symbol": symbols}, index=pd.Index(names, dtype=object))
    notes = []
    for part, size in zip(parts, sizes):
        if size > len(shared):
            notes.append(
                f"{part.sample}: {size - len(shared)} of {size} genes are not in all samples and were left out"
            )
    facts = {"by": by, "in": {p.sample: s for p, s in zip(parts, sizes)}, "shared": len(shared)}
    return Features(var, target, facts, notes)


def has_ids(names: Sequence[str]) -> bool:
    """Tell whether most names are Ensembl ids."""
    sample = names[:2000]
    return sum(map(is_ensembl, sample)) > len(sample) / 2


def _symbols(part: Part) -> list[str]:
    return part.var["symbol"].astype(str).tolist()


def gene_keys(
    ids: Sequence[list[str]], symbols: Sequence[list[str]], by: str, aliases: Aliases | None = None
) -> list[list[str]]:
    """By what genes of several samples are matched: their ids, or their symbols without what made them unique.

    By symbol, a gene of which a sample gives the id only takes the symbol that another sample has for it, or the human
    gene table of the package.
    """
    return [list(own) for own in ids] if by == "id" else symbol_keys(_symbols_for(ids, symbols), aliases)


def _symbols_for(ids: Sequence[list[str]], symbols: Sequence[list[str]]) -> list[list[str]]:
    bare = {name for own in symbols for name in own if is_ensembl(name)}
    if not bare:
        return [list(own) for own in symbols]
    pairs = [zip(own, named) for own, named in zip(ids, symbols)]
    known = {i: s for pair in pairs for i, s in pair if is_ensembl(i) and not is_ensembl(s)}
    if any(name.startswith("ENSG") and name not in known for name in bare):
        genes = built_in_genes("hg38")
        known = dict(zip(genes["id"], genes["symbol"])) | known
    return [[known.get(name, name) for name in own] for own in symbols]


def _intersection(keys: list[list[str]]) -> list[str]:
    common = set(keys[0]).intersection(*map(set, keys[1:]))
    return [key for key in dict.fromkeys(keys[0]) if key in common]


def check_shared(
    samples: Sequence[str], keys: Sequence[Sequence[str]], sizes: Sequence[int], shared: int, by: str, min_shared: float
) -> None:
    """Refuse samples that have too few genes in common, with examples and, where they differ, the species."""
    smallest = min(sizes)
    if shared and shared >= min_shared * smallest:
        return
    species = {sample: species_of(k) for sample, k in zip(samples, keys)}
    known = {s for s in species.values() if s}
    examples = "; ".join(f"{sample} {', '.join(list(k)[:3])}" for sample, k in list(zip(samples, keys))[:4])
    if len(known) > 1:
        told = ", ".join(f"{sample}: {s}" for sample, s in species.items() if s)
        remedy = f"the samples are of different species ({told}): run each species by itself"
    else:
        remedy = (
            "give matrices of one annotation and one kind of names (Ensembl ids), or lower --min_shared_genes if these "
            "samples are meant to share so little"
        )
    raise InputError(
        f"{len(samples)} samples share {shared} genes by {by}, {shared / smallest:.0%} of the smallest sample's "
        f"{smallest}; --min_shared_genes is {min_shared:g} (examples: {examples})",
        "the model sees only genes that all samples have; with so few the samples could not be compared",
        remedy,
    )


def _first_of(parts: Sequence[Part], target: list[np.ndarray], n: int, column: str) -> np.ndarray:
    values = np.full(n, None, dtype=object)
    for part, t in zip(parts, target):
        own = part.var[column].astype(str).to_numpy() if column in part.var else part.var.index.to_numpy()
        at = np.flatnonzero(t >= 0)
        new = at[pd.isna(values[t[at]])]
        values[t[new][::-1]] = own[new][::-1]  # the first of several old columns wins
    return values


def _gene_names(parts: Sequence[Part], with_ids: list[bool], target: list[np.ndarray], shared: list[str]) -> list[str]:
    """Names in the mosaic: the Ensembl id of the first sample that has one, else the key itself."""
    names = np.array(shared, dtype=object)
    for part, has, t in reversed(list(zip(parts, with_ids, target))):
        if has:
            at = np.flatnonzero(t >= 0)[::-1]
            names[t[at]] = part.var.index.to_numpy()[at]
    return names.tolist() if len(set(names)) == len(names) else list(shared)


def one_peak_set(parts: Sequence[Part]) -> Features:
    """Take the peaks, which all parts must share; their order may differ.

    Raises
    ------
    InputError
        Two samples have different peaks.
    """
    first = parts[0].var.index
    place = {name: index for index, name in enumerate(first)}
    target = []
    for part in parts:
        other = part.var.index
        if len(other) != len(first) or not all(name in place for name in other):
            raise different_peaks(parts[0].sample, first, part.sample, other)
        target.append(np.array([place[name] for name in other], dtype=np.int64))
    columns = [c for c in ("symbol", "chrom", "start", "end") if c in parts[0].var]
    var = parts[0].var[columns].copy()
    if "symbol" not in var:
        var.insert(0, "symbol", var.index)
    strategies = sorted({part.strategy for part in parts})
    told = f"peaks were counted differently ({', '.join(strategies)}); only 0/1 is modelled"
    notes = [told] if len(strategies) > 1 else []
    return Features(var, target, {"peaks": len(first), "counting_strategy": strategies}, notes)


def different_peaks(one: str, first: Sequence[str], two: str, second: Sequence[str]) -> InputError:
    """Word the refusal of two peak sets."""
    shared = len(set(first) & set(second))
    return InputError(
        f"samples {one!r} ({len(first)} peaks, e.g. {first[0]}) and {two!r} ({len(second)} peaks, e.g. {second[0]}) "
        f"have different peaks; {shared} are equal",
        "a peak that only one sample was counted on would be 0 in all cells of the other: a batch effect made by hand",
        "give fragments of these samples (column fragments), which are counted on one set; or matrices counted on one",
    )


def united_proteins(parts: Sequence[Part], aliases: Aliases | None = None) -> Features:
    """Unite the proteins of all samples, in order of first appearance; isotype controls are left out.

    One antibody under several spellings (:func:`multivi_nf.mosaic.names.protein_key`) is one protein, named as in the
    sample that has it first.
    """
    controls = {
        name for part in parts if "isotype" in part.var for name in part.var.index[part.var["isotype"].astype(bool)]
    }
    own = [[name for name in part.var.index if name not in controls] for part in parts]
    keys = protein_keys(own, aliases)
    spelled: dict[str, str] = {}
    for names, found in zip(own, keys):
        for name, key in zip(names, found):
            spelled.setdefault(key, name)
    first = [{name: spelled[key] for name, key in zip(names, found)} for names, found in zip(own, keys)]
    names = list(dict.fromkeys(spelled.values()))
    if not names:
        raise InputError("all proteins are isotype controls", "nothing would be left to model", "leave protein out")
    place = {name: index for index, name in enumerate(names)}
    target = [
        np.array([place[meant[name]] if name in meant else -1 for name in part.var.index], dtype=np.int64)
        for part, meant in zip(parts, first)
    ]
    panel = np.zeros((len(parts), len(names)), dtype=bool)
    for row, t in enumerate(target):
        panel[row, t[t >= 0]] = True
    var = pd.DataFrame({"symbol": _first_of(parts, target, len(names), "symbol")}, index=pd.Index(names, dtype=object))
    facts = {"proteins": len(names), "isotype_controls": sorted(controls)}
    shared = int(panel.all(axis=0).sum())
    facts |= {"in": {part.sample: len(mine) for part, mine in zip(parts, own)}, "shared": shared}
    notes = [f"proteins: {len(names)} in all, {shared} in every sample's panel"] if shared < len(names) else []
    notes += told_spellings(met_by_spelling(own, keys))
    return Features(var, target, facts, notes, panel)


def told_spellings(met: dict[str, list[str]]) -> list[str]:
    """Tell which proteins were taken as one under several spellings."""
    if not met:
        return []
    shown = "; ".join(" = ".join(spellings) for spellings in list(met.values())[:5])
    return [f"proteins: {len(met)} met under other spellings ({shown}{'; ...' if len(met) > 5 else ''})"]


PANEL_CELLS = 10
"""Cells of a batch from which on an antibody without any count is one that was not in the panel."""


def stained(counts: sparse.csr_matrix, batch: np.ndarray) -> dict[str, np.ndarray]:
    """Tell which proteins have a count in each batch of one matrix; in batches of few cells all count as measured.

    An antibody that was in the mix binds some cell unspecifically: without a single count it was not in it.

    Parameters
    ----------
    counts
        Cells × proteins.
    batch
        Batch of each cell, text.
    """
    found = {}
    for name in dict.fromkeys(batch):
        rows = np.flatnonzero(batch == name)
        detected = np.asarray(counts[rows].sum(axis=0)).ravel() > 0
        found[name] = detected if len(rows) >= PANEL_CELLS else np.ones(counts.shape[1], dtype=bool)
    return found


def batch_panel(features: Features, parts: Sequence[Part], batches: Sequence[str]) -> pd.DataFrame:
    """Make the batch × protein table; samples of one batch must have one panel.

    A file that holds several batches may have one matrix for all: there a protein without any count in a batch is not
    in its panel.

    Raises
    ------
    InputError
        Two samples of one batch were stained with different panels.
    """
    table = pd.DataFrame(False, index=pd.Index(list(batches), name="batch"), columns=features.var.index)
    first: dict[str, tuple[str, np.ndarray]] = {}
    rows = [
        (part, batch, row & seen)
        for place, (part, row) in enumerate(zip(parts, [] if features.panel is None else features.panel))
        for batch, seen in _seen(features, place, part).items()
    ]
    for part, batch, row in rows:
        if batch in first and not np.array_equal(first[batch][1], row):
            other, known = first[batch]
            name = features.var.index[np.flatnonzero(known != row)[0]]
            raise InputError(
                f"samples {other!r} and {part.sample!r} of batch {batch!r} differ in proteins, e.g. {name!r}",
                "which proteins were measured is known per batch; not measured would be taken for 0",
                "give the two samples different values in the column batch",
            )
        first.setdefault(batch, (part.sample, row))
        table.loc[batch] = row
    return table


def _seen(features: Features, place: int, part: Part) -> dict[str, np.ndarray]:
    batch = part.batch[part.keep]
    names = list(dict.fromkeys(batch))
    if len(names) < 2:
        return {name: np.ones(len(features.var), dtype=bool) for name in names}
    return stained(features.project(place, part.counts()), batch)


def cells_needed(n_cells: int, fraction: float) -> int:
    """Cells that must have a feature: the fraction of the cells with the modality, and at least 10.

    A modality of fewer than 10 cells cannot ask for 10: there one cell is enough.
    """
    floor = LEAST_CELLS if n_cells >= LEAST_CELLS else 1
    return max(floor, math.ceil(fraction * n_cells - 1e-9))


def reference_features(parts: Sequence[Part], modality: str, table: pd.DataFrame, min_shared: float) -> Features:
    """Bring parts to the features of a trained model, in its order.

    Genes by id, or by symbol where either side has only symbols; genes the samples lack are filled with 0, as in
    scArches (Lotfollahi et al., Nat Biotechnol 2022), and said. Peaks must all be there. Proteins that were
    not measured are outside the panel.

    Parameters
    ----------
    table
        Rows of the model's `features.tsv` for this modality: `feature`, `symbol`.
    """
    wanted = table["feature"].astype(str).tolist()
    notes, target = [], []
    for part in parts:
        own = part.var.index.tolist()
        place = {name: index for index, name in enumerate(wanted)}
        if modality == "rna" and has_ids(wanted) != has_ids(part.var.index):
            own = part.var["symbol"].astype(str).tolist()
            place = {name: index for index, name in reversed(list(enumerate(table["symbol"].astype(str))))}
        if modality == "protein":
            model_keys, own = protein_keys([wanted, own])
            place = {key: index for index, key in enumerate(model_keys)}
        t = np.array([place.get(name, -1) for name in own], dtype=np.int64)
        found = len(set(t[t >= 0].tolist()))
        lost = len(wanted) - found
        least = {"rna": min_shared, "atac": 1.0, "protein": 0.0}[modality]
        if found < least * len(wanted) or found == 0:
            missing = next(name for name, index in place.items() if index not in set(t.tolist()))
            raise InputError(
                f"sample {part.sample!r} has {found} of the model's {len(wanted)} {modality} features (not {missing})",
                "the model can only read what it was trained on",
                "give fragments, which are counted on the model's peaks"
                if modality == "atac"
                else "give a matrix of the same species and annotation, or lower --min_shared_genes",
            )
        if lost:
            how = "taken as not measured" if modality == "protein" else "filled with 0"
            notes.append(f"{part.sample}: {lost} of the model's {len(wanted)} {modality} features are missing, {how}")
        target.append(t)
    symbols = table["symbol"].astype(str).to_numpy() if "symbol" in table else np.array(wanted, dtype=object)
    var = pd.DataFrame({"symbol": symbols}, index=pd.Index(wanted, dtype=object))
    panel = None
    if modality == "protein":
        panel = np.zeros((len(parts), len(wanted)), dtype=bool)
        for row, t in enumerate(target):
            panel[row, t[t >= 0]] = True
    return Features(var, target, {"by": "reference", "features": len(wanted)}, notes, panel)


def read_reference(model: Path) -> pd.DataFrame:
    """Read `features.tsv` of a trained model: `modality`, `feature`, `symbol`."""
    path = Path(model) / "features.tsv"
    if not path.is_file():
        why = "the genes, peaks and proteins of the model are not known"
        raise InputError(f"{model} has no features.tsv", why, "give the folder model/ of a finished run")
    table = read_tsv(path, dtype=str, keep_default_na=False)
    missing = [c for c in ("modality", "feature") if c not in table]
    if missing:
        what = f"lacks the column(s) {', '.join(missing)}"
        raise Damaged(path, what, "it is no list of features", "give the folder model/ of a finished run")
    return table
