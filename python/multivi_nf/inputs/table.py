"""Tables that users write by hand: read line by line, so that every problem can name its place."""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from multivi_nf.errors import InputError
from multivi_nf.io.limits import DAMAGED, LARGEST_SHEET, read_bytes
from multivi_nf.io.text import decoded, records

_CALLED = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass
class Table:
    """A table that a user wrote by hand, with the problems found in it so far."""

    path: Path
    header: list[str]
    rows: list[tuple[int, dict[str, str]]]  # line number in the file, column → trimmed text
    problems: list[InputError] = field(default_factory=list)
    separator: str = ","

    def add(self, line: int, column: str, what: str, why: str, remedy: str) -> None:
        """Note a problem and its place."""
        self.problems.append(InputError(f"{self.path.name}, line {line}, column {column!r}: {what}", why, remedy))


def read_table(path: Path, required: Sequence[str], kind: str) -> Table:
    """Read a table with a header line; what is wrong with its shape is noted in `problems`, each with line and column.

    Columns may be separated by commas, semicolons or tabs, in any encoding of :func:`multivi_nf.io.text.decoded`.

    Raises
    ------
    InputError
        Nothing can be read: no such file, no text, no CSV.
    """
    if not path.is_file():
        raise InputError(f"{kind} {path} does not exist", "nothing says what to work on", "correct the path")
    try:
        raw = read_bytes(path, longest_line=None, most_bytes=LARGEST_SHEET)
    except DAMAGED as error:
        raise InputError(
            f"{kind} {path} cannot be read: {error}", "nothing says what to work on", "give a readable CSV"
        ) from error
    text = decoded(raw, f"{kind} {path}")
    if not text.strip():
        raise InputError(
            f"{kind} {path} is empty", "nothing says what to work on", f"give columns {', '.join(required)}"
        )
    try:
        lines, separator = records(text)
    except csv.Error as error:
        raise InputError(f"{kind} {path} is no CSV: {error}", "rows could not be read", "save it as CSV") from error
    header = lines[0][1]
    table = Table(path, header, [], separator=separator)
    _check_header(table, required)
    for line, values in lines[1:]:
        if len(values) != len(header):
            table.add(
                line,
                header[0],
                f"{len(values)} values where the header has {len(header)}",
                "values would slip into the wrong columns",
                f"give one value a column; quote values with {_CALLED.get(separator, separator)}",
            )
            continue
        table.rows.append((line, dict(zip(header, values))))
    if not table.rows and not table.problems:
        table.problems.append(
            InputError(f"{path.name} has a header and no row", "there is nothing to work on", "add one row each")
        )
    return table


def _check_header(table: Table, required: Sequence[str]) -> None:
    """Note columns that are missing, come twice or have no name."""
    for column in required:
        if column not in table.header:
            close = difflib.get_close_matches(column, [name.lower() for name in table.header], 1, 0.75)
            spelled = next((name for name in table.header if close and name.lower() == close[0]), None)
            found, place = ", ".join(filter(None, table.header)), f"{table.path.name}, line 1"
            what = f"{place}: column {column!r} is missing (found: {found})"
            remedy = f"rename {spelled!r} to {column!r}" if spelled else f"add a column {column!r}"
            table.problems.append(InputError(what, f"each row needs its {column}", remedy))
    for name, n in Counter(table.header).items():
        if n > 1:
            table.add(1, name, f"occurs {n} times", "which one is meant cannot be known", "keep one of them")
        if not name:
            table.add(1, name, "a column has no name", "its values could not be used", "name it or remove it")
