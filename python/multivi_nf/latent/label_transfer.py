"""Labels for unlabelled cells from labelled ones near them, with probabilities checked on labels that were hidden.

Votes of the 15 nearest labelled cells choose a label; its probability is a line in the logit of its share of votes
(Platt 1999), fitted where the truth is known: labelled cells of batches (or of folds) whose labels are hidden, seen
through the modalities that the unlabelled cells show. A cell gets no label where this cannot be checked, where it does
no better than the labels' frequencies, out of support, or among cells of which none has a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from multivi_nf.data.draws import cell_keys
from multivi_nf.errors import InputError, option
from multivi_nf.latent.label_probabilities import Line, reliability_of, scores
from multivi_nf.modalities import MODALITIES
from multivi_nf.reduction import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

NEIGHBOURS = 15
FOLDS = 5
LEAST_CHECKED = 30
"""Cells of known label below which probabilities are not fitted."""
MOST_CHECKED = 4000
ALONE = (30, 200)
"""Least and most neighbours of any kind among which labelled cells are looked for."""
EXPECTED_LABELLED = 10


@dataclass
class Transferred:
    """Labels of all cells.

    Attributes
    ----------
    label
        (n_cells,) text, None where unknown.
    probability
        (n_cells,) of the label; 1 where it was given, NaN where unknown.
    record
        For the report: `column`, `n_labelled`, `n_transferred`, `n_unknown` by reason, and by what cells show
        `checked` ("atac": `n`, `brier`, `brier_prior`, `accuracy`, `ece`, `reliability`, and the first four of each
        batch whose labels were hidden, as `batches`); `notes`.
    """

    label: np.ndarray
    probability: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)


def transfer_labels(
    latent: np.ndarray,
    obs: pd.DataFrame,
    column: str,
    by_modality: Mapping[str, np.ndarray] | None = None,
    outside: np.ndarray | None = None,
    held: np.ndarray | None = None,
    seed: int = 0,
) -> Transferred:
    """Label the cells that have no value in a column.

    Parameters
    ----------
    latent
        (n_cells, n_latent) joint means.
    obs
        Their table; `batch` and `has_<modality>` are used where there.
    column
        Its labels; empty, Unknown, nan, NA and unassigned are none.
    by_modality
        Modality to (n_cells, n_latent) means of its own view, NaN where not measured.
    outside
        (n_cells,) out of support.
    held
        (n_cells,) kept from training: the views of a pair that the model was trained on agree better than others do.
    seed
        Of the folds.

    Raises
    ------
    InputError
        No such column, or no cell with a label.
    """
    from multivi_nf.inputs.contrasts import group_labels
    from multivi_nf.inputs.labels import unlabelled

    given = group_labels(obs, column)
    known = ~unlabelled(given)
    if not known.any():
        raise InputError(
            f"no cell has a value in obs[{column!r}]",
            "labels can only be transferred from cells that have one",
            f"fill the column for some samples in the samplesheet, or leave {option('labels')} out",
        )
    names, codes = np.unique(given[known].to_numpy(str), return_inverse=True)
    label = np.full(len(given), None, dtype=object)
    label[known] = given[known].to_numpy(object)
    found = Transferred(label, np.where(known, 1.0, np.nan))
    found.record = {"column": column, "labels": names.tolist(), "n_labelled": int(known.sum())}
    found.record |= {"n_transferred": 0, "n_unknown": {}, "checked": {}, "notes": []}
    if known.all():
        found.record["notes"].append(
            f"every cell has a value in {column!r}: no label was transferred; cells without one are empty, Unknown, NA "
            "or unassigned"
        )
        return found
    if len(names) < 2 or known.sum() < 2:
        what = f"one label ({names[0]})" if known.sum() > 1 else "one labelled cell"
        found.record["notes"].append(
            f"{column!r} has {what} only: whatever is transferred would be this one, so none is"
        )
        found.record["n_unknown"]["one label only"] = int((~known).sum())
        return found
    code = np.full(len(obs), -1)
    code[known] = codes
    _Transfer(latent, obs, code, names, by_modality or {}, (outside, held), seed).fill(found)
    return found


@dataclass
class _Fit:
    """What cells of known label say of one kind of cells.

    Attributes
    ----------
    line
        From votes to probabilities.
    record
        For the report.
    """

    line: Line
    record: dict[str, Any]

    @property
    def is_chance(self) -> bool:
        """Labels are no better than their frequencies."""
        return bool(self.record["brier"] >= self.record["brier_prior"])


class _Transfer:
    """One column's labelled cells, and the unlabelled ones by what they show."""

    def __init__(
        self,
        latent: np.ndarray,
        obs: pd.DataFrame,
        code: np.ndarray,
        names: np.ndarray,
        by_modality: Mapping[str, np.ndarray],
        masks: tuple[np.ndarray | None, np.ndarray | None],
        seed: int,
    ) -> None:
        self.latent, self.code, self.names, self.views = latent, code, names, by_modality
        self.known = code >= 0
        self.outside, self.held = (np.zeros(len(code), bool) if mask is None else mask for mask in masks)
        self.shown = _shown(obs)
        self.batch = obs["batch"].astype(str).to_numpy() if "batch" in obs else np.full(len(obs), "")
        self.key = cell_keys(obs.index.astype(str), seed, "labels")
        self.prior = np.bincount(code[self.known], minlength=len(names)) / self.known.sum()

    def fill(self, found: Transferred) -> None:
        """Labels and probabilities of all unlabelled cells, and why others stay unknown."""
        record, lost = found.record, found.record["n_unknown"]
        strange = ~self.known & self._without_labelled()
        for kind in np.unique(self.shown[~self.known]):
            cells = np.flatnonzero(~self.known & (self.shown == kind))
            fit = self._fit(kind)
            if fit is not None:
                record["checked"][str(kind)] = fit.record
            if fit is None or fit.is_chance:
                why = "not checked" if fit is None else "at chance"
                lost[why] = lost.get(why, 0) + len(cells)
                record["notes"].append(_why_not(str(kind), fit))
                continue
            for reason, gone in (("out of support", self.outside), ("no labelled cell like them", strange)):
                n = int(gone[cells].sum())
                if n:
                    lost[reason] = lost.get(reason, 0) + n
                cells = cells[~gone[cells]]
            votes = self._votes(self.latent[cells], self.known)
            found.label[cells] = self.names[votes.argmax(axis=1)]
            found.probability[cells] = fit.line.right(votes)
            record["n_transferred"] += len(cells)

    # ------------------------------------------------------------------------------------------------ votes

    def _votes(self, places: np.ndarray, among: np.ndarray) -> np.ndarray:
        """(n, n_labels) shares of votes: each of the nearest labelled cells votes exp(-d^2 / (2 s^2)).

        s is the distance to the third of them; one vote is spread by the labels' frequencies.
        """
        votes = np.tile(self.prior, (len(places), 1))
        rows = np.flatnonzero(among)
        if len(places):
            index, distance = nearest(places, self.latent[rows], NEIGHBOURS)
            scale = np.maximum(distance[:, min(2, distance.shape[1] - 1)], 1e-6)[:, None]
            weight = np.exp(-0.5 * (distance / scale) ** 2)
            np.add.at(votes, (np.arange(len(places))[:, None], self.code[rows[index]]), weight)
        return votes / votes.sum(axis=1, keepdims=True)

    def _without_labelled(self) -> np.ndarray:
        """(n_cells,) fewer than a tenth of the labelled cells expected among a cell's neighbours of any kind."""
        share = self.known.mean()
        k = int(np.clip(np.ceil(EXPECTED_LABELLED / share), *ALONE))
        k = min(k, len(self.latent) // 4)
        if k * share < EXPECTED_LABELLED / 2:
            return np.zeros(len(self.latent), bool)
        index, _ = nearest(self.latent, self.latent, k, same=True)
        return self.known[index].mean(axis=1) < 0.1 * share

    # ------------------------------------------------------------------------------------------------ checking

    def _fit(self, kind: str) -> _Fit | None:
        """How votes become probabilities in one kind of cells, and scores on cells that took no part in fitting it."""
        votes, truth, cells = self._checked(kind)
        if len(truth) < LEAST_CHECKED:
            return None
        odd = self.key[cells] % np.uint64(2) == 1
        hit = votes.argmax(axis=1) == truth
        p = np.empty_like(votes)
        for mine in (odd, ~odd):
            p[mine] = Line.fit(votes[~mine].max(axis=1), hit[~mine]).probabilities(votes[mine])
        one_hot = np.eye(len(self.names))[truth]
        curve, ece = reliability_of(p[np.arange(len(p)), votes.argmax(axis=1)], hit)
        batches = {}
        if self._by_batch(np.sort(cells)):
            batch = self.batch[cells]
            names, sizes = np.unique(batch, return_counts=True)
            batches = {str(b): scores(p[batch == b], one_hot[batch == b]) for b in names[sizes >= LEAST_CHECKED]}
        record: dict[str, Any] = {**scores(p, one_hot), "ece": ece, "reliability": curve, "batches": batches}
        return _Fit(Line.fit(votes.max(axis=1), hit), record)

    def _checked(self, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Votes on cells of known label as if they had none and showed only `kind`; their labels and positions."""
        places, truth = self._seen_as(kind)
        cells = np.flatnonzero(truth >= 0)
        cells = cells[np.argsort(self.key[cells], kind="stable")[:MOST_CHECKED]]
        votes, kept = [], []
        for hidden in self._folds(cells):
            among = self.known & ~np.isin(np.arange(len(self.code)), hidden)
            if self._by_batch(cells):
                among &= ~np.isin(self.batch, np.unique(self.batch[hidden]))
            there = np.isin(truth[hidden], np.unique(self.code[among]))
            hidden = hidden[there]
            if len(hidden) and among.sum() >= 2:
                votes.append(self._votes(places[hidden], among))
                kept.append(hidden)
        if not kept:
            return np.zeros((0, len(self.names))), np.zeros(0, int), np.zeros(0, int)
        joined = np.concatenate(kept)
        return np.concatenate(votes), truth[joined], joined

    def _seen_as(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Places of cells by `kind` alone, and their labels (-1: none, or not measured so).

        Unlabelled cells that show `kind` and what labelled cells show have, by the latter, a label to compare with.
        """
        wanted = set(kind.split("+"))
        shows = np.array([wanted <= set(one.split("+")) for one in self.shown], bool)
        places, truth = self.latent, np.where(shows, self.code, -1)
        if len(wanted) == 1 and kind in self.views:
            view = np.asarray(self.views[kind])
            there = shows & np.isfinite(view).all(axis=1)
            places, truth = np.where(there[:, None], view, self.latent), np.where(there, truth, -1)
        else:
            truth = np.where(self.shown == kind, truth, -1)
            return places, truth
        if (truth >= 0).sum() < LEAST_CHECKED:
            labelled = set().union(*(set(one.split("+")) for one in np.unique(self.shown[self.known])))
            bridge = there & np.array([bool((set(one.split("+")) - wanted) & labelled) for one in self.shown])
            cells = np.flatnonzero(bridge & ~self.known)
            other = sorted(labelled - wanted)
            if len(cells) >= LEAST_CHECKED and other[0] in self.views:
                other_view = np.asarray(self.views[other[0]])[cells]
                seen = np.isfinite(other_view).all(axis=1)
                truth[cells[seen]] = self._votes(other_view[seen], self.known).argmax(axis=1)
        # the two views of a pair that was trained on agree better than those of the cells in question would
        apart = (truth >= 0) & (self.held | (self.shown == kind))
        return places, np.where(apart, truth, -1) if apart.sum() >= LEAST_CHECKED else truth

    def _by_batch(self, cells: np.ndarray) -> bool:
        labelled = cells[self.known[cells]]
        sizes = pd.Series(self.batch[labelled]).value_counts()
        return len(labelled) == len(cells) and (sizes >= LEAST_CHECKED).sum() >= 2

    def _folds(self, cells: np.ndarray) -> Iterator[np.ndarray]:
        """Batch by batch where two or more have labels, else five folds by the hash of the cells' names."""
        if self._by_batch(cells):
            for name in np.unique(self.batch[cells]):
                yield cells[self.batch[cells] == name]
            return
        fold = (self.key[cells] // np.uint64(2)) % np.uint64(FOLDS)
        for k in range(FOLDS):
            yield cells[fold == k]


def _shown(obs: pd.DataFrame) -> np.ndarray:
    """(n_cells,) "rna", "rna+atac", ...; "" where the table does not say."""
    has = {m: obs[f"has_{m}"].astype(bool).to_numpy() for m in MODALITIES if f"has_{m}" in obs}
    return np.array(["+".join(m for m in has if has[m][i]) for i in range(len(obs))], dtype=object)


def _why_not(kind: str, fit: _Fit | None) -> str:
    seen = f"cells with {kind} only" if kind else "unlabelled cells"
    if fit is None:
        return (
            f"{seen} got no label: no {LEAST_CHECKED} cells of known label show {kind or 'what they show'}, so that "
            "nothing tells whether labels reach them; pairs would"
        )
    return (
        f"{seen} got no label: on {fit.record['n']:,} cells of known label their transfer is no better than the "
        f"labels' frequencies (Brier score {fit.record['brier']:.2f}, frequencies {fit.record['brier_prior']:.2f})"
    )
