"""Progress on a terminal as a bar, elsewhere as a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS_BETWEEN_LINES = 30
_LARGE = 1 << 28


@contextmanager
def progress(what: str, total: int, unit: str = "cells") -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of units done since the last call."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.advance(task, n)
        return
    done, last = 0, time.monotonic()

    def advance(n: int) -> None:
        nonlocal done, last
        done += n
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

    yield advance


@contextmanager
def bytes_read(path: Path, on_progress: Callable[[int], None] | None = None) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of bytes read so far; a given `on_progress` is handed through."""
    size = path.stat().st_size if path.is_file() else 0
    if on_progress is not None:
        yield on_progress
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        layout = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        with Progress(*layout, transient=True) as progress:
            task = progress.add_task(path.name, total=size)
            yield lambda n: progress.update(task, completed=n)
    elif size >= _LARGE:
        said = 0

        def say(n: int) -> None:
            nonlocal said
            if 10 * n // size > said:
                said = 10 * n // size
                print(f"{path.name}: {10 * said} % of {size / 1e6:.0f} MB read", file=sys.stderr)

        yield say
    else:
        yield lambda n: None
