"""One line of the verdict, and how a measured value becomes its level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Level = Literal["good", "look", "poor", "unknown"]


@dataclass
class Finding:
    """One line of the verdict.

    Attributes
    ----------
    question, level, answer, remedy
        What was asked, how it stands, in words, and what to do.
    value, expected
        The number behind the level, and what is good.
    """

    question: str
    level: Level
    answer: str
    remedy: str = ""
    value: float = float("nan")
    expected: str = ""


@dataclass(frozen=True)
class Question:
    """What is asked, and what is good."""

    words: str
    expected: str

    def answered(self, level: Level, answer: str, remedy: str = "", value: float = float("nan")) -> Finding:
        """Answer it; the remedy is left out where all is good."""
        return Finding(self.words, level, answer, "" if level == "good" else remedy, value, self.expected)


def graded(value: float, good: float, poor: float) -> Level:
    """Level of a value between a good and a poor bound, whichever is the larger."""
    if not np.isfinite(value):
        return "unknown"
    if (value >= good) if good > poor else (value <= good):
        return "good"
    return "poor" if ((value < poor) if good > poor else (value > poor)) else "look"
