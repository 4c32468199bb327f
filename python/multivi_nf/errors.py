"""The ways a step may end early, and how each is told to the user."""

from __future__ import annotations


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
        self.what = what
        self.why = why
        self.remedy = remedy
        super().__init__(f"ERROR: {what}\n  Why it matters: {why}\n  What to do: {remedy}")

    @classmethod
    def all_of(cls, problems: list[InputError]) -> InputError:
        """Join several problems into one error, so that the user sees them all in one go."""
        if len(problems) == 1:
            return problems[0]
        error = cls(f"{len(problems)} problems were found", problems[0].why, "mend all of them, then run again")
        error.args = ("\n\n".join(str(problem) for problem in problems),)
        return error


class Interrupted(Exception):
    """The step saved a checkpoint and stopped on purpose: exit code 75 (time limit, SIGTERM) or 130 (Ctrl-C)."""

    def __init__(self, message: str, code: int = 75) -> None:
        self.code = code
        super().__init__(message)
