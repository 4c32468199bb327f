"""What the suite of speeds measures: each case a piece of work and, beside it, the least that such work can cost.

A case makes its input once and gives two functions, the work and its floor; both are run in turns, in one process.
Inputs are small: a case takes some seconds. Weights are random where the cost does not depend on them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

Work = Callable[[], object]
"""Gives its own seconds as a float; where it gives anything else, it is timed as a whole."""


@contextmanager
def fragments(folder: Path, n: int = 1_000_000) -> Iterator[tuple[Work, Work]]:
    """The first pass: quality of every barcode, fragments kept. Floor: decompressing the file, by ISA-L."""
    from isal import igzip

    scan, options = _fragments(folder, n)

    def floor() -> None:
        with igzip.open(folder / "fragments.tsv.gz") as handle:
            while handle.read(1 << 22):
                pass

    yield lambda: scan(folder / "fragments.tsv.gz", kept=folder / "fragments.kept", **options), floor


@contextmanager
def counting(folder: Path, n: int = 1_000_000) -> Iterator[tuple[Work, Work]]:
    """The second pass: cells × peaks from what the first kept. Floor: decompressing the fragments."""
    with fragments(folder, n) as (first, floor):
        first()
        scan, options = _fragments(folder, n)
        from multivi_nf.inputs.intervals import read_bed

        options |= {"peaks": read_bed(folder / "peaks.bed"), "only_these": True, "quality": False}
        yield lambda: scan(folder / "fragments.kept", **options), floor


def _fragments(folder: Path, n: int) -> tuple[Callable, dict]:
    from multivi_nf.fragments.count import scan
    from multivi_nf.inputs.genome import load_genome
    from multivi_nf.testing.fragments_made import Plan, generate

    if not (folder / "truth.npz").exists():
        generate(Plan(fragments=n, cells=1000, background=20_000, peaks=30_000), folder)
    genome = load_genome("hg38", tss=folder / "tss.bed", blacklist=folder / "blacklist.bed")
    cells = (folder / "barcodes.txt").read_text().split()
    return (lambda path, **rest: scan(path, genome, **rest)), {"barcodes": cells, "threads": 1}


@contextmanager
def epoch(
    folder: Path, cells: int = 800, genes: int = 1000, peaks: int = 10_000, device: str = "cpu", **settings: object
) -> Iterator[tuple[Work, Work]]:
    """An epoch of training, validation included. Floor: the decoders' last matrix products, forward and backward."""
    import torch
    from benchmarks.speed.training_data import made_mosaic

    from multivi_nf.data.source import source_of
    from multivi_nf.training import MultiVI, train
    from multivi_nf.training.trainer import Trainer

    source = source_of(made_mosaic(cells, genes, peaks))
    model = MultiVI.from_mosaic(source)
    place = torch.device(device)

    def wait() -> None:
        if place.type == "cuda":
            torch.cuda.synchronize()

    def work() -> float:
        spent: list[float] = []
        own = Trainer._epoch

        def timed(trainer: Trainer) -> None:
            wait()
            began = clock()
            own(trainer)
            wait()
            spent.append(clock() - began)

        Trainer._epoch = timed
        try:
            model = MultiVI.from_mosaic(source)
            train(model, source, max_epochs=3, device=device, quiet=True, **settings)
        finally:
            Trainer._epoch = own
        return min(spent[1:])  # the first is longer: buffers are made, libraries loaded

    clock = time.process_time if device == "cpu" else time.perf_counter
    hidden, batch = model.config.n_hidden, 512
    weights = {width: torch.rand(hidden, width, device=place) for width in (genes, peaks)}
    inputs = torch.rand(batch, hidden, device=place)
    steps = max(round(cells * 2 / 3 * 0.9 / batch), 1)  # each modality is measured in two thirds, nine tenths train

    def floor() -> None:
        for width in (genes, peaks):
            out = torch.empty(batch, width, device=place)
            for _ in range(steps):
                torch.mm(inputs, weights[width], out=out)  # forward; backward needs two more of the size
                torch.mm(out, weights[width].T)
                torch.mm(inputs.T, out)
        wait()

    yield work, floor


@contextmanager
def impute(folder: Path, cells: int = 256, genes: int = 1000, samples: int = 50) -> Iterator[tuple[Work, Work]]:
    """Imputation of all genes into a store. Floor: the decoder's last matrix product of all samples."""
    import torch

    from multivi_nf.imputation.impute import Imputer, Options, impute_to_zarr
    from multivi_nf.latent.cells import Cells

    model, data = _model(cells, genes, 4000)
    names = list(data.cells)
    number = iter(range(10**6))

    def work() -> None:
        out = folder / f"{next(number)}.zarr"
        options = Options(cells=names, features="all", n_samples=samples)
        impute_to_zarr(Imputer(Cells(model, data), "rna", options), out)

    x, w = torch.rand(512, model.config.n_hidden), torch.rand(model.config.n_hidden, genes)
    out = torch.empty(512, genes)

    def floor() -> None:
        for _ in range(cells * samples // 512):
            torch.mm(x, w, out=out)

    yield work, floor


@contextmanager
def contrast(folder: Path, cells: int = 600, peaks: int = 10_000) -> Iterator[tuple[Work, Work]]:
    """A contrast of two groups in ATAC. Floor: the decoder's last matrix product of its 1,000 draws a group."""
    import torch

    import multivi_nf as mv

    model, data = _model(cells, 500, peaks)

    def work() -> None:
        mv.differential(model, data, modality="atac", groupby="cluster", target="0", reference="1")

    x, w = torch.rand(500, model.config.n_hidden), torch.rand(model.config.n_hidden, peaks)
    out = torch.empty(500, peaks)

    def floor() -> None:
        for _ in range(2 * 2):
            torch.mm(x, w, out=out)

    yield work, floor


def _model(cells: int, genes: int, peaks: int):
    import torch
    from benchmarks.speed.training_data import made_mosaic

    import multivi_nf as mv
    from multivi_nf.latent.cells import cells_of

    mosaic = made_mosaic(cells, genes, peaks)
    torch.manual_seed(0)
    model = mv.MultiVI.from_mosaic(mosaic).eval()
    return model, cells_of(model, mosaic)


@contextmanager
def mosaic(folder: Path, cells: int = 1000, samples: int = 2) -> Iterator[tuple[Work, Work]]:
    """Joining samples of paired cells. Floor: reading the counts and writing them as the mosaic's are, by h5py."""
    import h5py
    from benchmarks.speed.mosaic_memory import STORED, write_part

    from multivi_nf.inputs.samplesheet import read_samples_json
    from multivi_nf.mosaic.build import MosaicRules, build_mosaic

    rows, paths = [], []
    for i in range(samples):
        for modality in STORED:
            paths.append(str(folder / f"s{i}.{modality}.h5ad"))
            write_part(Path(paths[-1]), f"s{i}", modality, cells)
        rows.append({"sample": f"s{i}", "batch": f"s{i}", "rna": "x", "atac": "x", "metadata": {}})
    (folder / "samples.json").write_text(json.dumps({"samples": rows}))
    sheet = read_samples_json(folder / "samples.json")
    target = folder / "mosaic.h5mu"

    def work() -> None:
        build_mosaic(paths, sheet, target, MosaicRules(min_cells_fraction=0))

    work()
    with h5py.File(target) as file:
        kept = {
            f"{name}/{part}": (file[name][part].chunks, file[name][part].compression, file[name][part].compression_opts)
            for name in ("mod/rna/X", "mod/atac/layers/counts")
            for part in ("data", "indices")
        }

    def floor() -> None:
        with h5py.File(target) as source, h5py.File(folder / "floor.h5", "w") as out:
            for name, (chunks, compression, level) in kept.items():
                out.create_dataset(
                    name,
                    data=source[name][:],
                    maxshape=(None,),
                    chunks=chunks,
                    shuffle=True,
                    compression=compression,
                    compression_opts=level,
                )

    yield work, floor


@contextmanager
def page(folder: Path) -> Iterator[tuple[Work, Work]]:
    """The report of a small run. Floor: reading its files, and one empty figure of matplotlib as SVG."""
    import io

    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    from multivi_nf.report.page import write_report
    from multivi_nf.testing.results import make_results

    results = make_results(folder / "results")

    def floor() -> None:
        for path in results.rglob("*"):
            if path.is_file():
                path.read_bytes()
        figure = Figure()
        figure.subplots().plot([0, 1], [0, 1])
        figure.savefig(io.BytesIO(), format="svg")

    yield lambda: write_report(results, folder / "report.html"), floor


CASES = {
    "fragments": fragments,
    "counting": counting,
    "epoch": epoch,
    "impute": impute,
    "contrast": contrast,
    "mosaic": mosaic,
    "page": page,
}


def measure(name: str, repeats: int = 5) -> dict[str, float]:
    """CPU seconds of a case's work and floor, the least of `repeats` turns each; both run once before."""
    with tempfile.TemporaryDirectory() as where, CASES[name](Path(where)) as (work, floor):
        spent: dict[str, list[float]] = {"work": [], "floor": []}
        for turn in range(repeats + 1):
            for what, function in (("work", work), ("floor", floor)):
                least = np.inf
                for _ in range(1 if what == "work" else 3):
                    began = time.process_time()
                    own = function()
                    least = min(least, own if isinstance(own, float) else time.process_time() - began)
                if turn:
                    spent[what].append(least)
    return {what: min(times) for what, times in spent.items()}


def table(rows: list[dict]) -> pd.DataFrame:
    """Rows of the suite as it prints and stores them."""
    frame = pd.DataFrame(rows, columns=["case", "cpu_s", "floor_s", "ratio", "peer", "peer_cpu_s", "peer_ratio"])
    return frame.round({"cpu_s": 4, "floor_s": 4, "ratio": 3, "peer_cpu_s": 3, "peer_ratio": 2})
