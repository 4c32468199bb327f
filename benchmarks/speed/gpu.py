"""Speeds and right results on a device, one row a measure; started by `gpu.sh`, which says how.

Rows: what, size, value, unit, device, note. A measure that cannot be taken here (no peer, no GPU) is a row without a
value and says why: nothing is estimated.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.places import RESULTS
from benchmarks.speed.training_data import made_mosaic

from multivi_nf.comparison.compare import differential
from multivi_nf.data.source import source_of
from multivi_nf.errors import Interrupted
from multivi_nf.imputation.impute import impute
from multivi_nf.latent.cells import cells_of
from multivi_nf.latent.embed import embed
from multivi_nf.training import MultiVI, train
from multivi_nf.training.trainer import Trainer

SIZES = {
    "cuda": {"cells": 20_000, "genes": 4000, "peaks": [20_000, 100_000], "epochs": 6, "until": 60},
    "cpu": {"cells": 600, "genes": 300, "peaks": [2000], "epochs": 3, "until": 8},
}
TOLERANCE = 2e-3
"""Largest relative difference of a loss per cell between devices, float32 (TF32 products on the GPU)."""


class Table:
    """Rows, printed and written as they come."""

    def __init__(self, output: Path, device: str) -> None:
        self.output, self.device, self.failed = output, device, 0
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("what\tsize\tvalue\tunit\tdevice\tnote\n")

    def add(self, what: str, size: str, value: float | str, unit: str = "", note: str = "") -> None:
        """Write a row."""
        shown = f"{value:.5g}" if isinstance(value, float) else str(value)
        line = "\t".join((what, size, shown, unit, self.device, note))
        print(line, flush=True)
        with self.output.open("a") as handle:
            handle.write(line + "\n")

    def check(self, what: str, size: str, good: bool, note: str) -> None:
        """Write a row of a check; a failed one fails the script."""
        self.failed += not good
        self.add(what, size, "yes" if good else "NO", "", note)

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Take a measure; one that fails leaves an empty value and its reason, and the others go on."""
        try:
            work()
        except Exception as error:  # every row is independent; the reason is in the table and the exit code
            self.failed += 1
            self.add(what, "", "", "", f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}")


class Watch:
    """Utilisation of the GPU while something runs, every half second, by nvidia-smi; NaN where there is none."""

    def __enter__(self) -> Watch:
        self.seen: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        program = shutil.which("nvidia-smi")
        command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
        while program and not self._done.wait(0.5):
            told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if told.isdigit():
                self.seen.append(float(told))

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def mean(self) -> float:
        """Mean of what was seen, per cent."""
        return float(np.mean(self.seen)) if self.seen else float("nan")


def epochs_of(source, device: str, n: int, **settings: object) -> tuple[MultiVI, list[float], object]:
    """Train; the model, seconds of each epoch, the history."""
    spent: list[float] = []
    own = Trainer._epoch

    def timed(trainer: Trainer) -> None:
        synchronise(device)
        began = time.perf_counter()
        own(trainer)
        synchronise(device)
        spent.append(time.perf_counter() - began)

    Trainer._epoch = timed
    try:
        torch.manual_seed(0)
        model = MultiVI.from_mosaic(source)
        history = train(model, source, max_epochs=n, device=device, quiet=True, **settings)
    finally:
        Trainer._epoch = own
    return model, spent, history


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def epochs(table: Table, device: str, size: dict) -> None:
    """Epochs at every number of peaks in both precisions, their peak memory and the device's utilisation."""
    for peaks in size["peaks"]:
        source = source_of(made_mosaic(size["cells"], size["genes"], peaks))
        label = f"{size['cells']} cells, {size['genes']} genes, {peaks} peaks"
        for precision in ("float32", "bfloat16"):
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with Watch() as watch:
                _, spent, history = epochs_of(source, device, size["epochs"], precision=precision)
            table.add(f"epoch, {precision}", label, min(spent[1:]), "s", "least after the first")
            table.add(f"validation loss, {precision}", label, float(history.rows[-1]["validation_loss"]), "a cell")
            if device == "cuda":
                table.add(f"peak memory, {precision}", label, torch.cuda.max_memory_allocated() / 1e9, "GB")
                table.add(f"utilisation, {precision}", label, watch.mean, "%", "nvidia-smi, whole training")


def equal_to_cpu(table: Table, device: str, size: dict) -> None:
    """The same training, embedding, imputation and contrast on the device and on the processor."""
    source = source_of(made_mosaic(400, 200, 1500))
    ran = {where: epochs_of(source, where, 2) for where in ("cpu", device)}
    losses = {where: np.array([row["train_loss"] for row in ran[where][2].rows]) for where in ran}
    apart = float(np.abs(losses[device] / losses["cpu"] - 1).max())
    table.check(
        "losses equal to the CPU's", "400 cells, 2 epochs", apart < TOLERANCE, f"relative difference {apart:.1e}"
    )
    model = ran["cpu"][0]
    found = {}
    for where in ("cpu", device):
        model.to(where)
        cells = cells_of(model, source)
        latent = embed(model, cells).mean
        decoded = np.asarray(impute(model, cells, "rna", features="all", n_samples=200).X)
        found[where] = np.asarray(latent), decoded
    model.to("cpu")
    for name, one, other in zip(("latent means", "imputed RNA"), found["cpu"], found[device]):
        apart = float(np.abs(one - other).max() / np.abs(one).max())
        bound = 1e-3 if name == "latent means" else 0.05  # draws differ between devices
        table.check(
            f"{name} equal to the CPU's",
            "400 cells",
            apart < bound,
            f"largest difference {apart:.1e} of the largest value",
        )


def resume(table: Table, device: str, size: dict) -> None:
    """A training that is stopped on the device and resumed ends with the weights of an undisturbed one."""
    source = source_of(made_mosaic(300, 100, 500))
    weights = []
    for stops in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            options = {"max_epochs": 4, "device": device, "quiet": True, "batch_size": 64}
            torch.manual_seed(0)
            model = MultiVI.from_mosaic(source)
            if stops:
                try:
                    train(model, source, checkpoint_dir=folder, time_limit=0.0, **options)
                except Interrupted:
                    pass
                torch.manual_seed(0)
                model = MultiVI.from_mosaic(source)
            train(model, source, checkpoint_dir=folder, resume=stops, **options)
            weights.append(torch.cat([p.detach().reshape(-1).cpu() for p in model.parameters()]))
    apart = float((weights[0] - weights[1]).abs().max())
    bound = 0.0 if device == "cpu" else 1e-4  # sums on a GPU have no fixed order
    table.check("resumed as undisturbed", "300 cells, 4 epochs", apart <= bound, f"largest difference {apart:.1e}")


def halving(table: Table, device: str, size: dict) -> None:
    """With little memory a step is taken in parts, and the training ends with the same loss."""
    if device != "cuda":
        table.add("out of memory: a step in parts", "", "", "", "not measured: the CPU has no allocator to limit")
        return
    source = source_of(made_mosaic(3000, 1000, 50_000))
    _, _, whole = epochs_of(source, device, 1, batch_size=1024)
    torch.cuda.empty_cache()
    used, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    parts: list[int] = []
    own = Trainer._smaller_parts

    def noted(trainer: Trainer, *arguments: object) -> None:
        own(trainer, *arguments)
        parts.append(trainer.parts)

    Trainer._smaller_parts = noted
    torch.cuda.set_per_process_memory_fraction(0.7 * used / total)
    try:
        _, _, split = epochs_of(source, device, 1, batch_size=1024)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        Trainer._smaller_parts = own
    apart = abs(split.rows[-1]["train_loss"] / whole.rows[-1]["train_loss"] - 1)
    table.check(
        "out of memory: a step in parts",
        "batch 1,024 in 70 % of its memory",
        bool(parts) and apart < 0.02,
        f"{parts[-1] if parts else 1} parts, loss {apart:.1e} apart",
    )


def after_training(table: Table, device: str, size: dict) -> None:
    """Imputation and a contrast on the device."""
    cells, genes, peaks = size["cells"] // 4, size["genes"], size["peaks"][-1]
    mosaic = made_mosaic(cells, genes, peaks)
    torch.manual_seed(0)
    model = MultiVI.from_mosaic(mosaic).eval().to(device)
    data = cells_of(model, mosaic)
    label = f"{cells} cells, {genes} genes, {peaks} peaks"
    few = list(data.cells[:1000])
    for what, work in (
        ("impute RNA of 1,000 cells, 80 draws", lambda: impute(model, data, "rna", cells=few, features="all")),
        ("contrast in ATAC", lambda: differential(model, data, "atac", groupby="cluster", target="0", reference="1")),
    ):
        work()
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        table.add(what, label, time.perf_counter() - began, "s", "second run")


PEER = """
import sys, time, json, warnings
warnings.filterwarnings("ignore")
import anndata, mudata, numpy as np, scvi, torch
folder, device, until = sys.argv[1], sys.argv[2], int(sys.argv[3])
scvi.settings.verbosity = 40
raw = {m: anndata.read_h5ad(f"{folder}/{m}.h5ad") for m in ("rna", "atac")}
mosaic = mudata.MuData(raw)
mosaic.obs["group"] = raw["rna"].obs["group"].to_numpy()
scvi.model.MULTIVI.setup_mudata(mosaic, batch_key="group", modalities={"rna_layer": "rna", "atac_layer": "atac"})
def fit(n):
    model = scvi.model.MULTIVI(mosaic, n_genes=raw["rna"].n_vars, n_regions=raw["atac"].n_vars)
    began = time.perf_counter()
    model.train(max_epochs=n, accelerator="gpu" if device == "cuda" else "cpu", devices=1, enable_progress_bar=False,
                early_stopping=False)
    return model, time.perf_counter() - began
_, one = fit(1)
_, three = fit(3)
print("RESULT " + json.dumps({"epoch": (three - one) / 2}))
"""


def peer(table: Table, device: str, size: dict, python: str | None) -> None:
    """An epoch of scvi-tools on the same counts and device."""
    label = f"{size['cells']} cells, {size['genes']} genes, {size['peaks'][0]} peaks"
    has = python and not subprocess.run([python, "-c", "import scvi"], capture_output=True, check=False).returncode
    if not has:
        table.add("epoch, scvi-tools", label, "", "s", "not measured: no scvi-tools here")
        return
    import json

    import scipy.sparse as sp
    from anndata import AnnData

    made = made_mosaic(size["cells"], size["genes"], size["peaks"][0])
    with tempfile.TemporaryDirectory() as folder:
        names = made.obs_names
        for modality, part in made.mod.items():
            place = names.get_indexer(part.obs_names)
            spread = sp.csr_matrix((np.ones(len(place)), (place, np.arange(len(place)))), (len(names), len(place)))
            padded = AnnData(sp.csr_matrix(spread @ part.X).astype(np.float32), made.obs[[]].copy(), part.var.copy())
            padded.obs["group"] = np.where(np.isin(names, made["rna"].obs_names), "r", "") + np.where(
                np.isin(names, made["atac"].obs_names), "a", ""
            ).astype(object)
            padded.write_h5ad(f"{folder}/{modality}.h5ad")
        done = subprocess.run([python, "-c", PEER, folder, device, "0"], capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not lines:
            table.add("epoch, scvi-tools", label, "", "s", f"failed: {done.stderr.strip().splitlines()[-1][:200]}")
            return
        table.add("epoch, scvi-tools", label, float(json.loads(lines[-1][7:])["epoch"]), "s")


def until_equal(table: Table, device: str, size: dict) -> None:
    """Time to the validation loss that the processor's training of the same cells reaches."""
    source = source_of(made_mosaic(size["cells"] // 5, size["genes"] // 2, size["peaks"][0] // 2))
    _, spent, history = epochs_of(source, device, size["until"])
    losses = np.array([row["validation_loss"] for row in history.rows])
    last = losses.min() + 0.01 * (losses[0] - losses.min())
    first = int(np.argmax(losses <= last))
    label = f"{size['cells'] // 5} cells, {size['genes'] // 2} genes, {size['peaks'][0] // 2} peaks"
    table.add("to 99 % of the gain in held-out loss", label, sum(spent[: first + 1]), "s", f"{first + 1} epochs")


def main() -> None:
    """Take every measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", choices=list(SIZES), default="cuda")
    options.add_argument("--output", type=Path, default=RESULTS / "gpu.tsv")
    options.add_argument("--peer", help="python with scvi-tools; default: this one, if it has it")
    chosen = options.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device can be used here; --device cpu tries the script on the processor")
    name = torch.cuda.get_device_name(0) if chosen.device == "cuda" else "CPU"
    table = Table(chosen.output, chosen.device)
    began = time.perf_counter()
    table.add("machine", name, "", "", f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    size = SIZES[chosen.device]
    for work in (equal_to_cpu, epochs, until_equal, resume, halving, after_training):
        table.attempt(work.__name__, lambda work=work: work(table, chosen.device, size))
    table.attempt("peer", lambda: peer(table, chosen.device, size, chosen.peer or sys.executable))
    table.add("all of this", "", time.perf_counter() - began, "s")
    sys.exit(1 if table.failed else 0)


if __name__ == "__main__":
    main()
