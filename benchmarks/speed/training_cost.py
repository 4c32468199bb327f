"""CPU seconds per epoch against cells, peaks, and modalities that were not measured.

    python -m benchmarks.speed.training_cost

Per-epoch cost is the CPU time of three epochs less that of one, halved: what other programs do hardly enters it.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from benchmarks.speed.training_data import made_mosaic
from mudata import MuData

from multivi_nf.data.source import source_of
from multivi_nf.training import MultiVI, train

GENES = 500


def epoch_cost(mosaic: MuData) -> float:
    """CPU seconds of one epoch at batch 256."""
    source = source_of(mosaic)
    spent = []
    for epochs in (1, 3):
        model = MultiVI.from_mosaic(source, n_hidden=128, n_latent=11)
        started = time.process_time()
        train(model, source, max_epochs=epochs, batch_size=256, device="cpu", quiet=True)
        spent.append(time.process_time() - started)
    return (spent[1] - spent[0]) / 2


def rna_only(mosaic: MuData, *, keep_atac: int) -> MuData:
    """Only the first `keep_atac` ATAC cells stay in ATAC: the model keeps its peaks, hardly any cell has them."""
    part = {"rna": mosaic.mod["rna"], "atac": mosaic.mod["atac"][:keep_atac].copy()}
    out = MuData(part if keep_atac else {"rna": part["rna"]})
    out.obs["batch"] = "one"
    return out


def main() -> None:
    torch.set_num_threads(1)
    made_mosaic(64, 10, 20)
    epoch_cost(made_mosaic(300, 50, 100))
    print("what\tcells\tpeaks\tcpu_s_per_epoch\tms_per_cell", flush=True)

    def tell(what: str, n_cells: int, n_peaks: int, cost: float) -> None:
        print(f"{what}\t{n_cells}\t{n_peaks}\t{cost:.3f}\t{1000 * cost / n_cells:.3f}", flush=True)

    sizes = (1000, 2000, 4000, 8000)
    costs = [epoch_cost(made_mosaic(n, GENES, 4000)) for n in sizes]
    for n, cost in zip(sizes, costs):
        tell("cells", n, 4000, cost)
    print(f"growth with cells: exponent {np.polyfit(np.log(sizes), np.log(costs), 1)[0]:.2f}", flush=True)
    widths = (5000, 10_000, 20_000, 40_000)
    costs = [epoch_cost(made_mosaic(1000, GENES, n)) for n in widths]
    for n, cost in zip(widths, costs):
        tell("peaks", 1000, n, cost)
    print(f"growth with peaks: exponent {np.polyfit(np.log(widths), np.log(costs), 1)[0]:.2f}", flush=True)
    mosaic = made_mosaic(3000, GENES, 20_000)
    tell("RNA cells beside 10 ATAC cells", 2000, 20_000, epoch_cost(rna_only(mosaic, keep_atac=10)))
    tell("the same RNA cells alone", 2000, 0, epoch_cost(rna_only(mosaic, keep_atac=0)))


if __name__ == "__main__":
    main()
