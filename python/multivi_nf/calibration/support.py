"""Is an imputed cell like any cell that taught the model this direction? Judged in the source modality's own view.

Distances in the aligned latent space hide many of the cells that are meant: an encoder places a type it never saw
paired near those it did. So each source modality has a view of its own, that no other modality touched: principal
components of log counts (rna, protein) or of TF-IDF (atac), each cell scaled to length one. Two distances are kept per
cell: to its nearest paired cells, and that distance relative to its nearest cells of any kind. The first is large for a
cell unlike all others; the second for a cell whose like is in the data, but never among the pairs. Both are turned into
conformal p-values by held-out pairs, of which the smaller is doubled. Counts of ATAC are often too few for that; the
model's view of them is less noisy, and there pairs are rare (`paired_share`): a p-value of its own. A cell is out of
support where the smaller of the two, doubled, is at most 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from multivi_nf.calibration.paired_share import PairedShare
from multivi_nf.data.draws import blocks, cell_keys
from multivi_nf.data.matrices import as_csr
from multivi_nf.errors import Damaged
from multivi_nf.io.files import written_whole
from multivi_nf.reduction import inverse_frequency, log_levelled, nearest, principal, unit_rows

if TYPE_CHECKING:
    from pathlib import Path

    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

N_COMPONENTS = 30
FIT_CELLS = 10_000
REFERENCE_CELLS = 5_000
SHIFT_CELLS = 1_000
NEIGHBOURS = 15
ROUNDS = 5
SHARE_FLAGGED = 0.05
SHARE = ("places", "paired", "held")


@dataclass
class View:
    """One modality's own space: a linear map of transformed counts.

    Attributes
    ----------
    components
        (n_features, n_components) float32.
    idf
        (n_features,) weight of each peak (atac), else ones.
    """

    modality: str
    components: np.ndarray
    idf: np.ndarray

    @classmethod
    def fit(cls, data: MosaicData, modality: str, cells: np.ndarray) -> View:
        """Truncated singular vectors of the transformed counts; of atac without the first, which is depth."""
        counts = _counts(data, modality, cells)
        idf = inverse_frequency(counts) if modality == "atac" else np.ones(counts.shape[1])
        x = _transformed(counts, modality, idf)
        k = min(N_COMPONENTS + 1, min(x.shape) - 1)
        if k < 2:
            return cls(modality, np.eye(x.shape[1], max(k, 1), dtype=np.float32), idf.astype(np.float32))
        _, vectors = principal(x, k)
        # the first vector of uncentred counts is the mean profile, whose coordinate is the cell's depth
        return cls(modality, vectors[1:].T.astype(np.float32), idf.astype(np.float32))

    def place(self, data: MosaicData, cells: np.ndarray) -> np.ndarray:
        """(n_cells, n_components) coordinates, each cell of length one."""
        out = []
        for part in blocks(len(cells), 2048):
            x = _transformed(_counts(data, self.modality, cells[part]), self.modality, self.idf) @ self.components
            out.append(unit_rows(x))
        return np.concatenate(out) if out else np.zeros((0, self.components.shape[1]))


def _counts(data: MosaicData, modality: str, cells: np.ndarray) -> sparse.csr_matrix:
    parts = [data.minibatch(cells[rows]).modalities[modality].counts for rows in blocks(len(cells), 2048)]
    return sparse.vstack([as_csr(part, np.float64) for part in parts]).tocsr()


def _transformed(counts: sparse.csr_matrix, modality: str, idf: np.ndarray) -> sparse.csr_matrix:
    """log1p of counts per 10^4 (rna), of counts over their row mean (protein), of TF-IDF (atac)."""
    level = {"rna": 1e4, "atac": 1e4, "protein": counts.shape[1]}[modality]
    return log_levelled(counts, level, weight=idf if modality == "atac" else None)


@dataclass
class Reference:
    """What cells of one direction (one source modality -> target) are compared with.

    Attributes
    ----------
    paired, everyone
        (n, n_components) coordinates of paired cells, and of cells of any kind.
    held_distance, held_ratio
        Ascending distances of held-out paired cells.
    shift
        Batch to the (n_components,) offset of its cells from the paired cells nearest to them.
    share
        Neighbours in the model's view; None where no model was given.
    """

    paired: np.ndarray
    everyone: np.ndarray
    held_distance: np.ndarray
    held_ratio: np.ndarray
    shift: dict[str, np.ndarray] = field(default_factory=dict)
    share: PairedShare | None = None


@dataclass
class Support:
    """References of all directions; `level` is the p-value at which a cell is out of support."""

    views: dict[str, View]
    references: dict[str, Reference]
    level: float = SHARE_FLAGGED

    # ------------------------------------------------------------------------------------------------ fitting

    @classmethod
    def fit(
        cls,
        modalities: tuple[str, ...],
        data: MosaicData,
        held: np.ndarray,
        seed: int,
        model: MultiVI | None = None,
    ) -> Support:
        """Build references from the training mosaic; `held` are its calibration cells.

        Without a model cells are judged by their counts alone.
        """
        found = cls({}, {})
        for source in modalities:
            cells = np.flatnonzero(data.has[source])
            if len(cells) < 50:
                continue
            view = View.fit(data, source, _some(data, cells, FIT_CELLS, seed))
            found.views[source] = view
            for target in modalities:
                both = np.flatnonzero(data.has[source] & data.has[target]) if target != source else np.zeros(0, int)
                apart = held[np.isin(held, both)]
                both = np.setdiff1d(both, held)
                if len(both) >= NEIGHBOURS and 2 / (len(apart) + 1) <= found.level:  # the least p-value there is
                    reference = found._reference(data, source, both, apart, seed)
                    if model is not None:
                        anyone = _some(data, np.setdiff1d(cells, apart), REFERENCE_CELLS, seed)
                        places, held_places = (_own_view(model, data, one, source) for one in (anyone, apart))
                        reference.share = PairedShare.fit(places, np.isin(anyone, both), held_places)
                    found.references[f"{source}->{target}"] = reference
        return found

    def _reference(self, data: MosaicData, source: str, both: np.ndarray, apart: np.ndarray, seed: int) -> Reference:
        """What cells of a source are compared with: pairs (`both`), those held out (`apart`), and cells of any kind."""
        view, cells = self.views[source], np.flatnonzero(data.has[source])
        both = _some(data, both, REFERENCE_CELLS, seed)
        everyone = _some(data, np.setdiff1d(cells, apart), REFERENCE_CELLS, seed)
        reference = Reference(view.place(data, both), np.zeros((0, 0)), np.zeros(0), np.zeros(0))
        paired_batches = set(data.source.batch[both].astype(str))
        for batch in sorted(set(data.source.batch[cells].astype(str)) - paired_batches):
            reference.shift[batch] = self._shift(
                data, cells[data.source.batch[cells] == batch], source, reference, seed
            )
        for batch in paired_batches:
            reference.shift[batch] = np.zeros(view.components.shape[1])
        reference.everyone = self._placed(data, everyone, source, reference, seed)
        distance, ratio = self._distances(self._placed(data, apart, source, reference, seed), reference)
        reference.held_distance, reference.held_ratio = np.sort(distance), np.sort(ratio)
        return reference

    def _shift(self, data: MosaicData, cells: np.ndarray, source: str, reference: Reference, seed: int) -> np.ndarray:
        """Offset of a batch in the own view: where its cells lie beside the paired cells nearest to them.

        A few rounds of matching and moving (iterative closest point), each on the half of the cells that matches best:
        types without pairs have no match, and are left out while they are the smaller half. Two estimates from halves
        of the cells tell how much of the offset is noise, by which it is shrunk towards none (James & Stein 1961).
        """
        placed = self.views[source].place(data, _some(data, cells, SHIFT_CELLS, seed))
        estimates = []
        for part in (placed[::2], placed[1::2]) if len(placed) > 1 else (placed, placed):
            shift = np.zeros(placed.shape[1])
            for _ in range(ROUNDS):
                index, distance = nearest(part - shift, reference.paired, NEIGHBOURS)
                best = np.argsort(distance.mean(axis=1), kind="stable")[: max(len(part) // 2, 1)]
                shift = np.median(part[best] - reference.paired[index[best]].mean(axis=1), axis=0)
            estimates.append(shift)
        shift = (estimates[0] + estimates[1]) / 2
        noise = ((estimates[0] - estimates[1]) ** 2).sum() / 4
        return shift * max(0.0, 1 - noise / max((shift**2).sum(), 1e-12))

    # ------------------------------------------------------------------------------------------------ scoring

    def knows(self, sources: str, target: str) -> bool:
        """Is there a reference for any of the sources?"""
        return any(f"{source}->{target}" in self.references for source in sources.split("+"))

    def score(
        self, data: MosaicData, index: np.ndarray, sources: str, target: str, model: MultiVI | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """How unusual cells are among those that could teach the model this direction.

        Parameters
        ----------
        index
            Positions of the cells.
        sources
            "rna", "rna+atac", ...: the cell is as unusual as in the modality that shows it best to belong.
        model
            Whose view of the cells is asked too; None: their counts alone.

        Returns
        -------
        (n,) p-values, and factors by which their posterior is widened where they are out of support: the squared
        ratio of the distance to the 95th percentile of held-out pairs.
        """
        p, widening = np.zeros(len(index)), np.full(len(index), np.inf)
        for source in sources.split("+"):
            reference = self.references.get(f"{source}->{target}")
            if reference is None:
                continue
            distance, ratio = self._distances(self._placed(data, index, source, reference, 0), reference)
            both = np.minimum(_tail(distance, reference.held_distance), _tail(ratio, reference.held_ratio))
            both = np.minimum(2 * both, 1)
            excess = np.maximum(
                distance / np.quantile(reference.held_distance, 0.95), ratio / np.quantile(reference.held_ratio, 0.95)
            )
            wide = np.maximum(excess, 1) ** 2
            if reference.share is not None and model is not None:
                shares = reference.share.shares(_own_view(model, data, index, source))
                both = np.minimum(2 * np.minimum(both, reference.share.p(shares)), 1)
                wide = np.maximum(wide, reference.share.widening(shares))
            p, widening = np.maximum(p, both), np.minimum(widening, wide)
        return p, widening

    def _placed(self, data: MosaicData, cells: np.ndarray, source: str, reference: Reference, seed: int) -> np.ndarray:
        """Coordinates less the offset of each cell's batch; a batch never seen is measured on all its cells here."""
        placed = self.views[source].place(data, cells)
        batch = data.source.batch[cells].astype(str)
        for name in np.unique(batch):
            if name not in reference.shift:
                its = np.flatnonzero((data.source.batch == name) & data.has[source])
                reference.shift[name] = self._shift(data, its, source, reference, seed)
            placed[batch == name] -= reference.shift[name]
        return placed

    def _distances(self, placed: np.ndarray, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
        """Mean distance to the nearest paired cells, and its ratio to that to the nearest cells of any kind."""
        near = _mean_distance(placed, reference.paired)
        return near, near / np.maximum(_mean_distance(placed, reference.everyone), 1e-6)

    # ------------------------------------------------------------------------------------------------ files

    def save(self, path: Path, weights: str = "") -> None:
        """Write all arrays as safetensors, with the digest of the weights that they were measured on."""
        from safetensors.numpy import save

        arrays = {}
        for name, view in self.views.items():
            arrays[f"view/{name}/components"], arrays[f"view/{name}/idf"] = view.components, view.idf
        for name, reference in self.references.items():
            for key in ("paired", "everyone", "held_distance", "held_ratio"):
                arrays[f"reference/{name}/{key}"] = getattr(reference, key)
            if reference.share is not None:
                for key in SHARE:
                    arrays[f"share/{name}/{key}"] = getattr(reference.share, key)
            for batch, shift in reference.shift.items():
                arrays[f"shift/{name}/{batch}"] = shift
        arrays = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in sorted(arrays.items())}
        with written_whole(path) as temporary:
            temporary.write_bytes(save(arrays, metadata={"weights": weights}))

    @classmethod
    def load(cls, path: Path) -> Support | None:
        """Read what `save` wrote; None where there is no file.

        Raises
        ------
        InputError
            The file is damaged, an array is missing, or a value is not finite.
        """
        if not path.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            parts = load_file(path)
            bad = [name for name, array in parts.items() if not np.isfinite(array).all()]
            if bad:
                msg = f"the array {bad[0]!r} holds values that are not finite"
                raise ValueError(msg)
            return cls._of(parts)
        except (SafetensorError, OSError, ValueError, KeyError, IndexError, TypeError) as problem:
            raise Damaged(
                path,
                f"cannot be used: {problem}",
                "cells that no pair resembles would pass for supported ones",
                "copy the whole folder again, or run `multivi-nf calibrate` again",
            ) from problem

    @classmethod
    def _of(cls, parts: dict[str, np.ndarray]) -> Support:
        found = cls({}, {})
        for name in {key.split("/")[1] for key in parts if key.startswith("view/")}:
            found.views[name] = View(name, parts[f"view/{name}/components"], parts[f"view/{name}/idf"])
        for name in {key.split("/")[1] for key in parts if key.startswith("reference/")}:
            fields = ("paired", "everyone", "held_distance", "held_ratio")
            paired, everyone, distance, ratio = (parts[f"reference/{name}/{key}"] for key in fields)
            prefix = f"shift/{name}/"
            shift = {key[len(prefix) :]: value for key, value in parts.items() if key.startswith(prefix)}
            reference = Reference(paired, everyone, distance, ratio, shift)
            if f"share/{name}/places" in parts:  # not in a calibration of an earlier release
                share = reference.share = PairedShare(*(parts[f"share/{name}/{key}"] for key in SHARE))
                if share.places.ndim != 2 or share.paired.shape != share.places.shape[:1] or not len(share.held):
                    msg = f"the neighbours of {name!r} are not complete"
                    raise ValueError(msg)
            if name.split("->")[0] not in found.views or not len(reference.paired) or not len(reference.held_distance):
                msg = f"the reference {name!r} is not complete"
                raise ValueError(msg)
            found.references[name] = reference
        return found


def _some(data: MosaicData, cells: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most n cells, by the hash of their names, in their order."""
    if len(cells) <= n:
        return cells
    return np.sort(cells[np.argsort(cell_keys(data.cells[cells], seed, "support"))[:n]])


def _mean_distance(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n,) mean Euclidean distance to the nearest 15 other cells; a cell itself (distance 0) is left out."""
    if not len(x):
        return np.zeros(0)
    distance = nearest(x, reference, NEIGHBOURS + 1)[1]
    same = distance[:, 0] < 1e-5
    return np.where(same, distance[:, 1:].mean(axis=1), distance[:, : max(distance.shape[1] - 1, 1)].mean(axis=1))


def _tail(value: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Conformal p-value: (1 + held-out values at least as large) / (1 + held-out values)."""
    return (1 + len(held) - np.searchsorted(held, value, side="left")) / (1 + len(held))


def _own_view(model: MultiVI, data: MosaicData, cells: np.ndarray, source: str) -> np.ndarray:
    """(n, n_latent) means of the source's own posterior, as if nothing else had been measured."""
    import torch

    out = [np.zeros((0, model.config.n_latent), np.float32)]
    with torch.inference_mode():
        for part in blocks(len(cells)):
            seen = data.minibatch(cells[part]).only((source,))
            out.append(model.eval().encode(seen)[source].mean.float().cpu().numpy())
    return np.concatenate(out)
