"""Kill a training at random moments, resume, and compare the weights with an undisturbed run's, bit for bit.

    python -m benchmarks.quality.restart [--kills 20 --cells 300]

Each round starts a training in a process of its own, sends SIGKILL after a random time, and starts it again with
`resume` to its end. Checkpoints are written every 50 ms here, so that kills fall into the writing of one and into
validation. Prints, for each kill, where it fell and where the run went on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # torch.optim imports it at its first step; once here rather than in every child
from benchmarks.speed.training_data import made_mosaic

from multivi_nf.data.source import Source, source_of
from multivi_nf.training import MultiVI, train

INTERVAL = 0.05


def trained(source: Source, root: Path, output: str, epochs: int) -> None:
    model = MultiVI.from_mosaic(source, n_hidden=32, n_latent=8)
    train(
        model,
        source,
        max_epochs=epochs,
        batch_size=32,
        device="cpu",
        output=root / output,
        checkpoint_dir=root / "k",
        checkpoint_interval=INTERVAL,
        resume=True,
    )


def forked(work: Callable[[], None], log: Path) -> int:
    """Run in a child process whose standard error goes to a file; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(handle, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        work()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def digest(model: Path) -> str:
    return hashlib.sha256((model / "weights.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(given.seed)
    source = source_of(made_mosaic(given.cells, 100, 500))
    with tempfile.TemporaryDirectory() as folder:
        root, log = Path(folder), Path(folder) / "log"

        def start(output: str) -> int:
            return forked(lambda: trained(source, root, output, given.epochs), log)

        started = time.monotonic()
        _, code = os.waitpid(start("undisturbed"), 0)
        assert code == 0, log.read_text()
        length = time.monotonic() - started
        want = digest(root / "undisturbed")
        print(f"undisturbed: {length:.1f} s, weights {want[:12]}", flush=True)
        print("kill\tat_s\tkilled_in\twent_on_at\thalf_written\tsame_bytes", flush=True)
        same = killed = 0
        while killed < given.kills:
            child = start("model")
            wait = draw.uniform(0, 1) * length
            time.sleep(wait)
            os.kill(child, signal.SIGKILL)
            _, code = os.waitpid(child, 0)
            if code == 0:
                continue  # it was done before the kill
            killed += 1
            epochs = re.findall(r"^epoch (\d+)/", log.read_text(), re.M)
            half = len(list(root.glob("k/*/.*.step-*")))
            _, code = os.waitpid(start("model"), 0)
            told = log.read_text()
            assert code == 0, told
            on = re.search(r"going on at (epoch \d+, step \d+)", told)
            ok = digest(root / "model") == want
            same += ok
            fell = f"epoch {int(epochs[-1]) + 1}" if epochs else "epoch 1 or before"
            print(f"{killed}\t{wait:.2f}\t{fell}\t{on[1] if on else 'the beginning'}\t{half}\t{ok}", flush=True)
            assert not any((root / "k").iterdir()), "checkpoints are left"
        print(f"same weights bit for bit: {same} of {given.kills}")


if __name__ == "__main__":
    main()
