"""Progress through a file by bytes: a bar on a terminal, a line every tenth of a large file elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_LARGE = 1 << 28


@contextlib.contextmanager
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
