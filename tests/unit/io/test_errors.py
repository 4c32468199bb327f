"""Several problems stay several until they are printed."""

from __future__ import annotations

import pickle

from multivi_nf.errors import InputError

ONE, TWO, THREE = (InputError(f"what {n}", f"why {n}", f"remedy {n}") for n in (1, 2, 3))


def test_problems_joined_twice_are_told_one_by_one() -> None:
    joined = InputError.all_of([InputError.all_of([ONE, TWO]), THREE])
    assert joined.problems == (ONE, TWO, THREE)
    assert str(joined) == "\n\n".join(map(str, (ONE, TWO, THREE)))
    assert str(ONE) == "ERROR: what 1\n  Why it matters: why 1\n  What to do: remedy 1"


def test_one_problem_is_itself() -> None:
    assert InputError.all_of([ONE]) is ONE and ONE.problems == (ONE,)
    assert str(pickle.loads(pickle.dumps(ONE))) == str(ONE)
