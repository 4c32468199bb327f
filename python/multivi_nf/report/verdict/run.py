"""Did training settle, and could the contrasts be made?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from multivi_nf.report.facts import Model
from multivi_nf.report.gather import Results
from multivi_nf.report.verdict.finding import Finding, Level, Question, graded

FEW_EPOCHS = 10
GAINED = (0.04, 0.1)
"""Share of all that training gained which its second half may gain at the cap: settled, and not settled."""
LEVEL = 0.001
"""Fall of the loss, relative to its size, below which it is level whatever was gained before."""


def best_epoch(history: pd.DataFrame) -> int:
    """Row of the epoch whose weights were kept; without that column, of the lowest validation loss."""
    if "best" in history and (history["best"] == 1).any():
        return int(np.flatnonzero(history["best"] == 1)[-1])
    return int(np.nanargmin(history["validation_loss"].to_numpy(dtype=float)))


def training(results: Results) -> Finding | None:
    """Did training settle, and which epoch was kept?"""
    history = results.history
    if history is None or not len(history) or "validation_loss" not in history:
        return None
    question = Question("Did training settle?", f"{FEW_EPOCHS} epochs or more, loss level at the end")
    values = history["validation_loss"].to_numpy(dtype=float)
    best = best_epoch(history)
    kept, n = int(history["epoch"].iloc[best]), len(history)
    text = f"{n} epochs; the weights of epoch {kept} were kept, with a validation loss of {values[best]:.5g}"
    lowest = int(np.nanargmin(values))
    if lowest != best:
        epoch = int(history["epoch"].iloc[lowest])
        chosen = "held-out pairs chose it; the lowest loss" if "held_out_score" in history else "the lowest of all"
        text += f" ({chosen} was {values[lowest]:.5g}, at epoch {epoch})"
    half = values[n // 2]
    gained, fall = float(np.nanmax(values[: n // 2 + 1]) - values[-1]), float(half - values[-1])
    late = fall / gained if gained > 0 and fall > LEVEL * abs(values[-1]) else 0.0
    model = results.model or Model()
    planned = results.parameters.get("max_epochs") or model.training.get("max_epochs")
    capped = lowest >= n - 1 - n // 10 and (planned is None or n >= float(str(planned)))
    if n < FEW_EPOCHS:
        few = f"{text}: too few to learn from"
        return question.answered("poor", few, "leave --max_epochs out, or raise it", n)
    if capped and graded(late, *GAINED) != "good":
        said = f"{text}, and {late:.0%} of what was gained came in the second half: it was still falling at the last"
        return question.answered(graded(late, *GAINED), said, "raise --max_epochs", late)
    if "still gained" in model.stopped:
        text += "; pairs held out still gained in the last quarter of the epochs"
        return question.answered("look", text, "raise --max_epochs", late)
    return question.answered("good", text, value=late)


def contrasts(results: Results) -> Finding | None:
    """Could every contrast be made and tested?"""
    if not results.contrasts:
        return None
    empty = sorted(name for name, one in results.contrasts.items() if not len(one))
    alone = sorted(
        name for name, one in results.contrasts.items() if len(one) and "confounded" in one and one["confounded"].all()
    )
    n, bad = len(results.contrasts), len(empty) + len(alone)
    text = f"{n - bad} of {n} contrasts were made and tested"
    if empty:
        text += f"; {len(empty)} without two groups of cells: {', '.join(empty[:5])}"
    if alone:
        text += f"; {len(alone)} with one batch on a side, so that batch and group are one: {', '.join(alone[:5])}"
    level: Level = "good" if not bad else "poor" if bad == n else "look"
    question = Question("Could all contrasts be made?", "all")
    return question.answered(level, text, "choose groups that two or more batches a side hold", (n - bad) / n)
