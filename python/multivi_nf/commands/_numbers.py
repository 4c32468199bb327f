"""Numbers that a step can work with: finite ones, within what numpy's generators and array sizes take."""

from __future__ import annotations

import math
from typing import Any

import click

LARGEST = 2**31 - 1


class Finite(click.FloatRange):
    """A float that is neither nan nor infinite, within bounds if there are any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse nan, which no comparison with a bound catches."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Whole(click.IntRange):
    """An integer of at most 2,147,483,647, within bounds if there are any."""

    def __init__(self, min: int | None = None, max: int | None = LARGEST, **how: Any) -> None:
        super().__init__(min, max, **how)

    def _describe_range(self) -> str:
        return super()._describe_range() if self.max != LARGEST else (f"x>={self.min}" if self.min is not None else "")


SEED = Whole(min=0)


class Several(click.ParamType):
    """Values separated by commas, each of one type, none twice."""

    def __init__(self, each: click.ParamType) -> None:
        self.each = each
        self.name = f"{each.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert each; refuse an empty list."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",") if word.strip()]
        if not words:
            self.fail("it names nothing.", param, ctx)
        return tuple(dict.fromkeys(self.each.convert(word, param, ctx) for word in words))
