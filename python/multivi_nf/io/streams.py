"""What a step says must not cost its result: a closed, full or broken stdout or stderr is let go."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class Forgiving:
    """A text stream whose errors are swallowed; everything else, its encoding for one, is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or do nothing where that is not possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            return len(text)
        self._let_go()
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing where that is not possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._let_go()

    def isatty(self) -> bool:
        """As the stream says."""
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        """As the stream says."""
        return self._stream.fileno()

    def _let_go(self) -> None:
        """Send what is still in the buffer, and all that follows, nowhere: at the end it would fail once more."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


@contextlib.contextmanager
def forgiven() -> Iterator[None]:
    """Make stdout and stderr forgiving. A closed one is opened on nothing, or the next file would take its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    before = sys.stdout, sys.stderr
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w", errors="backslashreplace", closefd=False)
        setattr(sys, name, Forgiving(stream))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
