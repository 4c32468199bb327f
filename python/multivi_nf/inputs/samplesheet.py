"""The samplesheet, checked as a whole.

Every problem of a sheet is found in one go; each names line and column.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from multivi_nf.errors import InputError
from multivi_nf.inputs.table import Table, read_table
from multivi_nf.io.limits import read_json
from multivi_nf.io.records import check_keys, from_json, left_out
from multivi_nf.modalities import MODALITIES

FILE_COLUMNS = ("rna", "fragments", "atac", "protein", "h5mu", "peaks", "barcodes", "barcode_map", "cells", "hto")
DATA_COLUMNS = ("rna", "fragments", "atac", "protein", "h5mu")
NAMING_COLUMNS = ("batch_column", "sample_column")
"""Columns that name a column of the sample's own annotation (obs of its files, or its table of cells)."""
KNOWN_COLUMNS = ("sample", *FILE_COLUMNS, "batch", *NAMING_COLUMNS)
RESERVED = (
    "barcode",
    "calibrated",
    "cell",
    "cell_type_by_markers",
    "cluster",
    "has_atac",
    "has_protein",
    "has_rna",
    "index",
    "_index",
    "measured",
    "modality",
    "modalities",
    "obs_names",
    "out_of_support",
    "scvi_batch",
    "support_p",
)
RESERVED_PREFIXES = ("rna_", "atac_", "protein_", "rna:", "atac:", "protein:", "X_")
OWN_COLUMNS = ("sample", "batch", "modality", "has_rna", "has_atac", "has_protein")

NAME = re.compile(r"[A-Za-z0-9._-]+")
LONGEST_NAME = 100
"""Letters of a sample's or contrast's name: file names are made of it and its step, and may have 255 bytes."""
_METADATA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*( [A-Za-z0-9_.-]+)*")
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_UNSTAGED = re.compile(r"\$[A-Za-z0-9_@*#?$-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Sample:
    """One row of the samplesheet.

    Attributes
    ----------
    sample, batch
        Names; the batch defaults to the sample.
    files
        Column → absolute path or URI; None where the row has none. All of :data:`FILE_COLUMNS` are keys.
    metadata
        Column → text, of every further column.
    naming
        `batch_column`, `sample_column` → the column of the sample's own annotation that they name, where they do.
    hto_features
        Names of hashtags, where the column `hto` holds such instead of a file; else "".
    """

    sample: str
    batch: str
    files: dict[str, str | None]
    metadata: dict[str, str]
    naming: dict[str, str] = left_out({})
    hto_features: str = left_out("")

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities the row has files for, in the order rna, atac, protein; what its h5mu holds is not counted."""
        has_atac = self.files["atac"] is not None or self.files["fragments"] is not None
        has = {"rna": self.files["rna"] is not None, "atac": has_atac, "protein": self.files["protein"] is not None}
        return tuple(modality for modality in MODALITIES if has[modality])

    @property
    def annotated(self) -> bool:
        """Whether cells may bring columns of their own, which are only known once the files are read."""
        files = [path or "" for path in self.files.values()]
        listed = self.files.get("barcodes") or ""
        table = (
            self.files.get("cells")
            or self.files.get("hto")
            or self.hto_features
            or not re.search(r"(^$|\.txt|barcodes\.tsv)(\.gz)?$", listed)
        )
        return bool(table) or any(path.rstrip("/").endswith((".h5ad", ".h5mu", ".zarr")) for path in files)

    def to_json(self) -> dict[str, object]:
        """Give the row as the pipeline passes it on: `sample`, `batch`, one key a file column, `metadata`."""
        row: dict[str, object] = {"sample": self.sample, "batch": self.batch, **self.files, "metadata": self.metadata}
        more = {"hto_features": self.hto_features, "naming": self.naming}
        return row | {name: value for name, value in more.items() if value}

    @classmethod
    def from_json(cls, content: object, place: str | Path) -> Sample:
        """Read what :meth:`to_json` gave; a file column that is not there is empty, as in a sheet."""
        more = dict.fromkeys((*FILE_COLUMNS, "hto_features", "naming"), False)
        row = dict(check_keys(content, {"sample": True, "batch": True, "metadata": True, **more}, place))
        return from_json(cls, {"files": {column: row.pop(column, None) for column in FILE_COLUMNS}, **row}, place)


def _resolved(value: str, base: str) -> str:
    if _URI.match(value) or value.startswith("/"):
        return value
    return f"{base.rstrip('/')}/{value.removeprefix('./')}"


def read_samplesheet(
    path: str | Path,
    base_dir: str | None = None,
    missing: Iterable[str] | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
) -> list[Sample]:
    """Read and check a samplesheet.

    Parameters
    ----------
    path
        CSV with a header line.
    base_dir
        What relative paths are relative to, a folder or URI; default: the sheet's folder.
    missing
        Values of file columns that are known not to exist, as written in the sheet. By default local files are looked
        for; URIs never are.
    columns
        Parameter (`--peak_group`) → the column that it names, which must be there.

    Returns
    -------
    Samples in the order of the sheet.

    Raises
    ------
    InputError
        All problems of the sheet in one.
    """
    path = Path(path)
    table = read_table(path, ["sample"], "samplesheet")
    base = str(path.resolve().parent) if base_dir is None else base_dir
    absent = None if missing is None else set(missing)
    _check_header(table)
    metadata = [name for name in table.header if name and name not in KNOWN_COLUMNS]
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for line, row in table.rows:
        name = row.get("sample", "")
        _check_name(table, line, name, seen)
        files = {column: _resolved(row[column], base) if row.get(column) else None for column in FILE_COLUMNS}
        tags = _hashtag_names(row.get("hto", ""), base, absent)
        if tags:
            files["hto"] = None
        _check_files(table, line, row, files, absent)
        batch = row.get("batch") or name
        for column in ["batch", *metadata]:
            if _CONTROL.search(row.get(column, "")):
                table.add(
                    line,
                    column,
                    f"{row[column]!r} holds unprintable characters",
                    "it would break tables and figures",
                    "write plain text",
                )
        naming = {column: row[column] for column in NAMING_COLUMNS if row.get(column)}
        if naming.get("batch_column") and row.get("batch"):
            table.add(
                line,
                "batch_column",
                f"{row['batch_column']!r}, and the column batch says {row['batch']!r}",
                "a cell has one batch",
                "leave one of the two empty",
            )
        samples.append(Sample(name, batch, files, {column: row[column] for column in metadata}, naming, tags))
    samples = _with_points(samples, metadata, table.separator)
    _check_shared_files(table, samples)
    table.problems += unknown_columns(path.name, columns, metadata)
    if table.problems:
        raise InputError.all_of(table.problems)
    return samples


_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+")
_NUMBER = re.compile(r"[-+]?[0-9]+([.][0-9]+)?")


def _with_points(samples: list[Sample], metadata: list[str], separator: str) -> list[Sample]:
    """Write decimal commas as points, in columns of a sheet without commas between its columns that hold only numbers.

    Where commas separate, a quoted `1,5` may be two things; there every value is kept as it is.
    """
    if separator == ",":
        return samples
    for column in metadata:
        values = [sample.metadata[column] for sample in samples if sample.metadata[column]]
        decimal = [_DECIMAL_COMMA.fullmatch(value) is not None for value in values]
        if any(decimal) and all(comma or _NUMBER.fullmatch(value) for comma, value in zip(decimal, values)):
            for sample in samples:
                sample.metadata[column] = sample.metadata[column].replace(",", ".")
    return samples


def _check_header(table: Table) -> None:
    for name in filter(None, table.header):
        if name in KNOWN_COLUMNS:
            continue
        if name in RESERVED or name.startswith(RESERVED_PREFIXES):
            table.add(
                1,
                name,
                "this name is reserved for a column that the pipeline writes itself",
                "the metadata would be overwritten, or hide a result",
                f"rename it, e.g. to {_free_name(f'my_{name}')!r}",
            )
            continue
        close = difflib.get_close_matches(name.lower(), KNOWN_COLUMNS, 1, 0.8)
        if close and close[0] not in table.header:
            table.add(
                1,
                name,
                f"is no known column, but close to {close[0]!r}",
                "it would be taken as metadata and its files ignored",
                f"rename it to {close[0]!r}, or to something less alike if it is metadata",
            )
        elif not _METADATA_NAME.fullmatch(name):
            table.add(
                1,
                name,
                "metadata columns are named by letters, digits, '_', '.', '-' and single blanks",
                "the name becomes a column of obs and part of file names",
                f"rename it, e.g. to {_free_name(name)!r}",
            )


_MATRIX = re.compile(r"/|\.(h5|hdf5|h5ad|h5mu|zarr|mtx)(\.gz)?$")


def _hashtag_names(value: str, base: str, absent: set[str] | None) -> str:
    """Give the value of the column `hto` if it names hashtags (`HTO_A|HTO_B`), "" if it names a file or nothing."""
    if not value or _MATRIX.search(value):
        return ""
    there = value not in absent if absent is not None else _is_there(_resolved(value, base))
    return "" if there else value


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long to be a path
        return False


def _free_name(name: str) -> str:
    """Give a name that a metadata column may have, as near as can be."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", plain).strip("_")
    return plain if plain[:1].isalpha() else f"my_{plain or 'column'}"


def _check_name(table: Table, line: int, name: str, seen: dict[str, int]) -> None:
    if "sample" not in table.header:
        return
    if not name:
        table.add(line, "sample", "is empty", "results are named by it", "give the sample a name")
    elif not NAME.fullmatch(name) or name in (".", ".."):
        table.add(
            line,
            "sample",
            f"{name!r} is no sample name",
            "files and cells are named by it",
            "use letters, digits, '.', '_' and '-' only, not '.' or '..'",
        )
    elif len(name) > LONGEST_NAME:
        table.add(
            line,
            "sample",
            f"{name[:20]!r}... has {len(name)} letters",
            "files are named by it, and their names have an end",
            f"give a name of at most {LONGEST_NAME} letters",
        )
    elif name in seen:
        table.add(
            line,
            "sample",
            f"{name!r} is already in line {seen[name]}",
            "its cells would be mixed up",
            "give each row its own name; several lanes of one well must be joined before",
        )
    seen.setdefault(name, line)


def _check_files(
    table: Table, line: int, row: dict[str, str], files: dict[str, str | None], absent: set[str] | None
) -> None:
    if not any(files[column] for column in DATA_COLUMNS):
        table.add(
            line,
            "rna",
            f"sample {row.get('sample', '')!r} has no file in any of {', '.join(DATA_COLUMNS)}",
            "it has no cells",
            "name at least one of them, or remove the row",
        )
    for column, resolved in files.items():
        if resolved is not None:
            _check_file(table, (line, column), row[column], resolved, absent)
    if files["barcode_map"] and not (files["fragments"] or files["atac"] or files["h5mu"]):
        table.add(
            line,
            "barcode_map",
            "the row has no ATAC data whose barcodes it could translate",
            "the map would have no effect",
            "name fragments or atac, or leave barcode_map empty",
        )
    if files["peaks"] and not files["fragments"]:
        table.add(
            line,
            "peaks",
            "the row has no fragments that its peaks could be counted on",
            "the peaks would have no effect",
            "name fragments, or leave peaks empty",
        )


def _check_file(table: Table, place: tuple[int, str], given: str, resolved: str, absent: set[str] | None) -> None:
    """Look at the file that stands, as `given`, in a line and column."""
    column, name = place[1], Path(resolved).name
    if _CONTROL.search(resolved):
        table.add(*place, f"{given!r} holds unprintable characters", "no file is called so", "retype it")
        return
    if _UNSTAGED.search(resolved):
        table.add(
            *place,
            f"{resolved!r} holds a $ that a shell takes for a variable",
            "Nextflow's own scripts leave it unquoted, so that another file, or none, would reach the step",
            "rename the file or its folder (a link will do), and correct the sheet",
        )
        return
    gone = given in absent if absent is not None else not _URI.match(resolved) and not _is_there(resolved)
    if gone:
        correct = "correct the path (relative ones are relative to the samplesheet)"
        table.add(*place, f"file {resolved} does not exist", "the sample cannot be read", correct)
    if column == "fragments" and re.search(r"\.(h5|h5ad|mtx|bam|tbi|bw)$", resolved):
        belongs = "name fragments.tsv.gz; matrices belong in rna, atac or protein"
        table.add(*place, f"{name} is no fragments file", "lines of fragments are read from it", belongs)
    if column in MODALITIES and re.search(r"fragments.*\.tsv(\.gz)?$", resolved):
        belongs = "name it in the column fragments"
        table.add(*place, f"{name} is no count matrix", "a matrix is read from it", belongs)


def _check_shared_files(table: Table, samples: list[Sample]) -> None:
    users: dict[tuple[str, str], list[tuple[int, Sample]]] = defaultdict(list)
    for (line, _row), sample in zip(table.rows, samples):
        for column in DATA_COLUMNS:
            path = sample.files[column]
            if path:
                users[column, path].append((line, sample))
    for (column, _file), rows in users.items():
        lists = [sample.files["barcodes"] for _line, sample in rows]
        if len(rows) > 1 and len(set(lists)) < len(lists):
            line, sample = rows[-1]
            table.add(
                line,
                column,
                f"sample {sample.sample!r} names the same file as line {rows[0][0]}",
                "its cells would be counted twice",
                "name each sample's own file, or split it by different cell lists in the column barcodes",
            )


def unknown_columns(place: str, columns: Mapping[str, str], metadata: Sequence[str]) -> list[InputError]:
    """Refuse the columns that parameters name (parameter → column) where neither the sheet nor a run has them."""
    return [
        unknown_column(place, column, metadata, parameter)
        for parameter, column in columns.items()
        if column not in (*metadata, *OWN_COLUMNS)
    ]


def unknown_column(place: str, column: str, metadata: Sequence[str], asker: str) -> InputError:
    """Word the refusal of a column of `obs` that will not exist, with the nearest one that will."""
    near = difflib.get_close_matches(column, [*metadata, *OWN_COLUMNS], 1, 0.6)
    choices = ", ".join([*metadata, *OWN_COLUMNS, "cluster"])
    return InputError(
        f"{place}: {asker} names the column {column!r}, which no sample has",
        "cells could not be grouped by it",
        (f"did you mean {near[0]!r}? " if near else "") + f"Columns there are: {choices}; add one to the samplesheet",
    )


def read_samples_json(path: str | Path) -> list[Sample]:
    """Read the samples of what `check-samplesheet` wrote (:class:`multivi_nf.inputs.schemas.CheckedSheet`)."""
    content = read_json(Path(path))
    if not isinstance(content, list):
        content = check_keys(content, {"samples": True, "contrasts": False, "columns": False}, path)["samples"]
    if not isinstance(content, list):
        content = [content]
    return [Sample.from_json(row, f"{path}, row {number}") for number, row in enumerate(content, 1)]


def values_of(samples: Sequence[Sample], column: str) -> list[str] | None:
    """Give the values that the sheet's cells have in a column of `obs`, or None if the sheet does not decide it."""
    if column == "sample" and not any("sample_column" in sample.naming for sample in samples):
        return [sample.sample for sample in samples]
    if column == "batch" and not any(sample.naming for sample in samples):
        return list(dict.fromkeys(sample.batch for sample in samples))
    if column in ("sample", "batch"):
        return None
    if any(column in sample.metadata for sample in samples):
        return list(dict.fromkeys(value for sample in samples if (value := sample.metadata[column])))
    return None
