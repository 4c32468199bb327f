"""What a run's inputs do not allow is told, and the run goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.io.files import written_whole


class NotPossible(InputError):
    """The inputs are right, but this part needs something that they do not have (fragments, genes, a sequence)."""


@contextlib.contextmanager
def told_in(facts: Path | None, part: str) -> Iterator[dict[str, object]]:
    """Note what a part made, or why it could not be made.

    Parameters
    ----------
    facts
        JSON to write: `part`, `done`, and what the block adds; where not done `what`, `why`, `remedy`. None: nothing is
        written, and what is not possible is an error as any other.
    part
        Name of the part, as in `regulation/<part>.json`.

    Yields
    ------
    A dictionary for what is worth telling. The report shows of it `told` (a sentence), `files` (paths below
    `regulation/`), `rows` (what the table holds) and `table` (a list of rows, whose `file` becomes a link).
    """
    found: dict[str, object] = {}
    try:
        yield found
        found = {"part": part, "done": True} | found
    except NotPossible as error:
        if facts is None:
            raise
        found = {"part": part, "done": False, "what": error.what, "why": error.why, "remedy": error.remedy}
    if facts is not None:
        with written_whole(facts) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")


def rows_of(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows of a table for `facts`: numbers of four digits, None where there is none (JSON knows no NaN)."""
    short = {name: table[name].map(lambda x: float(f"{x:.4g}")) for name in table.select_dtypes("floating")}
    plain = table.assign(**short).astype(object)
    return plain.where(table.notna(), None).to_dict("records")
