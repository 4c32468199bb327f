"""Progress on a terminal as a bar, elsewhere as a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 30
_LARGE = 1 << 28


@contextmanager
def bar(
    what: str, total: int, *, done: int = 0, of_bytes: bool = False, console: Console | None = None
) -> Iterator[Callable[..., None]]:
    """Show a bar on a terminal; give a function to call with how much is done and, if anything, a word beside it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counted = DownloadColumn() if of_bytes else MofNCompleteColumn()
    words = TextColumn("{task.description}"), TextColumn("{task.fields[told]}")
    layout = words[0], BarColumn(), counted, words[1], TimeRemainingColumn()
    with Progress(*layout, console=console or Console(stderr=True), transient=of_bytes) as shown:
        task = shown.add_task(what, total=total, completed=done, told="")
        yield lambda n, told="": shown.update(task, completed=n, told=told)


@contextmanager
def progress(what: str, total: int, unit: str = "cells") -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of units done since the last call."""
    done, last = 0, time.monotonic()

    def say(n: int) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {n:,} of {total:,} {unit}", file=sys.stderr, flush=True)

    with bar(what, total) if sys.stderr.isatty() else nullcontext(say) as show:

        def advance(n: int) -> None:
            nonlocal done
            done += n
            show(done)

        yield advance


@contextmanager
def bytes_read(path: Path, on_progress: Callable[[int], None] | None = None) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of bytes read so far; a given `on_progress` is handed through."""
    size, said = path.stat().st_size if path.is_file() else 0, 0

    def say(n: int) -> None:
        nonlocal said
        if size >= _LARGE and 10 * n // size > said:
            said = 10 * n // size
            print(f"{path.name}: {10 * said} % of {size / 1e6:.0f} MB read", file=sys.stderr)

    if on_progress is None and sys.stderr.isatty():
        with bar(path.name, size, of_bytes=True) as show:
            yield show
    else:
        yield on_progress or say
