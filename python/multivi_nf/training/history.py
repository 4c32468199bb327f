"""What happened in each epoch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from multivi_nf.io.tables import write_table

FIRST = ("epoch", "train_loss", "validation_loss")
LAST = ("learning_rate", "kl_weight", "alignment_weight", "best", "seconds")


Row = dict[str, float]
"""What is told of an epoch, by column."""


@dataclass
class History:
    """Losses per epoch, all per cell.

    Attributes
    ----------
    rows
        One dictionary an epoch: `epoch` (from 1), `train_loss` (the objective, at that epoch's KL weight),
        `validation_loss` (−ELBO at KL weight 1 with fixed noise), one entry a term, `seconds`.
    best_epoch
        The epoch whose weights were kept; 0 before any.
    stopped
        Why training ended.
    """

    rows: list[Row] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = ""

    def __repr__(self) -> str:
        last = f", validation loss {self.rows[-1].get('validation_loss', float('nan')):.6g}" if self.rows else ""
        ended = f", best epoch {self.best_epoch}{last}" + (f", ended: {self.stopped}" if self.stopped else "")
        return f"History({len(self.rows):,} epochs{ended if self.rows else ''})"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> list[float]:
        return [row.get(column, float("nan")) for row in self.rows]

    def to_frame(self) -> pd.DataFrame:
        """One row an epoch, in the order of `history.tsv`'s columns."""
        terms = dict.fromkeys(key for row in self.rows for key in row if key not in FIRST + LAST)
        frame = pd.DataFrame(self.rows, columns=[*FIRST, *terms, *LAST])
        frame["best"] = (frame["epoch"] == self.best_epoch).astype(int)
        return frame

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write `history.tsv`."""
        frame = self.to_frame()
        frame["seconds"] = frame["seconds"].astype(float).round(3)
        write_table(frame, Path(path), gaps="", digits=9)
