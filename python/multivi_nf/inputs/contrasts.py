"""Which groups of cells are compared: contrasts.csv, and whether the groups exist. No torch, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.inputs.labels import label_text, spelled
from multivi_nf.inputs.samplesheet import LONGEST_NAME, NAME, OWN_COLUMNS, Sample, unknown_column, values_of
from multivi_nf.inputs.table import Table, read_table
from multivi_nf.modalities import MODALITIES

if TYPE_CHECKING:
    from mudata import MuData

COLUMNS = ("contrast", "modality", "groupby", "target", "reference", "cells")
CELLS = ("all", "observed", "imputed")
SAME_DATA_COLUMNS = ("cluster",)
"""Columns of obs that were made from the same counts that a contrast tests."""


REST, EACH = "rest", "each"
"""Keywords: all other groups together, every group in turn. A group of that name is meant before the keyword `rest`."""


class NothingToCompare(InputError):
    """The groups of a contrast exist, but fewer than two of them have cells enough."""


@dataclass(frozen=True)
class Contrast:
    """One comparison, a row of contrasts.csv."""

    contrast: str
    modality: str
    groupby: str
    target: str
    reference: str = "rest"
    cells: str = "observed"


def read_contrasts(
    path: str | Path, samples: Sequence[Sample] | None = None, annotations: dict[str, list[str]] | None = None
) -> list[Contrast]:
    """Read and check contrasts.csv; all its problems are told at once.

    Parameters
    ----------
    path
        CSV, columns :data:`COLUMNS`. An empty `reference` is `rest`, an empty `cells` is `observed`.
    samples
        The samplesheet, whose modalities, columns and groups are looked for. None: only the table itself is checked.
    annotations
        Column → values of the cell annotation in `.h5ad` inputs. None: not known yet; a column that the sheet lacks
        is let pass if any input is an `.h5ad`, to be checked once they are read.

    Returns
    -------
    Rows in file order.

    Raises
    ------
    InputError
        All problems of the table in one.
    """
    path = Path(path)
    table = read_table(path, ["contrast", "modality", "groupby", "target"], "table of contrasts")
    for name in table.header:
        if name and name not in COLUMNS:
            table.add(
                1, name, "is no known column", "it would be ignored", f"remove it; the columns are {', '.join(COLUMNS)}"
            )
    rows: list[Contrast] = []
    seen: dict[str, int] = {}
    for line, given in table.rows:
        named = {column: given.get(column, "") for column in COLUMNS}
        defaults = {"reference": named["reference"] or "rest", "cells": named["cells"] or "observed"}
        row = Contrast(**named | defaults)
        _check_contrast(table, line, row, samples, seen)
        if samples is not None and row.groupby:
            table.problems += _group_problems(f"{path.name}, line {line}", row, samples, annotations)
        rows.append(row)
    if table.problems:
        raise InputError.all_of(table.problems)
    return rows


def _check_contrast(
    table: Table, line: int, row: Contrast, samples: Sequence[Sample] | None, seen: dict[str, int]
) -> None:
    name = row.contrast
    if not NAME.fullmatch(name) or name in (".", ".."):
        table.add(
            line,
            "contrast",
            f"{name!r} is no name",
            "the result file is named by it",
            "use letters, digits, '.', '_' and '-' only",
        )
    elif len(name) > LONGEST_NAME:
        table.add(
            line,
            "contrast",
            f"{name[:20]!r}... has {len(name)} letters",
            "the result file is named by it",
            f"give a name of at most {LONGEST_NAME} letters",
        )
    elif name in seen:
        table.add(
            line,
            "contrast",
            f"{name!r} is already in line {seen[name]}",
            "one result would replace the other",
            "give each contrast its own name",
        )
    seen.setdefault(name, line)
    any_of_them = samples is None or any(sample.files["h5mu"] for sample in samples)  # what it holds is known later
    measured = {m for sample in samples or () for m in sample.modalities}
    present = [m for m in MODALITIES if any_of_them or m in measured]
    if row.modality not in present:
        known = "is measured in no sample" if row.modality in MODALITIES else "is no modality"
        table.add(
            line, "modality", f"{row.modality!r} {known}", "there is nothing to compare", f"one of {', '.join(present)}"
        )
    if row.cells not in CELLS:
        table.add(
            line,
            "cells",
            f"{row.cells!r} is not known",
            "which cells are compared must be clear",
            f"one of {', '.join(CELLS)}",
        )
    if row.target == "each" and row.reference != "rest":
        table.add(
            line,
            "reference",
            f"{row.reference!r} with target 'each'",
            "each group is compared with the rest",
            "leave it empty or write rest",
        )
    if not row.groupby:
        table.add(line, "groupby", "is empty", "cells are grouped by a column of obs", "name one, such as cluster")
    if not row.target:
        table.add(line, "target", "is empty", "which group is compared must be clear", "a value of the column, or each")
    elif row.target == row.reference != REST:  # a group called rest against all others
        table.add(
            line,
            "reference",
            f"target and reference are both {row.target!r}",
            "a group does not differ from itself",
            "name another value, or rest",
        )


def check_contrast_groups(
    contrasts: Sequence[Contrast], samples: Sequence[Sample], annotations: dict[str, list[str]]
) -> list[InputError]:
    """Check once more that all groups of the contrasts have cells, now that the annotation of `.h5ad` inputs is known.

    Parameters
    ----------
    contrasts
        Of :func:`read_contrasts`.
    annotations
        Column → values of the cell annotation.
    """
    return [
        problem
        for row in contrasts
        for problem in _group_problems(f"contrast {row.contrast!r}", row, samples, annotations)
    ]


def _group_problems(
    place: str, row: Contrast, samples: Sequence[Sample], annotations: dict[str, list[str]] | None
) -> list[InputError]:
    column = row.groupby
    if column == "cluster":
        return []  # known after EMBED only
    values = values_of(samples, column)
    if values is None and annotations is not None:
        values = annotations.get(column)
    if values is None:
        undecided = annotations is None and any(sample.annotated for sample in samples)
        if undecided or column in OWN_COLUMNS:
            return []
        metadata = [*(samples[0].metadata if samples else ()), *(annotations or ())]
        return [unknown_column(place, column, metadata, "groupby")]
    problems = []
    for side in ("target", "reference"):
        if getattr(row, side) not in ("", EACH, REST) and spelled(getattr(row, side), values) is None:
            problems.append(
                InputError(
                    f"{place}, column {side!r}: no cell has the value {getattr(row, side)!r} in {column!r}",
                    "the group would be empty",
                    f"one of {', '.join(values[:10])}{', ...' if len(values) > 10 else ''}",
                )
            )
    if (row.target == EACH or spelled(row.target, values)) and row.reference == REST and len(values) < 2:
        problems.append(
            InputError(
                f"{place}, column 'groupby': {column!r} has one value only ({', '.join(values)})",
                "there is no rest to compare it with",
                "choose a column with two or more values",
            )
        )
    return problems


def choose_contrast(path: Path | None, name: str | None, given: Contrast) -> Contrast:
    """One row of a contrasts file by its name, or without a file the one given by single options, "" for none."""
    if path is not None:
        rows = {row.contrast: row for row in read_contrasts(path)}
        if name not in rows:
            raise InputError(
                f"--contrast {name!r} is not in {path}",
                "no comparison of this name is defined",
                f"name one of {', '.join(rows)}",
            )
        return rows[name]
    missing = [f"--{field}" for field in ("modality", "groupby", "target") if not getattr(given, field)]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not given",
            "it is not said which groups of cells are to be compared",
            "give --modality, --groupby and --target, or --contrasts FILE with --contrast NAME",
        )
    return replace(given, contrast=name or f"{given.groupby}_{given.target}_{given.reference}")


def group_labels(obs: pd.DataFrame, groupby: str) -> pd.Series:
    """Group of each cell as text; missing values stay missing."""
    if groupby not in obs:
        near = ", ".join(str(c) for c in obs.columns)
        raise InputError(
            f"column {groupby!r} is not in obs of the mosaic",
            "cells cannot be put into groups without it",
            f"name one of {near}; `cluster` exists in the multivi.h5mu that `multivi-nf embed` writes",
        )
    return label_text(obs[groupby])


def others_name(present: Sequence[str]) -> str:
    """What all other groups together are called: `rest`, or where a group is called so, a name that none has."""
    name = REST
    while name in present:
        name += " of all"
    return name


def settled(contrast: Contrast, present: Sequence[str]) -> Contrast:
    """The contrast with the groups' own spellings (`1` for 1.0, `True` for true), and `rest` for what it means here.

    A group that is called `rest` is meant by that word, unless it is the target itself, or every group is in turn.
    """
    target = contrast.target if contrast.target == EACH else spelled(contrast.target, present) or contrast.target
    reference = spelled(contrast.reference, present) or contrast.reference
    if contrast.reference == REST and (contrast.target in (EACH, REST) or REST not in present):
        reference = others_name(present)
    return replace(contrast, target=target, reference=reference)


def groups_of(contrast: Contrast, labels: pd.Series) -> list[tuple[str, str]]:
    """(target, reference) pairs of a contrast; several for `each`; all other groups as :func:`others_name` calls them.

    Raises
    ------
    InputError
        A group that no cell carries.
    """
    present = sorted(labels.dropna().unique())
    contrast, others = settled(contrast, present), others_name(present)
    wanted = [g for g in (contrast.target, contrast.reference) if g not in (EACH, others)]
    keyword = {contrast.target} & {REST} | {contrast.reference} & {EACH}
    if keyword - set(present) or contrast.target == contrast.reference:
        raise InputError(
            f"target {contrast.target!r} against reference {contrast.reference!r} is not a comparison",
            "`rest` stands for all other groups and `each` for every group in turn",
            "use `rest` as reference and `each` as target only",
        )
    absent = [g for g in wanted if g not in present]
    if absent:
        raise InputError(
            f"no cell has {contrast.groupby} = {', '.join(map(repr, absent))}",
            "an empty group has no mean to compare",
            f"choose among {', '.join(present[:30])}{' ...' if len(present) > 30 else ''}",
        )
    if len(present) < 2:
        raise NothingToCompare(
            f"all cells have {contrast.groupby} = {present[0]!r}"
            if present
            else f"{contrast.groupby} is empty in all cells",
            "there is no second group to compare with",
            "choose a column with two or more values",
        )
    return (
        [(g, contrast.reference) for g in present if g != contrast.reference]
        if contrast.target == EACH
        else [(contrast.target, contrast.reference)]
    )


def check_contrasts(contrasts: list[Contrast], mosaic: MuData) -> None:
    """Stop where a contrast names a modality, column or group that the mosaic does not have; all problems at once."""
    problems = []
    for contrast in contrasts:
        try:
            if contrast.modality not in mosaic.mod:
                raise InputError(
                    f"contrast {contrast.contrast!r} compares {contrast.modality}, which no sample has",
                    "nothing was measured or learnt of this modality",
                    f"choose among {', '.join(mosaic.mod)}",
                )
            groups_of(contrast, group_labels(mosaic.obs, contrast.groupby))
        except InputError as problem:
            problems.append(problem)
    if problems:
        raise InputError.all_of(problems)
