"""What the steps after TRAIN hold in memory does not grow with the mosaic's cells: their counts stay in the file."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from multivi_nf.commands import exit_code
from multivi_nf.comparison.compare import differential
from multivi_nf.export.h5ad import write_h5ad
from multivi_nf.export.modalities import fill_modalities
from multivi_nf.held_out.calibrate import calibrate
from multivi_nf.imputation.impute import Imputer, Options, impute_to_zarr
from multivi_nf.latent.cells import Cells, cells_of
from multivi_nf.latent.embed import embed
from multivi_nf.mosaic.read import embedded as embedded_file
from multivi_nf.mosaic.read import read_tables
from multivi_nf.mosaic.write import copy_counts, fill, skeleton
from multivi_nf.report.gather import read_results
from multivi_nf.training import MultiVI
from multivi_nf.training.split import split_cells, split_table

SMALL, LARGE = 14_000, 60_000
SHOWN = {"rna": (300, 120), "atac": (400, 160)}
"""Features, and how many of them a cell shows."""
A_CELL = 700
"""Bytes of the tables of cells: names in three indexes, batch, row pointers, a few columns of obs."""

A_CELL_EMBEDDED = 1200
"""The same of what EMBED wrote: places, a map, obs of the whole and of each modality."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")


def write(path: Path, n: int) -> tuple[pd.Index, int]:
    """A mosaic of which every second cell has both modalities, the others one; names, and bytes of its counts."""
    rng = np.random.default_rng(0)
    names = pd.Index([f"s{i % 2}:{i:08d}" for i in range(n)])
    rows = {"rna": np.flatnonzero(np.arange(n) % 4 != 3), "atac": np.flatnonzero(np.arange(n) % 4 != 1)}
    modalities, total = {}, 0
    for m, (width, _) in SHOWN.items():
        columns = [f"{m}{j}" if m == "rna" else f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(width)]
        modalities[m] = names[rows[m]].to_numpy(), pd.DataFrame({"symbol": columns}, index=columns), {}
    kinds = (np.arange(n) // 4 % 3).astype(str)
    obs = pd.DataFrame({"batch": [name[:2] for name in names], "group": kinds, "has_rna": np.arange(n) % 4 != 3}, names)
    order = MuData({m: AnnData(obs=pd.DataFrame(index=cells)) for m, (cells, _, _) in modalities.items()}).obs_names
    skeleton(path, obs.loc[order], modalities, {"multivi_nf": "{}"})
    for m, (width, shown) in SHOWN.items():
        base = sparse.random(1000, width, shown / width, "csr", random_state=rng)
        base.data = rng.integers(1, 4, base.nnz).astype(np.int32)
        lengths = [min(1000, len(rows[m]) - start) for start in range(0, len(rows[m]), 1000)]
        fill(path, m, width, (lambda k=k, b=base: b[:k] for k in lengths))
        total += len(rows[m]) * shown * (6 if m == "rna" else 4)
    return order, total


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[int, tuple[Path, MultiVI, int]]:
    """Size to the mosaic's file, a model of it whose split names its calibration cells, and bytes of its counts."""
    found = {}
    for n in (SMALL, LARGE):
        path = tmp_path_factory.mktemp("memory") / f"{n}.h5mu"
        names, size = write(path, n)
        if not found:
            model = MultiVI.from_mosaic(str(path), n_hidden=8, n_latent=4, seed=0).eval()
            model.save(path.parent / "model")
            folder = path.parent / "model"
        model = MultiVI.load(folder)
        here = names.str[3:].astype(int).to_numpy()
        has = {"rna": here % 4 != 3, "atac": here % 4 != 1}
        model.split = split_table(names, split_cells(has, names.str[:2].to_numpy(), 0))
        found[n] = path, model, size
    return found


def kilobytes(line: str) -> int:
    return int(
        next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(line)).split()[1]
    )


def peak(step: Callable[[], object]) -> float:
    """Highest resident memory during a step above that before it, bytes."""
    gc.collect()
    # what earlier tests freed and the allocator kept would be used again, and not be seen
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    step()
    return 1024.0 * (kilobytes("VmHWM") - before)


def impute(path: Path, model: MultiVI, folder: Path) -> None:
    data = cells_of(model, path)
    features = list(model.features["feature"][:10])
    options = Options(cells=list(data.cells[-256:]), features=features, n_samples=10, interval=0.8)
    impute_to_zarr(Imputer(Cells(model, data), "rna", options), folder / "imputed.zarr")


def compare(path: Path, model: MultiVI, _: Path) -> None:
    differential(model, cells_of(model, path), "atac", groupby="group", target="each", cells="all", n_samples=20)


def check(path: Path, model: MultiVI, _: Path) -> None:
    calibrate(model, cells_of(model, path), n_samples=8)


def place(path: Path, model: MultiVI, _: Path) -> None:
    embed(model, path)


@pytest.fixture(scope="module")
def embedded(files) -> dict[int, Path]:
    """Size to what EMBED would write: clusters, places, a UMAP; counts as they are in the mosaic."""
    found, rng = {}, np.random.default_rng(0)
    for n, (path, _, _) in files.items():
        mosaic = read_tables(path)
        mosaic.obs["cluster"] = pd.Categorical(mosaic.obs["group"])
        mosaic.obs["sample"], mosaic.obs["modality"] = mosaic.obs["batch"], "rna"
        for modality in mosaic.mod:
            mosaic.obs[f"has_{modality}"] = mosaic.obs_names.isin(mosaic[modality].obs_names)
        mosaic.obsm["X_umap"] = rng.normal(size=(n, 2)).astype(np.float32)
        for key in ("X_multivi", "X_multivi_rna", "X_multivi_atac"):
            values = rng.normal(size=(n, 4)).astype(np.float32)
            values[~mosaic.obs.get(f"has_{key[10:]}", pd.Series(True, mosaic.obs_names)).to_numpy()] = np.nan
            mosaic.obsm[key] = values
        mosaic.obsm["X_multivi_variance"] = np.ones((n, 4), np.float32)
        fill_modalities(mosaic)
        found[n] = path.with_name(f"{n}.embedded") / "multivi.h5mu"
        found[n].parent.mkdir()
        mosaic.write_h5mu(found[n])
        copy_counts(path, found[n])
    return found


def hand_on(path: Path, folder: Path) -> None:
    assert exit_code(["export", str(path), "--h5ad", "false", "--explorer-size", "1", "--output", str(folder)]) == 0


def hand_on_whole(path: Path, folder: Path) -> None:
    with embedded_file(path) as mosaic:
        write_h5ad(mosaic, folder)


def score(path: Path, folder: Path) -> None:
    assert exit_code(["evaluate", "--mosaic", str(path), "--labels", "group", "--output", str(folder / "e.json")]) == 0


def gather(path: Path, _: Path) -> None:
    read_results(path.parent)


@pytest.mark.parametrize("step", [hand_on, hand_on_whole, score, gather])
def test_memory_of_what_follows_the_map_grows_with_the_tables_alone(files, embedded, step, tmp_path, monkeypatch):
    monkeypatch.setattr("multivi_nf.evaluation.runs.MOST", 1500)
    step(embedded[SMALL], tmp_path / "warm")
    peaks = {n: peak(lambda n=n, p=path: step(p, tmp_path / str(n))) for n, path in embedded.items()}
    grown = peaks[LARGE] - peaks[SMALL]
    # counts in memory: column and value, of peaks 0/1 beside fragments
    counts = 8 * (files[LARGE][2] - files[SMALL][2]) / 5
    print(f"{step.__name__}: {peaks[SMALL] / 1e6:.0f} MB, {peaks[LARGE] / 1e6:.0f} MB; counts {counts / 1e6:.0f} MB")
    assert grown < A_CELL_EMBEDDED * (LARGE - SMALL) < 0.8 * counts


@pytest.mark.parametrize("step", [impute, compare, check, place])
def test_peak_memory_grows_with_the_table_of_cells_alone(files, step, tmp_path):
    peaks = {}
    path, model, _ = files[SMALL]
    step(path, model, tmp_path)  # what is imported, compiled and kept by the first call is not the data's
    for n, (path, model, _) in files.items():
        peaks[n] = peak(lambda p=path, m=model: step(p, m, tmp_path))
    counts = files[LARGE][2] - files[SMALL][2]
    grown = peaks[LARGE] - peaks[SMALL]
    print(f"{step.__name__}: {peaks[SMALL] / 1e6:.0f} MB, {peaks[LARGE] / 1e6:.0f} MB; counts {counts / 1e6:.0f} MB")
    assert grown < A_CELL * (LARGE - SMALL) < 0.8 * counts


def test_reading_all_counts_is_seen(files):
    """The measure itself: the same mosaic read into memory."""
    from multivi_nf.data.source import source_of

    path, _, size = files[LARGE]
    assert peak(lambda: source_of(path)) > 0.8 * size
