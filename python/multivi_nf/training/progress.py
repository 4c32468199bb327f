"""What a user sees of a training: a bar on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from multivi_nf.io.files import written_whole
from multivi_nf.io.progress import bar
from multivi_nf.training.history import LAST, Row

NOTICE = "progress.txt"
"""One line beside the checkpoints, which Nextflow repeats on its terminal; gone when training ends."""
NOTICE_SECONDS = 10


class Reporter:
    """Tells the user, on standard error.

    Parameters
    ----------
    quiet
        Say nothing at all (a second process of a distributed run).
    notice
        File for one line on how far training is; none if it cannot be written.
    """

    def __init__(self, quiet: bool = False, notice: Path | None = None) -> None:
        self.quiet = quiet
        self._notice = None if quiet else notice
        self._noticed = float("-inf")
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._bar = contextlib.ExitStack()
        self._show: Callable[..., None] | None = None
        self._started = time.monotonic()
        self._done = 0

    def say(self, text: str) -> None:
        """One line for the log."""
        if not self.quiet:
            self._console.print(text, markup=False)

    def start(self, n_epochs: int, done: int) -> None:
        """Begin `n_epochs`, of which `done` are done already."""
        self._started, self._done = time.monotonic(), done
        if not self.quiet and self._console.is_terminal:
            self._show = self._bar.enter_context(bar("epoch", n_epochs, done=done, console=self._console))

    def epoch(self, row: Row, n_epochs: int) -> None:
        """Tell one epoch's losses."""
        if self.quiet:
            return
        shown = (name for name in row if name not in _OWN and not name.startswith("validation_"))
        terms = "  ".join(f"{name} {row[name]:.4g}" for name in shown)
        losses = f"train {row['train_loss']:.2f}  validation {row['validation_loss']:.2f}  {terms}"
        left = (time.monotonic() - self._started) / max(row["epoch"] - self._done, 1) * (n_epochs - row["epoch"])
        loss = f"validation loss {row['validation_loss']:.2f}"
        self._note(f"epoch {row['epoch']} of {n_epochs}, {loss}, at most {_span(left)} left")
        if self._show is not None:
            self._show(row["epoch"], losses)
            return
        self.say(f"epoch {row['epoch']}/{n_epochs}  {losses}  {row['seconds']:.1f} s  at most {_span(left)} left")

    def _note(self, text: str) -> None:
        if self._notice is None or time.monotonic() - self._noticed < NOTICE_SECONDS:
            return
        self._noticed = time.monotonic()
        with contextlib.suppress(OSError), written_whole(self._notice) as temporary:
            temporary.write_text(text + "\n")

    def stop(self) -> None:
        """Take the bar and the notice down."""
        if self._notice is not None:
            with contextlib.suppress(OSError):
                self._notice.unlink(missing_ok=True)
        self._bar.close()
        self._show = None


_OWN = {"epoch", "train_loss", "validation_loss", "gradient_norm", *LAST}


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
