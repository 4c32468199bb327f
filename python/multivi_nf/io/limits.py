"""Text of strangers: lines without end, and archives that unpack without end, are refused before the memory is full."""

from __future__ import annotations

import gzip
import io
import json
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from multivi_nf.errors import Damaged, InputError

if TYPE_CHECKING:
    import pandas as pd
    from _typeshed import WriteableBuffer

LONGEST_LINE = 1 << 16
"""Bytes; as in fragments."""

LARGEST_TABLE = 1 << 28
"""Bytes of a list or table that is read as a whole, unpacked: ten million barcodes."""

LARGEST_SHEET = 1 << 24
"""Bytes of a samplesheet or a table of contrasts: a hundred thousand samples. Each row is looked at by itself."""

LONGEST_HOLE = 1 << 26
"""Bytes of a packed file that are zero one after the other: gzip skips them, to an end that may be far."""

LARGEST_JSON = 1 << 26
"""Bytes of a JSON file; as Python's objects they are ten times as many."""

BLOCK = 1 << 20
DAMAGED = (OSError, EOFError, zlib.error, UnicodeDecodeError)


class Source(Protocol):
    """What gives bytes."""

    def read(self, n: int, /) -> bytes | None:
        """The next bytes, at most `n`."""
        ...


class Guarded(io.RawIOBase):
    """A stream of text that ends in an :class:`InputError` where a line, the whole or the number of lines is too long.

    Parameters
    ----------
    source
        Bytes, unpacked.
    name
        The file, for the message.
    longest_line, most_bytes, most_lines
        The limits; None: none.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        *,
        longest_line: int | None = LONGEST_LINE,
        most_bytes: int | None = None,
        most_lines: int | None = None,
    ) -> None:
        self.source = source
        self.name = name
        self.longest_line = longest_line
        self.most_bytes = most_bytes
        self.most_lines = most_lines
        self.n_bytes = self.n_lines = self._open = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer with the next bytes; damage within a packed file is an OSError, as a cut one is."""
        view = memoryview(buffer)
        try:
            block = self.source.read(min(len(view), BLOCK)) or b""
        except zlib.error as error:
            raise gzip.BadGzipFile(str(error)) from error
        self._look(block)
        view[: len(block)] = block
        return len(block)

    def _look(self, block: bytes) -> None:
        self.n_bytes += len(block)
        if self.most_bytes is not None and self.n_bytes > self.most_bytes:
            raise _too_much(self.name, f"unpacks to more than {self.most_bytes:,} bytes")
        if self.longest_line is not None:
            self._measure(block, self.longest_line)
        if self.most_lines is not None:
            self.n_lines += block.count(b"\n")
            if self.n_lines > self.most_lines:
                raise _too_much(self.name, f"has more than {self.most_lines:,} lines")

    def _measure(self, block: bytes, most: int) -> None:
        """Find a line longer than allowed: it spans every place that many bytes apart without an end between two."""
        first = block.find(b"\n")
        if first < 0:
            self._open += len(block)
            longest = self._open
        else:
            longest = self._open + first
            last = block.rfind(b"\n")
            start = first
            while longest <= most and last - start > most:
                end = block.rfind(b"\n", start + 1, start + most + 2)
                if end < 0:
                    longest = most + 1
                    break
                start = end
            self._open = len(block) - last - 1
            longest = max(longest, self._open)
        if longest > most:
            raise _too_much(self.name, f"has a line of more than {most:,} bytes")


class NoHole(io.RawIOBase):
    """A packed file; the zeros of a hole (a cut download, a disk image) end it instead of being skipped for hours."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name, self.zeros = source, name, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer with the next bytes."""
        view = memoryview(buffer)
        block = self.source.read(len(view)) or b""
        self.zeros = self.zeros + len(block) if block.count(0) == len(block) else 0
        if self.zeros > LONGEST_HOLE:
            raise _too_much(self.name, f"holds more than {LONGEST_HOLE:,} zeros one after the other")
        view[: len(block)] = block
        return len(block)


def is_gzip(path: Path) -> bool:
    """Tell by its first bytes whether a file is gzip."""
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


@contextmanager
def opened(
    path: Path, *, longest_line: int | None = LONGEST_LINE, most_bytes: int | None = None, most_lines: int | None = None
) -> Iterator[io.BufferedReader]:
    """Open a plain or gzip text file as bytes within limits, see :class:`Guarded`."""
    path = Path(path)
    _check_regular(path)
    with path.open("rb") as file:
        packed = is_gzip(path)
        whole = io.BufferedReader(NoHole(file, str(path)), BLOCK)
        source: Source = gzip.GzipFile(fileobj=whole) if packed else file
        guarded = Guarded(source, str(path), longest_line=longest_line, most_bytes=most_bytes, most_lines=most_lines)
        yield io.BufferedReader(guarded, BLOCK)


def _check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which would be waited for, or read, for ever; a shell's `<(...)` is what it is."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path).startswith(("/dev/fd/", "/proc/"))):
        raise InputError(
            f"{path} is neither a file nor a folder but a pipe, a socket or a device",
            "files are read more than once, from any place in them",
            "write its content to a file and give that",
        )


def read_bytes(path: Path, *, longest_line: int | None = LONGEST_LINE, most_bytes: int = LARGEST_TABLE) -> bytes:
    """Read a whole plain or gzip text file within limits."""
    with opened(path, longest_line=longest_line, most_bytes=most_bytes) as handle:
        return handle.read()


def read_json(path: Path) -> Any:
    """Read a JSON file within limits.

    Raises
    ------
    InputError
        Too many bytes, no JSON, or nested deeper than can be read.
    """
    try:
        return json.loads(read_bytes(path, longest_line=None, most_bytes=LARGEST_JSON))
    except (ValueError, RecursionError, EOFError, zlib.error) as error:
        raise _damaged(path, f"no JSON ({type(error).__name__}: {error})") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object, as every one that a step writes does.

    Raises
    ------
    InputError
        As :func:`read_json`, or anything else at its top.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise _damaged(path, "no JSON object")
    return content


def object_in(text: str, place: str) -> dict[str, Any]:
    """Read a JSON object that a file holds as text.

    Raises
    ------
    InputError
        Something else; `place` is named.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(
            f"{place} is no JSON object, but {text[:40]!r}",
            "it was cut, or something else wrote it; what it tells cannot be used",
            "run the step that writes it again",
        )
    return content


def read_tsv(path: Path, **how: Any) -> pd.DataFrame:
    """Read a table of a step, plain or gzip, within limits; `how` goes to :func:`pandas.read_csv`.

    Raises
    ------
    InputError
        Too long a line, too many bytes, or damage.
    """
    import pandas as pd

    try:
        raw = read_bytes(path)
        return pd.read_csv(io.BytesIO(raw), **{"sep": "\t"} | how)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"no table ({type(error).__name__}: {str(error).splitlines()[0]})") from error


def check_columns(table: pd.DataFrame, path: Path, needed: Iterable[str] = (), numbers: Iterable[str] = ()) -> None:
    """Refuse a table that lacks a needed column, or in which one of `numbers` is there and holds text.

    Raises
    ------
    InputError
        Names the file and the column.
    """
    from pandas.api.types import is_numeric_dtype

    lacking = [column for column in needed if column not in table]
    if lacking:
        raise _damaged(path, f"no table of this step: it has no column {', '.join(lacking)}")
    for column in numbers:
        if column in table and len(table) and not is_numeric_dtype(table[column]):
            raise _damaged(path, f"no table of this step: its column {column!r} holds text where numbers are meant")


def _damaged(path: Path, how: str) -> InputError:
    return Damaged(
        path,
        f"is {how}",
        "it was cut, or something else wrote it; what it tells cannot be used",
        "copy it again, or run the step that writes it again",
    )


def _too_much(name: str, what: str) -> InputError:
    return InputError(
        f"{name} {what}",
        "no list or table of this kind does; reading on would only fill the memory",
        "give the file as the tool wrote it, or write it again; a forged or damaged file cannot be used",
    )
