"""CPU seconds of a training step: against what was measured, and against cells and peaks.

    python -m benchmarks.speed.model_cost

Rows that lack a modality should cost nothing of it, and time should be linear in cells and in peaks.
"""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp
import torch

from multivi_nf.data.minibatch import Minibatch, ModalityRows, SparseRows
from multivi_nf.model import ModelConfig, MultiVI

GENES, DENSITY, REPEATS = 2000, {"rna": 0.25, "atac": 0.05}, 7


def rows(cells: np.ndarray, n: int, modality: str, rng: np.random.Generator) -> ModalityRows:
    x = sp.random(cells.size, n, DENSITY[modality], format="csr", random_state=rng)
    x.sort_indices()
    values = torch.from_numpy(rng.integers(1, 6, x.nnz).astype(np.float32)) if modality == "rna" else None
    counts = SparseRows(torch.from_numpy(x.indptr.astype(np.int64)), torch.from_numpy(x.indices), values, n)
    return ModalityRows(torch.from_numpy(cells), counts)


def step_seconds(n_cells: int, peaks: int, has_rna: float, has_atac: float, batch_size: int = 256) -> float:
    """Median CPU seconds of one pass over the cells: loss, backward and update of every minibatch."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    config = ModelConfig({"rna": GENES, "atac": peaks}, ("a",), {"rna": (1,), "atac": (1,)}, n_latent=11)
    model = MultiVI(config)
    optimiser = torch.optim.AdamW(model.model_parameters(), lr=1e-3, fused=True)
    minibatches = []
    for start in range(0, n_cells, batch_size):
        n = min(batch_size, n_cells - start)
        n_rna, n_atac = round(n * has_rna), round(n * has_atac)
        found = {}
        if n_rna:
            found["rna"] = rows(np.arange(n_rna), GENES, "rna", rng)
        if n_atac:
            found["atac"] = rows(np.arange(n - n_atac, n), peaks, "atac", rng)
        minibatches.append(Minibatch(torch.zeros(n, dtype=torch.int64), found))
    generator, taken = torch.Generator().manual_seed(0), []
    for _ in range(REPEATS):
        started = time.process_time()
        for minibatch in minibatches:
            optimiser.zero_grad()
            model.loss(minibatch, generator=generator).total.backward()
            optimiser.step()
        taken.append(time.process_time() - started)
    return float(np.median(taken[1:]))


def main() -> None:
    torch.set_num_threads(1)
    print("what was measured (1,024 cells, 20,000 peaks), CPU s a pass")
    for name, rna, atac in (
        ("all paired", 1, 1),
        ("a third each", 2 / 3, 2 / 3),
        ("RNA only", 1, 0),
        ("ATAC only", 0, 1),
    ):
        print(f"  {name:14s} {step_seconds(1024, 20_000, rna, atac):.3f}")
    print("cells (a third each, 20,000 peaks)")
    for cells in (512, 1024, 2048, 4096):
        seconds = step_seconds(cells, 20_000, 2 / 3, 2 / 3)
        print(f"  {cells:6,d} {seconds:.3f}   {1e3 * seconds / cells:.3f} ms a cell")
    print("peaks (512 cells, a third each)")
    for peaks in (12_500, 25_000, 50_000, 100_000):
        seconds = step_seconds(512, peaks, 2 / 3, 2 / 3)
        print(f"  {peaks:7,d} {seconds:.3f}   {1e6 * seconds / peaks:.2f} us a peak")


if __name__ == "__main__":
    main()
