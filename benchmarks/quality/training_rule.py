"""What learning rate, batch size and number of epochs buy: the evidence behind `training/rules.py`.

    python -m benchmarks.quality.training_rule [--cells 3000 --genes 1000 --peaks 5000] [--runs 128:1e-3:30 ...]

Prints, for each batch:rate:epochs, the best validation loss, its epoch, optimiser steps and CPU seconds.
"""

from __future__ import annotations

import argparse
import time

import torch
from benchmarks.speed.training_data import made_mosaic

from multivi_nf.training import MultiVI, train

RUNS = ("128:1e-4:60", "128:1e-3:60", "256:1.4e-3:60", "512:1e-3:60", "512:2e-3:60", "512:4e-3:60", "512:2e-3:150")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--peaks", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mosaic", help="an h5mu instead of simulated cells")
    parser.add_argument("--runs", nargs="*", default=RUNS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    mosaic = given.mosaic or made_mosaic(given.cells, given.genes, given.peaks)
    print("batch\trate\tepochs\tbest_validation_loss\tbest_epoch\tran\tsteps\tcpu_seconds\trna\tatac\tkl", flush=True)
    for run in given.runs:
        batch, rate, epochs = (kind(text) for kind, text in zip((int, float, int), run.split(":")))
        model = MultiVI.from_mosaic(mosaic)
        started = time.process_time()
        history = train(
            model, mosaic, batch_size=batch, learning_rate=rate, max_epochs=epochs, device="cpu", quiet=True
        )
        cost = time.process_time() - started
        best = history.rows[history.best_epoch - 1]
        n = (model.split["split"] == "train").sum()
        steps = len(history) * -(-n // batch)
        terms = "\t".join(f"{best[f'validation_{name}']:.2f}" for name in ("rna", "atac", "kl"))
        print(
            f"{batch}\t{rate:g}\t{epochs}\t{best['validation_loss']:.2f}\t{best['epoch']}\t{len(history)}\t{steps}\t"
            f"{cost:.0f}\t{terms}",
            flush=True,
        )


if __name__ == "__main__":
    main()
