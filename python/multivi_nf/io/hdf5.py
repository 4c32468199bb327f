"""HDF5 files of strangers: nothing in them may lead out of them, and nothing may claim to be larger than it can be.

HDF5 can take a data set's bytes from another file (external storage), graft another file's objects in (external links)
or compose one of other files' (virtual data sets). A matrix from a stranger could so put any file that its reader may
read into results that are shared. Count matrices need none of it.
"""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
from h5py import h5l

from multivi_nf.errors import Damaged, InputError

_DEFLATE_LIMIT = 1100
"""Deflate cannot compress better than 1032:1; anything beyond is declared, not stored."""

_SMALLEST_LIMIT = 2**26
_MOST_OBJECTS = 1_000_000


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, once :func:`check_hdf5` has nothing against it."""
    path = Path(path)
    _check_head(path)
    _check_survival(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise Damaged(
            path, f"cannot be opened as HDF5: {error}", "it is damaged, most often cut while copying"
        ) from error
    try:
        _check_objects(file, path)
    except InputError:
        file.close()
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        file.close()
        raise unread(path, error) from error
    return file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Word whatever goes wrong while a block reads a file or a store: it is not what it should be, and not a bug.

    Raises
    ------
    InputError
        Names the file; lack of memory, and a disk that fails, stay what they are.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # h5py, zarr, anndata and numpy raise many kinds on what was forged; the cause is kept
        raise unread(path, error) from error


@contextmanager
def reading_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file as :func:`open_hdf5` does, for a block that reads it as :func:`reading` says."""
    with reading(path), open_hdf5(path) as file:
        yield file


def check_hdf5(path: Path) -> None:
    """Refuse a file that is no HDF5, is cut, refers to other files, or declares more than it can hold.

    Raises
    ------
    InputError
        Names the file, the object in it and what is wrong with it.
    """
    open_hdf5(path).close()


def _check_head(path: Path) -> None:
    if path.stat().st_size == 0:
        raise Damaged(path, "is empty (0 bytes)", "there are no counts in it", "check how it was written")
    with path.open("rb") as handle:
        head = handle.read(2048)
    # mudata writes 512 bytes of text before the HDF5 signature
    if not any(head[offset : offset + 8] == b"\x89HDF\r\n\x1a\n" for offset in (0, 512, 1024)):
        raise Damaged(
            path,
            f"is not an HDF5 file (it starts with {head[:8]!r})",
            "its name says .h5, .h5ad or .h5mu",
            "give a 10x .h5, an AnnData .h5ad, a MuData .h5mu or a folder with matrix.mtx",
        )


CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
_MOST_WORDS = 50_000_000
_TRIED: set[tuple[int, int, int, int]] = set()


def _check_survival(path: Path) -> None:
    """Refuse a file on which HDF5 itself crashes, as it may where attributes or words of any length are damaged.

    A child process reads them first, once a file; what Python can catch there is told by whoever reads the file next.
    """
    state = path.stat()
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if key in _TRIED:
        return
    try:
        child = os.fork()
    except OSError:  # no further process: the file is read as it is
        return
    if child == 0:
        try:
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _read_words(path)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if -code in CRASHES:
        raise damaged(path, OSError(f"HDF5 crashes on it ({signal.Signals(-code).name})"))
    _TRIED.add(key)


def _read_words(path: Path) -> None:
    with h5py.File(path, "r") as file:
        for _, item in _objects(file, path):
            for name in item.attrs:
                item.attrs[name]
            if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual or not item.size:
                continue
            words = h5py.check_string_dtype(item.dtype)
            if item.size < _MOST_WORDS and words is not None and words.length is None:
                item[()]


def _check_objects(file: h5py.File, path: Path) -> None:
    limit = max(path.stat().st_size * _DEFLATE_LIMIT, _SMALLEST_LIMIT)
    filters: dict[int, str] = {}
    for name, item in _objects(file, path):
        if not isinstance(item, h5py.Dataset):
            continue
        if item.external:
            raise _leads_out(path, f"the data set {name!r} takes its bytes from {item.external[0][0]!r}")
        if item.is_virtual:
            sources = sorted({source.file_name for source in item.virtual_sources()})
            raise _leads_out(path, f"the data set {name!r} is put together from {', '.join(sources[:3])!r}")
        foreign = foreign_filters(item)
        filters.update(dict.fromkeys(foreign, name))
        # zstd and others pack what repeats more tightly than deflate ever can
        most = limit * 100 if foreign else limit
        if item.size and item.size * item.dtype.itemsize > most:
            raise Damaged(
                path,
                f": dataset {name!r} declares {item.shape} values of {item.dtype} in a file of "
                f"{path.stat().st_size} bytes",
                "that much cannot be stored in it; reading it would only fill the memory",
                "the file is damaged or forged; write it again",
            )
    need_filters(filters, path)


def _objects(file: h5py.File, path: Path) -> Iterator[tuple[str, h5py.HLObject]]:
    """Every object once, by a walk along hard links; a link of another kind is judged before it is followed."""
    waiting, seen = [("", file["/"])], set()
    while waiting:
        name, item = waiting.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if len(seen) > _MOST_OBJECTS:
            raise InputError(
                f"{path} holds more than {_MOST_OBJECTS:,} objects",
                "no matrix of cells does; looking at each would take hours",
                "the file is damaged or forged; write it again",
            )
        yield name or "/", item
        if isinstance(item, h5py.Group):
            for key in item.id:  # bytes: a damaged name need not be text
                below = f"{name}/{key.decode('utf-8', 'backslashreplace')}"
                if _is_own(item, key, below, path):
                    waiting.append((below, item[key]))


def _is_own(group: h5py.Group, key: bytes, name: str, path: Path) -> bool:
    """Whether a link is a hard one; a soft one is let pass if it ends in this file, all others are refused."""
    kind = group.id.links.get_info(key).type
    if kind == h5l.TYPE_HARD:
        return True
    link = group.get(key, getlink=True) if kind in (h5l.TYPE_SOFT, h5l.TYPE_EXTERNAL) else None
    if isinstance(link, h5py.ExternalLink):
        raise _leads_out(path, f"{name!r} is a link to {link.path!r} in the file {link.filename!r}")
    if link is None:
        raise _leads_out(path, f"{name!r} is a link of a kind that HDF5 does not define")
    if not _ends_here(group, link.path):
        raise _leads_out(path, f"{name!r} is a link to {link.path!r}, which is not in this file")
    return False


def _ends_here(group: h5py.Group, target: str) -> bool:
    """Whether each step of a soft link's path is a hard link or, in turn, a soft one that ends in this file."""
    place, left, steps = (group.file["/"] if target.startswith("/") else group), target.split("/"), 0
    while left:
        step = left.pop(0)
        if step in ("", "."):
            continue
        steps += 1
        if (
            steps > 100
            or not isinstance(place, h5py.Group)
            or step.encode("utf-8", "surrogateescape") not in set(place.id)
        ):
            return False
        kind = place.id.links.get_info(step.encode("utf-8", "surrogateescape")).type
        if kind == h5l.TYPE_SOFT:
            further = place.get(step, getlink=True).path
            place = place.file["/"] if further.startswith("/") else place
            left = [*further.split("/"), *left]
        elif kind == h5l.TYPE_HARD:
            place = place[step]
        else:
            return False
    return True


def _leads_out(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} refers to another file: {what}",
        "whoever made it could so bring any file that you can read into results that are shared; nothing was read",
        "ask for a file that holds its data itself; if it is your own, read it and write it to a new one",
    )


def foreign_filters(item: h5py.Dataset) -> dict[int, str]:
    """Filters by which a dataset is packed and that HDF5 itself does not have: number → name in the file."""
    plist = item.id.get_create_plist()
    found = (plist.get_filter(i) for i in range(plist.get_nfilters()))
    return {code: name.decode(errors="replace") for code, _flags, _values, name in found if code > LAST_OWN_FILTER}


LAST_OWN_FILTER = 255
"""HDF5 keeps numbers up to this for its own filters (deflate, shuffle, checksum, szip, ...)."""


def need_filters(filters: dict[int, str], path: Path) -> None:
    """Bring the plug-ins for filters (zstd of SnapATAC2 2.9, blosc, lz4, ...); refuse by name those nobody has.

    Parameters
    ----------
    filters
        Number of the filter → a dataset that is packed by it.
    """
    lacking = [code for code in filters if not h5py.h5z.filter_avail(code)]
    if lacking:
        import hdf5plugin  # noqa: F401  (registers its filters on import; a second of time, so only where needed)

        lacking = [code for code in lacking if not h5py.h5z.filter_avail(code)]
    if lacking:
        raise InputError(
            f"{path}: {filters[lacking[0]]!r} is packed by the HDF5 filter {lacking[0]}, which is not known here",
            "its values cannot be unpacked; the file itself is healthy",
            "write it again with gzip where it was written (adata.write_h5ad(..., compression='gzip')), or by "
            "`h5repack -f GZIP=4 in.h5ad out.h5ad`",
        )


_DAMAGE = re.compile(
    r"truncat|inflate|checksum|can't read data|unable to (synchronously )?(open|read)|addr overflow|end of file|eof"
    r"|wrong (fractal|b-tree|object)|bad (symbol|local|global|object|heap|version)|crc|corrupt|incorrect data check"
    r"|invalid (block|distance|code|stored)|signature|filter returned failure|file read failed|compressed",
    re.IGNORECASE,
)


def unread(path: Path, error: Exception) -> InputError:
    """Word the failure of a library in the middle of a file: damage only where bytes or checksums say so."""
    by_bytes = isinstance(error, (OSError, EOFError, zlib.error, RuntimeError)) and _DAMAGE.search(str(error))
    if by_bytes or isinstance(error, (EOFError, zlib.error)):
        return damaged(path, error)
    cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return Damaged(
        path,
        f"is laid out in a way that is not understood here ({cause})",
        "no byte of it is known to be damaged, but its counts and names could not be read",
        "open it with the program that wrote it, or with anndata.read_h5ad, and write it again (write_h5ad); R: "
        "anndataR::write_h5ad or an mtx folder by DropletUtils::write10xCounts",
    )


def damaged(path: Path, error: Exception) -> InputError:
    """Word that bytes of a file are missing or changed."""
    return Damaged(path, f"cannot be read to its end: {error}")
