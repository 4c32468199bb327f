"""HDF5 files that are being written: what the disk refuses is told once the file is closed, not to HDF5.

HDF5 cannot lose a write: it tries again while it closes, prints of its own accord, and in the end reads memory that it
has freed. So a file below a guarded path is written through :class:`Kept`, which takes every byte it is given, keeps
the first error, and raises it when the file is closed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUFFIXES = (".h5", ".h5ad", ".h5mu")
_guarded: set[str] = set()
_WRITES = {"w": "w+b", "w-": "x+b", "x": "x+b", "r+": "r+b"}
_BLOCK = 1 << 30
"""Linux writes at most 2 GiB at once."""


class Kept:
    """The file that HDF5 writes to; h5py finds `read` and `seek` and takes it for one.

    Parameters
    ----------
    path
        The file.
    mode
        As :func:`open` takes it; binary.
    """

    def __init__(self, path: str, mode: str) -> None:
        self.path = path
        self.error: OSError | None = None
        self._file = Path(path).open(mode, buffering=0)  # closed by `finish`
        self._end = os.fstat(self._file.fileno()).st_size  # where HDF5 believes the file to end
        self._at = 0

    def __repr__(self) -> str:
        return self.path

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; nothing is asked of the disk."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """The place in the file."""
        return self._at

    def read(self, n: int) -> bytes:
        """Some bytes from here on."""
        buffer = bytearray(n)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; what did not reach the disk reads as zeros."""
        view = memoryview(buffer).cast("B")
        done = 0
        with self._keeping():
            while done < len(view):
                part = os.preadv(self._file.fileno(), [view[done : done + _BLOCK]], self._at + done)
                if part == 0:
                    break
                done += part
        view[done:] = bytes(len(view) - done)
        self._at += len(view)
        return len(view)

    def write(self, content: Any) -> int:
        """Take all bytes; after the first error they are let go."""
        view = memoryview(content).cast("B")
        done = 0
        with self._keeping():
            while done < len(view) and self.error is None:
                done += os.pwrite(self._file.fileno(), view[done : done + _BLOCK], self._at + done)
        self._at += len(view)
        self._end = max(self._end, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self._end = self._at if size is None else size
        with self._keeping():
            if self.error is None:
                os.ftruncate(self._file.fileno(), self._end)
        return self._end

    def flush(self) -> None:
        """Nothing waits here."""

    def finish(self) -> None:
        """Close the file and raise what went wrong.

        Raises
        ------
        OSError
            The first error of any call, with the file's name.
        """
        if not self._file.closed:
            with self._keeping():
                self._file.close()
        if self.error is not None:
            error, self.error = self.error, None
            raise OSError(error.errno, error.strerror, self.path) from error

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error


@contextlib.contextmanager
def errors_kept(path: Path) -> Iterator[None]:
    """While this holds, h5py writes `path` through :class:`Kept`; other files, and reading, are h5py's own.

    Parameters
    ----------
    path
        The file that is about to be written, by whoever calls `h5py.File` with it.
    """
    if not path.name.endswith(SUFFIXES):
        yield
        return
    _teach_h5py()
    _guarded.add(str(path))
    try:
        yield
    finally:
        _guarded.discard(str(path))


def _teach_h5py() -> None:
    """Let `h5py.File` know guarded paths: anndata and mudata open files themselves, by name."""
    import h5py

    if getattr(h5py.File, "knows_guarded_paths", False):
        return
    opened, closed = h5py.File.__init__, h5py.File.close

    def __init__(self: Any, name: Any, mode: str = "r", driver: Any = None, *rest: Any, **options: Any) -> None:
        if driver is None and mode in _WRITES and isinstance(name, (str, os.PathLike)) and os.fspath(name) in _guarded:
            self.kept = Kept(os.fspath(name), _WRITES[mode])
            opened(self, self.kept, mode, None, *rest, **options)
        else:
            opened(self, name, mode, driver, *rest, **options)

    def close(self: Any) -> None:
        try:
            closed(self)
        finally:
            kept = getattr(self, "kept", None)
            if kept is not None:
                kept.finish()

    h5py.File.__init__, h5py.File.close, h5py.File.knows_guarded_paths = __init__, close, True
