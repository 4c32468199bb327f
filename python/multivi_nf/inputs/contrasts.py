"""Which groups of cells are compared: contrasts.csv, and whether the groups exist. No torch, no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.modalities import MODALITIES

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

COLUMNS = ["contrast", "modality", "groupby", "target", "reference", "cells"]
CELLS = ("all", "observed", "imputed")
SAME_DATA_COLUMNS = ("cluster",)
"""Columns of obs that were made from the same counts that a contrast tests."""


class NothingToCompare(InputError):
    """The groups of a contrast exist, but fewer than two of them have cells enough."""


@dataclass(frozen=True)
class Contrast:
    """One comparison, a row of contrasts.csv (`INTERFACES` section 2)."""

    contrast: str
    modality: str
    groupby: str
    target: str
    reference: str = "rest"
    cells: str = "observed"


def read_contrasts(path: Path) -> list[Contrast]:
    """Read contrasts.csv; all its problems are told at once.

    Raises
    ------
    InputError
        File missing, columns missing or unknown, names doubled, a modality or choice of cells that does not exist.
    """
    if not path.is_file():
        raise InputError(
            f"contrasts file {path} does not exist",
            "no comparison can be made",
            "give the path of a CSV with the columns " + ",".join(COLUMNS),
        )
    table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    required = {"contrast", "modality", "groupby", "target"}
    if not required <= set(table.columns):
        raise InputError(
            f"{path} lacks {', '.join(sorted(required - set(table.columns)))}; it has {', '.join(table.columns)}",
            "a contrast is not defined without them",
            f"write the header line {','.join(COLUMNS)}",
        )
    table = table.assign(reference=_filled(table, "reference", "rest"), cells=_filled(table, "cells", "observed"))
    problems = _problems(table, path)
    if problems:
        raise InputError.all_of(problems)
    return [Contrast(**{name: row[name] for name in COLUMNS}) for row in table.to_dict("records")]


def _filled(table: pd.DataFrame, column: str, default: str) -> pd.Series:
    values = table[column] if column in table else pd.Series("", index=table.index)
    return values.str.strip().replace("", default)


def _problems(table: pd.DataFrame, path: Path) -> list[InputError]:
    problems = []
    seen: set[str] = set()
    for line, row in enumerate(table.to_dict("records"), start=2):
        place = f"{path}, line {line}, contrast {row['contrast']!r}"
        if not row["contrast"] or row["contrast"] in seen or "/" in row["contrast"]:
            problems.append(
                InputError(
                    f"{place}: the name is empty, doubled or holds a slash",
                    "it names the result table, so that one table would overwrite another",
                    "give every contrast a name of its own",
                )
            )
        seen.add(row["contrast"])
        for column, choices in (("modality", MODALITIES), ("cells", CELLS)):
            if row[column] not in choices:
                problems.append(
                    InputError(
                        f"{place}: {column} is {row[column]!r}",
                        "there is nothing to compare under this name",
                        f"write one of {', '.join(choices)}",
                    )
                )
        if not row["groupby"] or not row["target"] or row["target"] == row["reference"]:
            problems.append(
                InputError(
                    f"{place}: groupby {row['groupby']!r}, target {row['target']!r}, reference {row['reference']!r}",
                    "a comparison needs a column and two different groups",
                    "name a column of obs, a target (or `each`) and another value as reference (or `rest`)",
                )
            )
    return problems


def choose_contrast(
    path: Path | None,
    name: str | None,
    *,
    modality: str | None,
    groupby: str | None,
    target: str | None,
    reference: str,
    cells: str,
) -> Contrast:
    """One row of a contrasts file, or a contrast put together from single options."""
    if path is not None:
        rows = {row.contrast: row for row in read_contrasts(path)}
        if name not in rows:
            raise InputError(
                f"--contrast {name!r} is not in {path}",
                "no comparison of this name is defined",
                f"name one of {', '.join(rows)}",
            )
        return rows[name]
    missing = [f"--{k}" for k, v in (("modality", modality), ("groupby", groupby), ("target", target)) if not v]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not given",
            "it is not said which groups of cells are to be compared",
            "give --modality, --groupby and --target, or --contrasts FILE with --contrast NAME",
        )
    return Contrast(name or f"{groupby}_{target}_{reference}", modality, groupby, target, reference, cells)


def group_labels(obs: pd.DataFrame, groupby: str) -> pd.Series:
    """Group of each cell as text; missing values stay missing."""
    if groupby not in obs:
        near = ", ".join(str(c) for c in obs.columns)
        raise InputError(
            f"column {groupby!r} is not in obs of the mosaic",
            "cells cannot be put into groups without it",
            f"name one of {near}; `cluster` exists in the multivi.h5mu that `multivi-nf embed` writes",
        )
    labels = obs[groupby]
    text = labels.astype(str).where(labels.notna())
    return text.where(text.str.strip() != "")


def groups_of(contrast: Contrast, labels: pd.Series) -> list[tuple[str, str]]:
    """(target, reference) pairs of a contrast; several for `each`.

    Raises
    ------
    InputError
        A group that no cell carries.
    """
    present = sorted(labels.dropna().unique())
    wanted = [g for g in (contrast.target, contrast.reference) if g not in ("each", "rest")]
    if contrast.target == "rest" or contrast.reference == "each" or contrast.target == contrast.reference:
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
        if contrast.target == "each"
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
