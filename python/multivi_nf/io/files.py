"""Writing files and folders so that a reader never sees half of one, and nothing is removed that is not ours.

A result is written under a temporary name beside its final one, brought to the disk, and takes its final name in one
step. A folder that is there already changes places with the new one (`renameat2`), so that at every moment the old or
the new one is there. What a killed process left is found by its name and removed, or put back, by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from multivi_nf.errors import InputError, option
from multivi_nf.io import processes
from multivi_nf.io.hdf5_writes import errors_kept

LONGEST_NAME = 255
"""Bytes of a file name (Linux)."""

STALE = 3600.0
"""Seconds without a change after which a half of another machine's process counts as left."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left, the quota is used up, the file would be larger than allowed."""


class DiskFull(InputError):
    """A result could not be written since the disk, or the user's share of it, is full."""


_HALF = re.compile(r"\.(new|old)-([0-9a-f]{8}-\d+-\d+)-\d+\.")
_FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|\bos error (28|122|27)\b|\berrno = (28|122|27)\b|"
    r"\d+ requested and \d+ written"  # numpy's tofile
)
_PROBE = re.compile(r"\.probe-[0-9a-f]{32}")
_EXCHANGE = 2
_HERE = -100  # AT_FDCWD
_counter = itertools.count()


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    Works for a file and for a directory (zarr). The suffix is kept, since writers such as
    :meth:`mudata.MuData.write` look at it. Whether a folder that is there may be replaced is asked before the work, by
    :func:`multivi_nf.io.outputs.check`; here only what can never be right is refused.

    Parameters
    ----------
    path
        The final name. Its parent directory is made if it is missing.

    Yields
    ------
    The temporary path to write to.

    Raises
    ------
    InputError
        A file stands where a folder is written or the reverse, the name is a link, a device or a mount point; or the
        disk is full.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    sweep(final)
    temporary = _beside(final, "new")
    try:
        with errors_kept(temporary):
            yield temporary
        _refuse_kind(final, temporary.is_dir())
        to_disk(temporary)
        _put(temporary, final)
    except Exception as error:
        if is_full(error) or (_is_unnamed(error) and _no_room(final.parent)):
            raise _full(final, temporary, error) from error
        raise
    finally:
        _remove(temporary, late=True)


@contextlib.contextmanager
def scratch(final: Path) -> Iterator[Path]:
    """Give a folder beside `final` for what a step needs on the way; it is removed, or swept by the next run's result.

    Parameters
    ----------
    final
        The result that is being made; its parent directory is made if it is missing.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    sweep(final)
    folder = _beside(final, "new")
    try:
        folder.mkdir()
        yield folder
    finally:
        _remove(folder, late=True)


def _put(temporary: Path, final: Path) -> None:
    """Give `temporary` its final name; a folder that stood there changes places with it and is removed."""
    if not (temporary.is_dir() and final.is_dir()):
        temporary.replace(final)
        sync(final.parent)
        return
    if exchanged(temporary, final):
        sync(final.parent)
        return  # the old folder bears the temporary name now, which the caller removes
    retired = _beside(final, "old")
    final.rename(retired)
    temporary.rename(final)
    sync(final.parent)
    _remove(retired)


def exchanged(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where kernel or file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(other))


def try_to_write(folder: Path, content: bytes = b"") -> None:
    """Write a small file into a folder and remove it, and what a killed process or a failing disk left of such a try.

    Raises
    ------
    OSError
        Nothing can be written there.
    """
    with contextlib.suppress(OSError):
        left = [entry for entry in os.scandir(folder) if _PROBE.fullmatch(entry.name)]
        for entry in left:
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size <= 1:
                Path(entry.path).unlink(missing_ok=True)
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        with probe.open("xb") as file:
            file.write(content)
    except OSError:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise
    probe.unlink(missing_ok=True)  # another process may have taken it for one that was left


def sweep(final: Path) -> None:
    """Remove what killed processes left of `final`, and put an old folder back whose new one never came."""
    tail = _tail(final.name)
    with contextlib.suppress(OSError):
        left = [path for path in final.parent.iterdir() if path.name.startswith(".") and path.name.endswith(tail)]
        for path in sorted(left):
            found = _HALF.match(path.name)
            if not found or path.name[found.end() :] != tail or not _left(path, found[2]):
                continue
            if found[1] == "old" and not os.path.lexists(final):
                path.rename(final)
            else:
                _remove(path)


def is_half(name: str) -> bool:
    """Whether a name is one that :func:`written_whole` gives to what is not yet, or no longer, a result."""
    return _HALF.match(name) is not None


def _left(path: Path, owner: str) -> bool:
    gone = processes.is_gone(owner)
    return gone if gone is not None else time.time() - _last_change(path) > STALE


def _last_change(path: Path) -> float:
    """Time of the newest change in a file or folder."""
    newest = path.lstat().st_mtime
    for folder, _, names in os.walk(path):
        for name in [folder, *(f"{folder}/{name}" for name in names)]:
            with contextlib.suppress(OSError):
                newest = max(newest, os.lstat(name).st_mtime)
    return newest


def _beside(final: Path, what: str) -> Path:
    return final.with_name(f".{what}-{processes.mark()}-{next(_counter)}.{_tail(final.name)}")


def _tail(name: str) -> str:
    """The end of a name, with its suffix, short enough to have a mark put before it."""
    while len(os.fsencode(name)) > LONGEST_NAME - 64:
        name = name[1:]
    return name


def _refuse_kind(final: Path, folder: bool) -> None:
    """Refuse to replace what can be no result of ours: a link, a device, a mount, a file by a folder or the reverse."""
    wrong = not_replaceable(final, folder)
    if wrong:
        raise InputError(
            f"{final} is {wrong}",
            "what stands there would be lost",
            f"give another {option('output')}, or move it away",
        )


def not_replaceable(path: Path, folder: bool) -> str:
    """What stands at `path` that no result may replace, in words; empty if nothing does."""
    if path.is_symlink():
        return f"a symbolic link to {path.readlink()}"
    if not path.exists():
        return ""
    if _is_mount(path):
        return "a mount point, which cannot be renamed (a volume of a container, a disk)"
    if path.is_dir():
        return "" if folder else "a folder, and a file is to be written"
    if not path.is_file():
        return "neither a file nor a folder"
    return "a file, and a folder is to be written" if folder else ""


def _is_mount(path: Path) -> bool:
    """Whether a disk, or a volume of a container, also of the same disk and also a single file, is mounted there."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return path.is_mount()
    place = re.sub(rb"[\x20\t\n\\]", lambda found: b"\\%03o" % found[0][0], os.fsencode(path.resolve()))
    return any(line.split(b" ")[4:5] == [place] for line in lines)


def _remove(path: Path, late: bool = False) -> None:
    """Remove a file or folder as far as that can be done.

    zarr writes in threads of its own: after an error one of them may still put a file back, and its folders (`late`).
    So whether a folder is gone is asked again a little later, and once more after that.
    """
    if path.is_dir() and not path.is_symlink():
        for wait in (0.02, 0.05, 0.1, 0.2) if late else (0.0,):
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(wait)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder and all below it, is on the disk, where the file system can tell."""
    if path.is_dir():
        places = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
        if len(places) > 200 and _sync_all(path):
            return
        for place in places:
            sync(place)
        for folder, _, _ in os.walk(path, topdown=False):
            sync(Path(folder))
    else:
        sync(path)


def sync(path: Path) -> None:
    """`fsync` of one file or folder. What the disk could not take is raised; that it cannot be asked is not."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def _sync_all(path: Path) -> bool:
    """`syncfs`: one call for the thousands of files of a store."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs(handle) == 0
    except (OSError, AttributeError):
        return False
    finally:
        os.close(handle)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that a disk or a quota is full; libraries only word it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, InputError):
            return False
        if getattr(error, "errno", None) in FULL or _FULL_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_unnamed(error: BaseException) -> bool:
    """Whether a library (htslib) says that a file could not be written, but not why."""
    return isinstance(error, OSError) and error.errno is None


def _no_room(folder: Path) -> bool:
    """Whether less than a block of 64 KiB, the most that htslib writes at once, is free."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < 1 << 16
    return False


def _full(final: Path, temporary: Path, error: Exception) -> InputError:
    written = _bytes(temporary)
    free = shutil.disk_usage(final.parent).free
    reason = (
        os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error).splitlines()[0][:200]
    )
    return DiskFull(
        f"the disk filled up while {final} was written: {written:,} bytes were written, {free:,} are free ({reason})",
        "half a result looks like a whole one; what was written has been removed",
        f"free space in {final.parent.absolute()} (or raise the quota), or give an {option('output')} on another disk; "
        "then run the same again",
    )


def _bytes(path: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        total += path.lstat().st_size if path.is_file() else 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{folder}/{name}").st_size
    return total
