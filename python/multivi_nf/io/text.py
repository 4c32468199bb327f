"""Text as tools and spreadsheets of any country write it: how it is encoded, and what separates its columns."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from multivi_nf.errors import InputError

SEPARATORS = (",", ";", "\t")

_WORKBOOK = b"PK\x03\x04"
_SAYS_SO = re.compile(r'\A"?sep=(.)"?(\r\n|\n|\r)')


def decoded(raw: bytes, path: str | Path) -> str:
    """Decode text: UTF-8, UTF-16 (with its mark, or by its zeros), else Windows-1252, which holds Latin-1.

    Parameters
    ----------
    raw
        All bytes of the file.
    path
        Its name, for the message.

    Returns
    -------
    The text without a byte order mark; line ends as they are.

    Raises
    ------
    InputError
        Bytes that are no text, a workbook among them.
    """
    if raw.startswith(_WORKBOOK):
        raise InputError(
            f"{path} is no text but a packed file (a spreadsheet's workbook .xlsx, or a zip)",
            "names are read from it as text",
            "save the sheet as CSV and name that file",
        )
    tries = ["utf-8-sig", "cp1252"]
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        tries.insert(0, "utf-16")
    elif len(raw) > 3 and raw[:4].count(0) == 2 and raw[:2].count(0) == 1:
        tries.insert(0, "utf-16-be" if raw[0] == 0 else "utf-16-le")
    for encoding in tries:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8-sig" or "\0" not in text:
            return text
    raise InputError(
        f"{path} cannot be read as text (it starts with {raw[:8]!r})",
        "names are read from it",
        "save it as CSV or TSV, in UTF-8 or as a spreadsheet exports it",
    )


def separator_of(line: str) -> str:
    """Tell what separates the columns of a header line: the one of :data:`SEPARATORS` that it has most of."""
    bare = re.sub(r'"[^"]*"', "", line)
    return max(SEPARATORS, key=bare.count)


def records(text: str) -> tuple[list[tuple[int, list[str]]], str]:
    """Split a table into records.

    A line `sep=;` at the top, as spreadsheets write it, says what separates columns; else the first line that is not
    blank does. Columns at the end that have neither a name nor a value, which spreadsheets write too, are left out.

    Returns
    -------
    (line number on which the record starts, trimmed values) of each record that has any value, and the separator.

    Raises
    ------
    csv.Error
        Quotes that do not close, or stand inside a value.
    """
    said = _SAYS_SO.match(text)
    body = text[said.end() :] if said else text
    first = next((line for line in io.StringIO(body, newline="") if line.strip()), "")
    separator = said.group(1) if said else separator_of(first)
    reader = csv.reader(io.StringIO(body, newline=""), strict=True, delimiter=separator)
    found, start = [], 1
    for record in reader:
        found.append((start + bool(said), [value.strip() for value in record]))
        start = reader.line_num + 1
    found = [(line, values) for line, values in found if any(values)]
    if found:
        width = max(max((i + 1 for i, value in enumerate(values) if value), default=0) for _, values in found)
        named = max((i + 1 for i, value in enumerate(found[0][1]) if value), default=0)
        cut = max(width, named)
        found = [(line, values[:cut]) for line, values in found]
    return found, separator
