"""The truth beside a simulated mosaic: who each cell is and what its means are, written small and read back."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.io.files import written_whole
from multivi_nf.io.hdf5 import reading, reading_hdf5
from multivi_nf.io.limits import read_tsv
from multivi_nf.io.tables import write_bed
from multivi_nf.modalities import MODALITIES
from multivi_nf.simulate.cells import SITES, SampleCells
from multivi_nf.simulate.regulation import Planted
from multivi_nf.simulate.world import CELL_TYPES, STATES, Features, World


@dataclass
class Truth:
    """What is known of a simulated mosaic.

    Attributes
    ----------
    cells
        One row a cell, indexed by `sample:barcode`: cell_type, arm, position on the branch (NaN off it), doublet,
        dying, libraries, ambient share, and the columns of the samplesheet.
    peaks
        chrom, start, end, promoter and linked gene, indexed by `chrom:start-end`.
    genes, proteins
        Indexed by id.
    states
        (n_cells, n_states); of a doublet, its first nucleus.
    features
        Modality to base, loadings and site effects.
    planted
        Links and factors, of a mosaic in memory with `regulation`; on disk they are `links.tsv.gz` and `motifs.tsv`.
    """

    cells: pd.DataFrame
    genes: pd.DataFrame
    peaks: pd.DataFrame
    proteins: pd.DataFrame
    states: np.ndarray
    features: dict[str, Features]
    planted: Planted | None = None

    def rows(self, cells: pd.Index | None) -> np.ndarray:
        """Positions of cells (`sample:barcode`) in the truth; all of them for None."""
        if cells is None:
            return np.arange(len(self.cells))
        at = self.cells.index.get_indexer(cells)
        if (at < 0).any():
            unknown = list(pd.Index(cells)[at < 0][:3])
            raise InputError(
                f"{int((at < 0).sum())} of {len(at)} cells are not in the truth, such as {unknown}",
                "their values cannot be scored",
                "give the truth/ folder of the same `multivi-nf simulate` run",
            )
        return at

    def expression(self, cells: pd.Index | None = None, site: str | None = None) -> np.ndarray:
        """(n_cells, n_genes) true mean expression, 10^4 times the share of each gene; `site` affects all cells."""
        states = self.states[self.rows(cells)]
        return 1e4 * self.features["rna"].proportions(states, None if site is None else SITES.index(site))

    def accessibility(self, cells: pd.Index | None = None, fragments_in_peaks: float = 250.0) -> np.ndarray:
        """(n_cells, n_peaks) true probability of seeing a peak open at the given depth, without site effects."""
        share = self.features["atac"].proportions(self.states[self.rows(cells)])
        return -np.expm1(-fragments_in_peaks * share)

    def protein(self, cells: pd.Index | None = None) -> np.ndarray:
        """(n_cells, n_proteins) true mean foreground counts, background left out."""
        return np.exp(self.features["protein"].log_mean(self.states[self.rows(cells)]))

    def designed(self, modality: str, cell_type: str) -> np.ndarray:
        """(n_features,) whether a feature's log mean was made to depend on being of this type."""
        continuous = {"progenitor": ("trunk",), "arm_a": ("a_ramp", "bump"), "arm_b": ("b_ramp", "bump")}
        states = continuous.get(cell_type, (cell_type,))
        return (self.features[modality].loadings[[STATES.index(s) for s in states]] != 0).any(0)

    def log2_fold_change(self, modality: str, target: str, reference: str = "rest") -> np.ndarray:
        """(n_features,) log2 ratio of true means between the cells of two types (`rest`: all others)."""
        type_of = self.cells["cell_type"].to_numpy()
        rna, atac = modality == "rna", modality == "atac"
        means = self.expression() if rna else self.accessibility() if atac else self.protein()
        other = type_of != target if reference == "rest" else type_of == reference
        return np.log2(means[type_of == target].mean(0)) - np.log2(means[other].mean(0))


def write_truth(folder: Path, world: World, groups: list[SampleCells]) -> None:
    """Write `cells.tsv.gz`, `peaks.bed` and `means.h5` (states of cells, base and loadings of features)."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = pd.concat([group.cells for group in groups])
    with written_whole(folder / "cells.tsv.gz") as temporary:
        temporary.write_bytes(gzip.compress(cells.round(4).to_csv(sep="\t").encode(), mtime=0))
    write_bed(world.peaks[["chrom", "start", "end"]], folder / "peaks.bed")
    with written_whole(folder / "means.h5") as temporary, h5py.File(temporary, "w") as file:
        put = writer(file)
        put("cells/state", np.concatenate([g.states[: len(g.cells)] for g in groups]).astype(np.float32))
        put("states", np.array(STATES, dtype="S16"))
        put("types", np.array(CELL_TYPES, dtype="S16"))
        for name, features in (("rna", world.rna), ("atac", world.atac), ("protein", world.protein)):
            put(f"{name}/base", features.base.astype(np.float32))
            put(f"{name}/loadings", features.loadings.astype(np.float32))
            put(f"{name}/site", features.site.astype(np.float32))
        for name, frame in (("rna", world.genes), ("protein", world.proteins), ("atac", world.peaks)):
            for column in frame:
                values = frame[column].to_numpy()
                put(f"{name}/var/{column}", values.astype("S") if values.dtype == object else values)


def writer(file: h5py.File) -> Callable[[str, np.ndarray], None]:
    """A function that writes one dataset, compressed and without a time stamp."""

    def put(name: str, values: np.ndarray) -> None:
        small = values.size < 64
        how = {} if small else {"compression": "gzip", "shuffle": True}
        file.create_dataset(name, data=values, track_times=False, **how)

    return put


def read_truth(folder: str | Path) -> Truth:
    """Read what :func:`write_truth` wrote.

    Raises
    ------
    InputError
        The folder holds no truth.
    """
    folder = Path(folder)
    missing = [name for name in ("cells.tsv.gz", "means.h5") if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} holds no {' and no '.join(missing)}",
            "without the truth of the simulated mosaic nothing can be scored",
            "give the truth/ folder that `multivi-nf simulate --outdir DIR` wrote",
        )
    cells = _read_cells(folder / "cells.tsv.gz")
    with reading_hdf5(folder / "means.h5") as file:
        frames = {m: pd.DataFrame({k: text(v[:]) for k, v in file[f"{m}/var"].items()}) for m in MODALITIES}
        states = _numbers(file, "cells/state", (len(cells), len(STATES)))
        features = {m: _read_features(file, m, len(frames[m])) for m in MODALITIES}
        peaks, genes, proteins = frames["atac"], frames["rna"].set_index("id"), frames["protein"].set_index("id")
        peaks.index = pd.Index(peaks["chrom"] + ":" + peaks["start"].astype(str) + "-" + peaks["end"].astype(str))
        for frame in (peaks, genes, proteins):
            if not frame.index.is_unique or not all(isinstance(name, str) for name in frame.index):
                raise ValueError("names of features are no text, or come twice")
    return Truth(cells, genes, peaks, proteins, states, features)


def _read_cells(path: Path) -> pd.DataFrame:
    """Read the table of cells and look at what is scored by."""
    cells = read_tsv(path, index_col=0, keep_default_na=False, na_values={"position": ""})
    with reading(path):
        cells.index = cells.index.astype(str)
        flags = [cells[name].dtype.kind for name in ("doublet", "dying")]
        if flags != ["b", "b"] or not cells.index.is_unique or not len(cells):
            raise ValueError("doublet and dying are not True or False, or a cell comes twice, or none at all")
        unknown = set(cells["site"]) - set(SITES)
        if unknown:
            raise ValueError(f"site {unknown.pop()!r} is none of {', '.join(SITES)}")
        cells["cell_type"] = cells["cell_type"].astype(str)
    return cells


def _read_features(file: h5py.File, modality: str, n: int) -> Features:
    shapes = {"base": (n,), "loadings": (len(STATES), n), "site": (len(SITES), n)}
    return Features(*(_numbers(file, f"{modality}/{part}", shape) for part, shape in shapes.items()))


def _numbers(file: h5py.File, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Finite numbers of a shape."""
    values = np.asarray(file[name][:])
    if values.shape != shape or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ValueError(f"{name} is {values.dtype} {values.shape}, or not finite; {shape} is meant")
    return values


def text(values: np.ndarray) -> np.ndarray:
    """Byte strings as str; anything else as it is."""
    return np.char.decode(values) if values.dtype.kind == "S" else values
