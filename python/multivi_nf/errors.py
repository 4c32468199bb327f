"""The ways a step may end early, and how each is told to the user."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_in_shell = False


@contextmanager
def told_to_a_shell() -> Iterator[None]:
    """Write options as a shell takes them, :func:`option`, until the step is over."""
    global _in_shell
    before, _in_shell = _in_shell, True
    try:
        yield
    finally:
        _in_shell = before


def option(name: str, value: object = None, *, shell: str = "") -> str:
    """An option as the user of this moment writes it.

    Parameters
    ----------
    name, value
        `n_latent`, 10: told as `--n-latent 10` in a shell, as `n_latent=10` in Python; without a value the name alone.
    shell
        How a shell writes it, where its name differs there.
    """
    if not _in_shell:
        return name if value is None else f"{name}={value!r}"
    return (shell or "--" + name.replace("_", "-")) + ("" if value is None or value is True else f" {value}")


class InputError(Exception):
    """Something the user gave is wrong; the step stops with exit code 2.

    Subclasses for what the machine did (:mod:`multivi_nf.commands._trouble`) may have another `code`.

    Parameters
    ----------
    what
        What is wrong, with the offending value and its place (file, row, column, option).
    why
        Why it matters: what would go wrong if the step went on.
    remedy
        What to do, with the exact option, column or command.
    """

    code = 2

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(what, why, remedy)
        self.what = what
        self.why = why
        self.remedy = remedy
        self.several: tuple[InputError, ...] = ()

    def __str__(self) -> str:
        told = (f"ERROR: {one.what}\n  Why it matters: {one.why}\n  What to do: {one.remedy}" for one in self.problems)
        return "\n\n".join(told)

    @property
    def problems(self) -> tuple[InputError, ...]:
        """What is wrong, one by one: the error itself, or those it was joined from."""
        return self.several or (self,)

    @classmethod
    def all_of(cls, problems: Sequence[InputError]) -> InputError:
        """Join several problems into one error, so that the user sees them all in one go."""
        if len(problems) == 1:
            return problems[0]
        error = cls(f"{len(problems)} problems were found", problems[0].why, "mend all of them, then run again")
        error.several = tuple(one for problem in problems for one in problem.problems)
        return error


class Damaged(InputError):
    """A file does not hold, or no longer holds, what it was written with.

    Parameters
    ----------
    path
        The file, or the store it is in; a task of the pipeline names the task that wrote it.
    how
        What follows its name in the message.
    why, remedy
        As :class:`InputError`'s.
    """

    def __init__(
        self,
        path: os.PathLike[str],
        how: str,
        why: str = "the file is damaged, most often cut while copying",
        remedy: str = "copy or download it again; compare its checksum",
    ) -> None:
        super().__init__(f"{path}{'' if how.startswith((':', ',')) else ' '}{how}", why, remedy)
        self.path = path


class Interrupted(Exception):
    """The step saved a checkpoint and stopped on purpose: exit code 75 (time limit, SIGTERM) or 130 (Ctrl-C)."""

    def __init__(self, message: str, code: int = 75) -> None:
        self.code = code
        super().__init__(message)
