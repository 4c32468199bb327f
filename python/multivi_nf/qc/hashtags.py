"""Which donor each cell came from, by its hashtags: HashSolo through scanpy; cells of two tags are doublets."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf.counts.hashtags import one_tag
from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import meeting
from multivi_nf.qc.checked import Checked
from multivi_nf.qc.doublets import expected_rate
from multivi_nf.qc.summary import Flagged, Hashtags

Values = Sequence[object] | np.ndarray

LEAST_CELLS = 20
"""Fewest cells to fit the two distributions of each tag to."""

NEGATIVE = 0.01
"""Prior share of cells without a tag, HashSolo's own."""

COLUMNS = ("hashtag", "hashtag_class", "hashtag_probability")


@dataclass
class Demultiplexed:
    """Tags of the cells of one sample.

    Attributes
    ----------
    table
        One row a barcode: `hashtag` (of singlets, else missing), `hashtag_class` (`singlet`, `doublet`, `negative`),
        `hashtag_probability` (of that class).
    notes, warnings
        What the user should know.
    """

    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def facts(self) -> Hashtags:
        """Numbers for the summary."""
        singlets = self.table["hashtag"].dropna().value_counts().sort_index()
        return Hashtags(self.table["hashtag_class"].value_counts().to_dict(), singlets.to_dict())


def demultiplex(tags: ad.AnnData, sample: str) -> Demultiplexed:
    """Call each cell's tag with HashSolo (Bernstein et al., Cell Systems 2020), as scanpy has it.

    The prior of doublets is the rate that 10x Genomics state for so many cells, at least 5 %. With two tags the lower
    one of each cell is the noise; of more, all but the two highest.

    Parameters
    ----------
    tags
        Cells × tags, whole numbers (:func:`multivi_nf.counts.hashtags.read_hashtags`).
    sample
        Its name, for messages.

    Raises
    ------
    InputError
        Fewer than two tags have counts: there is nothing to tell apart.
    """
    counts = np.asarray(tags.X.todense() if hasattr(tags.X, "todense") else tags.X, dtype=np.int64)
    seen = counts.sum(axis=0) > 0
    names = tags.var_names.to_numpy()
    notes = []
    if (~seen).any():
        notes.append(f"hashtags without a count are left out: {', '.join(names[~seen][:5])}")
        counts, names = counts[:, seen], names[seen]
    n, k = counts.shape
    if k < 2:
        raise one_tag(sample, names.tolist())
    tagged = counts.sum(axis=1) > 0
    if int(tagged.sum()) < LEAST_CELLS:
        table = _table(tags.obs_names, [None] * n, ["unknown"] * n, np.full(n, np.nan))
        few = f"{int(tagged.sum())} cells with hashtags, at least {LEAST_CELLS} are needed"
        return Demultiplexed(table, [*notes, f"hashtags not told apart: {few}"])
    doublet = max(expected_rate(n), 0.05)
    kind, probability = _hashsolo(counts[tagged], (NEGATIVE, 1 - NEGATIVE - doublet, doublet))
    best = names[counts[tagged].argmax(axis=1)]
    classes = np.full(n, "negative", dtype=object)
    classes[tagged] = np.array(["negative", "singlet", "doublet"], dtype=object)[kind]
    certain = np.ones(n)
    certain[tagged] = probability
    chosen = np.full(n, None, dtype=object)
    chosen[tagged] = np.where(kind == 1, best, None)
    found = Demultiplexed(_table(tags.obs_names, chosen, classes, certain), notes)
    _judge(found, names, sample)
    return found


def _hashsolo(counts: np.ndarray, priors: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Class (0 negative, 1 singlet, 2 doublet) of each cell and its probability."""
    from scanpy.external.pp import hashsolo

    columns = [f"tag{i}" for i in range(counts.shape[1])]
    frame = pd.DataFrame(counts, columns=columns, index=[f"c{i}" for i in range(len(counts))])
    data = ad.AnnData(np.zeros((len(counts), 1), np.float32), obs=frame)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        hashsolo(data, columns, priors=priors, number_of_noise_barcodes=1 if counts.shape[1] == 2 else None)
    names = ("negative_hypothesis_probability", "singlet_hypothesis_probability", "doublet_hypothesis_probability")
    probability = data.obs[list(names)].to_numpy(float)
    if not np.isfinite(probability).all():  # a tag whose counts are all alike has no spread to fit
        probability = _by_share(counts)
    kind = probability.argmax(axis=1)
    return kind, probability[np.arange(len(kind)), kind]


def _by_share(counts: np.ndarray) -> np.ndarray:
    """Certain classes by the share of the highest tag, where the distributions cannot be fitted."""
    ordered = np.sort(counts, axis=1)[:, ::-1]
    top = ordered[:, 0] / np.maximum(counts.sum(axis=1), 1)
    second = ordered[:, 1] / np.maximum(counts.sum(axis=1), 1)
    doublet = second > 0.25
    singlet = ~doublet & (top > 0.5)
    return np.column_stack([~singlet & ~doublet, singlet, doublet]).astype(float)


def _table(index: pd.Index, hashtag: Values, classes: Values, probability: np.ndarray) -> pd.DataFrame:
    columns = dict(zip(COLUMNS, (np.asarray(hashtag, dtype=object), np.asarray(classes, dtype=object), probability)))
    return pd.DataFrame(columns, index=index)


def _judge(found: Demultiplexed, names: np.ndarray, sample: str) -> None:
    classes = found.table["hashtag_class"]
    told = ", ".join(f"{name} {n}" for name, n in found.facts().singlets.items())
    others = f"{(classes == 'doublet').sum()} doublets, {(classes == 'negative').sum()} without a tag"
    found.notes.append(f"hashtags: {told}; {others}")
    lost = (classes != "singlet").mean()
    if lost > 0.5:
        found.warnings.append(
            f"sample {sample!r}: {lost:.0%} of its cells are no singlets by their hashtags; was the staining weak, or "
            "is it the file of another sample?"
        )
    absent = [name for name in names if name not in found.facts().singlets]
    if absent:
        found.warnings.append(f"sample {sample!r}: no cell is a singlet of {', '.join(absent[:5])}")


def add_hashtags(checked: Checked, found: Demultiplexed) -> None:
    """Put tags into a sample's QC: columns of `obs` and of the table, `donor`, and the doublet flag.

    Parameters
    ----------
    checked
        Changed in place. `obs` gains the columns of `found.table`, and `donor` (the tag of singlets) unless it has one;
        doublets by tag are flagged as doublets of the modality too, so that `--remove_doublets` takes them.
    found
        Of :func:`demultiplex`. Its barcodes may lack a suffix or prefix that the cells have.
    """
    met = meeting(checked.table.index.tolist(), found.table.index)
    names = [met[0].get(name, name) for name in checked.table.index] if met else checked.table.index
    rows = found.table.reindex(names).set_axis(checked.table.index, axis=0)
    known = int(rows["hashtag_class"].notna().sum())
    if known == 0:
        raise InputError(
            f"sample {checked.summary.sample!r}: none of the {len(rows)} cells (e.g. {rows.index[0]!r}) has hashtags "
            f"(e.g. {found.table.index[0]!r})",
            "no cell would get a donor",
            "name this sample's hashtags in the column hto, with barcodes spelled as in the other matrices",
        )
    flag = f"{checked.summary.modality}_doublet"
    doublet = (rows["hashtag_class"] == "doublet").to_numpy()
    checked.table[flag] = doublet | (checked.table[flag].astype(bool) if flag in checked.table else False)
    for column in ("hashtag", "hashtag_class", "hashtag_probability"):
        checked.table[column] = rows[column]
    kept = rows.loc[checked.cells.obs_names]
    checked.cells.obs[flag] = checked.table.loc[checked.cells.obs_names, flag].to_numpy(bool)
    for column in ("hashtag", "hashtag_class"):
        checked.cells.obs[column] = pd.Categorical(kept[column])
    checked.cells.obs["hashtag_probability"] = kept["hashtag_probability"].to_numpy(float)
    notes = list(found.notes)
    if "donor" in checked.cells.obs:
        notes.append("the cells have a column donor already; hashtags are in the column hashtag only")
    else:
        checked.cells.obs["donor"] = pd.Categorical(kept["hashtag"])
    if known < len(rows):
        notes.append(f"{len(rows) - known} of {len(rows)} cells are not among the hashtags' barcodes")
    summary = checked.summary
    summary.hashtags = found.facts()
    summary.notes += notes
    summary.warnings += found.warnings
    summary.doublets = summary.doublets or Flagged(0, None, "")
    summary.doublets.flagged = int(checked.cells.obs[flag].sum())
    summary.doublets.by_hashtag = int((kept["hashtag_class"] == "doublet").sum())
