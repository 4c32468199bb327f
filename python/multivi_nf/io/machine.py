"""Whether an error is the machine's (disk, server, memory, limits) and not that of what was read."""

from __future__ import annotations

import errno
import re

PASSING = tuple(
    getattr(errno, name)
    for name in (
        "EIO ESTALE ETIMEDOUT ENODEV EMFILE ENFILE EAGAIN ENOMEM ENOTCONN EHOSTDOWN EHOSTUNREACH ENETUNREACH "
        "EREMOTEIO ECONNREFUSED ECONNABORTED ESHUTDOWN EKEYEXPIRED ENOKEY EKEYREVOKED EKEYREJECTED"
    ).split()
)
"""What may be otherwise when the same is run again, with the same files."""

_WORDED = re.compile(r"\berrno = (\d+)\b|\bos error (\d+)\b|\[Errno (\d+)\]")


def errno_of(error: BaseException) -> int | None:
    """The number of a system's error; HDF5 and Rust only word it, and htslib says only that writing failed."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if not isinstance(error, Exception):
        return None
    found = _WORDED.search(str(error))
    if found:
        return int(next(filter(None, found.groups())))
    unsaid = isinstance(error, OSError) and re.search(r"BGZFile|building of index|Input/output error", str(error))
    return errno.EIO if unsaid else None


def chain(error: BaseException) -> list[BaseException]:
    """An error and those that it was raised from."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return found


def is_passing(error: BaseException) -> bool:
    """Whether an error, or one it was raised from, says that a disk, a server or the memory failed."""
    return any(isinstance(one, MemoryError) or errno_of(one) in PASSING for one in chain(error))
