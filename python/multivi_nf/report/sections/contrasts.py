"""Contrasts: the first rows of each table, effect against evidence, observed against imputed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from markupsafe import Markup

from multivi_nf.palette import natural
from multivi_nf.report import addresses, figures
from multivi_nf.report.gather import Results
from multivi_nf.report.words import number, true_in

TOP = 12
"""Rows of a contrast that are shown; the file holds all."""
SHOWN = (
    *("target", "symbol", "feature", "nearest_gene", "mean_target", "mean_reference", "effect", "95 % interval"),
    *("log2_fold_change", "probability", "fdr", "replicate_fdr", "significant"),
)
NAMES = ("target", "symbol", "feature", "nearest_gene")
"""Columns of words in a contrast's table."""
NOTES = ("imputed", "confounded", "groups_from_same_data", "extrapolated")


@dataclass(frozen=True)
class Row:
    """Values of the columns shown, and the feature's address in the explorer."""

    cells: list[object]
    link: str


@dataclass(frozen=True)
class Contrast:
    """A contrast on the page; one that could not be made has no tested rows and nothing else."""

    name: str
    tested: int = 0
    significant: int = 0
    delta: float | None = None
    notes: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    groups: int = 0
    volcano_of: str = ""
    svg: Markup = Markup("")
    compared: Markup | None = None


def contrasts(results: Results) -> list[Contrast]:
    """Every contrast of the run."""
    return [
        Contrast(name) if table.empty else _contrast(results, name, k)
        for k, (name, table) in enumerate(results.contrasts.items())
    ]


def _contrast(results: Results, name: str, k: int) -> Contrast:
    table = results.contrasts[name]
    groups = [("", table)]
    if "target" in table:
        groups = sorted(table.groupby("target"), key=lambda item: natural(item[0]))
    of, largest = max(groups, key=lambda item: int(true_in(item[1]["significant"]).sum()))
    columns, rows = _rows(results, _top(groups))
    return Contrast(
        name=name,
        tested=len(table),
        significant=int(true_in(table["significant"]).sum()),
        delta=float(table["delta"].iloc[0]) if "delta" in table else None,
        notes=[column for column in NOTES if column in table and true_in(table[column]).any()],
        columns=columns,
        rows=rows,
        groups=len(groups),
        volcano_of=f"group {of}" if of else "",
        svg=Markup(figures.volcano(largest, f"volcano{k}")),
        compared=_compared(results, name, k),
    )


def _rows(results: Results, top: pd.DataFrame) -> tuple[list[str], list[Row]]:
    """Columns that say something, and the rows of a table."""
    features = top["feature"].astype(str)
    near = features.map(results.nearest_genes).fillna("")
    if (near != "").any():
        top = top.assign(nearest_gene=near)
    shown = [column for column in SHOWN if column in top]
    if (top["symbol"].astype(str) == features).all():
        shown.remove("symbol")
    if "log2_fold_change" in shown and np.allclose(top["effect"], top["log2_fold_change"], equal_nan=True):
        shown.remove("log2_fold_change")
    values = top[shown].astype(object).where(top[shown].notna(), None).to_numpy().tolist()
    return shown, [Row(cells, addresses.of_feature(results, feature)) for feature, cells in zip(features, values)]


def _top(groups: list[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """First rows of one comparison; of many, each group's first, and two more where they are significant."""
    if len(groups) == 1:
        top = groups[0][1].head(TOP)
    else:
        firsts = [part.head(3) for _, part in groups]
        top = pd.concat(
            [first[true_in(first["significant"]).to_numpy() | (np.arange(len(first)) == 0)] for first in firsts]
        )
    interval = [f"{number(low)} to {number(high)}" for low, high in zip(top["effect_lower"], top["effect_upper"])]
    return top.assign(**{"95 % interval": interval})


def _compared(results: Results, name: str, k: int) -> Markup | None:
    """Observed against imputed effects, where the run has the same contrast both ways (`X` and `X_imputed`)."""
    twin = results.contrasts.get(f"{name}_imputed")
    table = results.contrasts[name]
    if twin is None or twin.empty or "target" in table:
        return None
    guessed = twin.set_index("feature")["effect"].rename("imputed")
    joined = table.set_index("feature")[["effect"]].join(guessed, how="inner")
    return Markup(figures.effects_compared(joined["effect"], joined["imputed"], f"compared{k}"))
