"""What a machine may do to a step: full disks, missing rights, vanished files, too little memory; and how it is told.

docs/reference/exit-codes.md explains exit codes; conf/base.config tries 137 again with more memory, 104 too, not 2.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from pathlib import Path

from multivi_nf.errors import Damaged, InputError
from multivi_nf.io.files import is_full
from multivi_nf.io.machine import chain, errno_of, is_passing

MEMORY = 137
"""Out of memory: what a process ends with that the kernel stops for it (128 + SIGKILL)."""


PEER = 104
"""A process of the training was lost: ECONNRESET, tried again."""


class Trouble(InputError):
    """Something on the machine is in the way; `code` is the exit code."""

    def __init__(self, what: str, why: str, remedy: str, code: int = 2) -> None:
        super().__init__(what, why, remedy)
        self.code = code


def with_origin(error: InputError) -> InputError:
    """Name the folder of the task that wrote a damaged file, in a task of Nextflow.

    A machine that goes down may cut what it had written; `-resume` takes such a result from its cache every time, until
    the folder of the task that wrote it is gone.
    """
    return InputError.all_of([_with_origin(one) for one in error.problems])


def _with_origin(error: InputError) -> InputError:
    task = Path.cwd()
    if not isinstance(error, Damaged) or not (task / ".command.sh").is_file():
        return error
    above = (folder for folder in Path(error.path).resolve().parents if folder != task)
    origin = next((folder for folder in above if (folder / ".command.sh").is_file()), None)
    if origin is None:
        return error
    hint = f"; if the machine went down while it was written, delete the work folder {origin} and run with -resume"
    return InputError(error.what, error.why, error.remedy + hint)


_MEMORY_WORDS = re.compile(
    r"out of memory|std::bad_alloc|bad_array_new_length|[Cc]annot allocate memory|can't allocate memory|"
    r"[Uu]nable to allocate|memory allocation failed|allocation failed|"
    r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|"
    r"not enough memory|malloc failed|unable to mmap"
)
_MEMORY_NAMES = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError", "ArrowMemoryError")


def trouble_of(error: BaseException) -> Trouble | None:
    """The trouble that an exception, or one it was raised from, tells of; None where it tells of none (a bug)."""
    for one in chain(error):
        found = _memory(one) or _library(one) or _peer(one) or _system(one) or _unreadable(one)
        if found is not None:
            return found
    return None


_READING = "Error raised while reading key"
"""What anndata adds to whatever goes wrong while it reads a part of an h5ad, an h5mu or a store."""

_HDF5_OR_ZARR = (".h5", ".h5ad", ".h5mu", ".zarr")


def _unreadable(error: BaseException) -> Trouble | None:
    notes = [note for note in getattr(error, "__notes__", ()) if _READING in note]
    if not notes:
        return None
    key = re.search(r"reading key '([^']*)'", notes[0])
    where = f"{_file_of(error)}: {key[1][:80] or 'the whole'!r}" if key else _file_of(error)
    return Trouble(
        f"{where} cannot be read ({type(error).__name__}: {_first_line(error)[:200]})",
        "the file is damaged, or was not written by the step or tool that its name tells",
        "copy it again, or run the step that writes it again",
    )


def _file_of(error: BaseException) -> str:
    """Name of the HDF5 file or zarr store that was being read when an exception was raised (closed by now)."""
    place, found = error.__traceback__, "a file"
    while place is not None:
        values = list(place.tb_frame.f_locals.values())
        named = [str(v) for v in values if isinstance(v, (str, Path)) and str(v).endswith(_HDF5_OR_ZARR)]
        found, place = (named or [found])[-1], place.tb_next
    return found


def of_the_machine(error: InputError) -> InputError:
    """The trouble behind a refusal: a reader may have taken a failing disk, or a lack of memory, for a damaged file."""
    cause = error.__cause__
    trouble = trouble_of(cause) if cause is not None and (is_passing(cause) or is_memory(cause)) else None
    if trouble is None:
        return error
    return Trouble(f"{trouble.what}; {error.what}", trouble.why, trouble.remedy, trouble.code)


def is_memory(error: BaseException) -> bool:
    """Whether an exception, or one it was raised from, says that memory ran out."""
    return any(_memory(one) is not None for one in chain(error))


def _memory(error: BaseException) -> Trouble | None:
    names = {kind.__name__ for kind in type(error).__mro__}
    worded = isinstance(error, (RuntimeError, OSError, ValueError)) and _MEMORY_WORDS.search(str(error))
    if not (names & set(_MEMORY_NAMES) or worded or getattr(error, "errno", None) == errno.ENOMEM):
        return None
    device = "CUDA" in str(error) or "CUBLAS" in str(error)
    said = _first_line(error)
    return Trouble(
        f"the {'GPU has' if device else 'step ran'} {'too little' if device else 'out of'} memory"
        + (f" ({said})" if said else ""),
        "nothing of a result was written",
        "the pipeline tries again with more; from the shell, run it where more memory is free"
        + (" or with --device cpu" if device else ", or with fewer cells or features"),
        MEMORY,
    )


def _library(error: BaseException) -> Trouble | None:
    """A library that the loader could not map: it asks for address space, and for a disk whose files may be run."""
    if not (isinstance(error, (ImportError, OSError)) and "failed to map segment" in str(error)):
        return None
    said = _first_line(error)
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return Trouble(
            f"the step's address space is too small for its libraries ({said})",
            "nothing of a result was written",
            "the pipeline tries again with more; from the shell, raise the limit (ulimit -v, a scheduler's h_vmem)",
            MEMORY,
        )
    return Trouble(
        f"a library cannot be loaded ({said})",
        "no step runs without it",
        "install where programs may be started (no disk that is mounted noexec), and see that memory is free",
    )


_PEER_WORDS = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|remote process exited|Socket closed|"
    r"Timed out waiting|[Cc]onnection (was likely )?closed|failed to recv|failed to connect"
)


def _peer(error: BaseException) -> Trouble | None:
    """One of several processes that train together lost another: gloo, NCCL and their store have no class for it."""
    together = os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")
    if not (together and isinstance(error, RuntimeError) and _PEER_WORDS.search(str(error))):
        return None
    return Trouble(
        f"a process that trained together with this one is gone ({_first_line(error)})",
        "the model is trained by all of them; if its own message is not above, its node or its process was killed",
        "the pipeline goes on from the last checkpoint; from the shell, run the same again with --resume",
        PEER,
    )


def _system(error: BaseException) -> Trouble | None:
    if is_full(error):
        return Trouble(
            f"the disk, or your share of it, is full{_at(error)}",
            "what was to be written would be cut",
            "free space there (TMPDIR names the place of scratch files), then run the same again",
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return Trouble(
            "no further thread can be started",
            "your number of processes is limited here (ulimit -u)",
            "raise the limit, end other processes, or set OMP_NUM_THREADS=1",
        )
    code = errno_of(error)
    if code not in _SYSTEM:
        return None
    what, why, remedy = _SYSTEM[code]
    return Trouble(f"{what}{_at(error)}", why, remedy)


_LOST = (
    "the input has changed under the step; what it read so far cannot be trusted",
    "see that nothing moves or deletes it, then run the same again",
)
_RIGHTS = (
    "the step can go on only where it may read and write",
    "change the permissions (chmod, chown), or give another place",
)
_SYSTEM = {
    errno.EACCES: ("permission is denied", *_RIGHTS),
    errno.EPERM: ("the operation is not permitted", *_RIGHTS),
    errno.EROFS: ("the file system is read-only", *_RIGHTS),
    errno.ENOENT: ("a file or folder is not there (any more)", *_LOST),
    errno.ENOTDIR: ("a part of the path is no folder", *_LOST),
    errno.ESTALE: ("the file vanished from its server (stale file handle)", *_LOST),
    errno.ENODEV: ("the device is gone", *_LOST),
    errno.EISDIR: ("a folder stands where a file is meant", "nothing can be read or written there", "name a file"),
    errno.EIO: ("the disk or its server cannot be read or written (I/O error)",
                "a result made from it could be wrong",
                "have the disk checked, or copy the files; then run the same again"),
    **dict.fromkeys(
        (errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EREMOTEIO,
         errno.ECONNREFUSED, errno.ECONNABORTED, errno.ESHUTDOWN),
        ("the file server does not answer", "the result is not complete",
         "see that the disk is mounted (`df` of the path); then run the same again"),
    ),
    **dict.fromkeys(
        (errno.EKEYEXPIRED, errno.ENOKEY, errno.EKEYREVOKED, errno.EKEYREJECTED),
        ("the file server knows you no longer (its key, or your ticket, has expired)", "the result is not complete",
         "log in again (Kerberos: kinit), or ask who runs the server; then run the same again"),
    ),
    errno.EBUSY: ("the file or folder is in use and cannot be replaced",
                  "the result would have to take its place", "name another place, or unmount what is there"),
    errno.ENOLCK: ("the file server gives no locks", "two runs could write one file", "name a place on another disk"),
    errno.ENXIO: ("the device or socket is not there", *_LOST),
    errno.ENAMETOOLONG: ("a name is too long", "the file system takes 255 bytes a name", "give a shorter one"),
    errno.EMFILE: ("too many files are open", "their number is limited (ulimit -n)", "ulimit -n 4096"),
    errno.ENFILE: ("too many files are open on this machine", "their number is limited", "run the same again later"),
    errno.EAGAIN: ("no further process can be started", "their number is limited here (ulimit -u)", "raise the limit"),
    errno.ELOOP: ("the path is a loop of symbolic links", "nothing can be read or written there", "correct the link"),
}  # fmt: skip


def _at(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    if not name or isinstance(name, int):
        said = _first_line(error)
        return f" ({said})" if said else ""
    return f": {os.fsdecode(name)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else ""
