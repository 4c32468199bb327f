"""Write the table of `make benchmark` into docs/benchmarks/paper.md from `results/simulated.tsv`: none is typed.

    python -m benchmarks.quality.small_table [--take results_benchmark/benchmark/scores.tsv] [--check]

One table of every method by the main metrics of the five experiments, chance under it (the same results with pairs,
cells or labels shuffled), CPU seconds of all its splits, and a sentence that names who is ahead of ours where.
`--take` keeps of a run's scores the rows that the table needs; `--check` changes nothing and tells by its exit code
whether the page is what the rows say.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from benchmarks import places
from benchmarks.quality.paper_tables import OURS, PAGE, in_words, rendered

from multivi_nf.benchmark.figures import ordered
from multivi_nf.benchmark.plan import CONTROLS
from multivi_nf.benchmark.scores import SHUFFLED

RESULTS = places.RESULTS / "simulated.tsv"
BEGIN, END = "<!-- table: benchmarks/quality/small_table.py -->", "<!-- end of the small table -->"
COLUMNS = ("experiment", "dataset", "method", "split", "seed", "metric", "value", "cpu_seconds", "peak_memory", "note")


@dataclass(frozen=True)
class Column:
    """A column of the table: the mean of a metric over the splits of an experiment whose names end so."""

    experiment: int
    ends: tuple[str, ...]
    metric: str
    title: str
    lower: bool = False

    def of(self, rows: pd.DataFrame, control: str = "") -> pd.Series:
        """Method to value."""
        same = (rows["experiment"] == self.experiment) & (rows["metric"] == self.metric + control)
        return rows[same & rows["split"].str.endswith(self.ends)].groupby("method")["value"].mean()


INCOMPLETE = ("patterns", "cell", "only", "protein", "each")
MAIN = (
    Column(1, ("75% unpaired",), "rank_distance", "1: rank distance", lower=True),
    Column(1, ("75% unpaired",), "foscttm", "1: FOSCTTM", lower=True),
    Column(1, ("75% unpaired",), "lisi_ratio", "1: LISI of modality"),
    Column(1, ("75% unpaired",), "transfer", "1: labels carried"),
    Column(2, ("",), "lisi_modality_within", "2: LISI of technologies"),
    Column(2, ("",), "purity", "2: purity"),
    Column(3, ("",), "rna_gene_spearman", "3: RNA, Spearman per gene"),
    Column(3, ("",), "rna_gene_spearman_within", "3: the same within batches"),
    Column(3, ("",), "atac_peak_auroc", "3: ATAC, AUROC per peak"),
    Column(4, ("without rna",), "pearson", "4: RNA log fold change, Pearson"),
    Column(4, ("without atac",), "pearson", "4: ATAC log fold change, Pearson"),
    Column(5, ("complete",), "ari", "5: ARI, complete"),
    Column(5, INCOMPLETE, "ari", "5: ARI, mean of the five incomplete"),
)
"""75 % unpaired of experiment 1; both directions of experiment 4; experiment 5 with and without missing parts."""


def taken(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `scores.tsv` that the table is made of, failures among them, values to five digits."""
    metrics = {column.metric + end for column in MAIN for end in ("", SHUFFLED)} | {"failed"}
    rows = scores.loc[scores["metric"].isin(metrics), list(COLUMNS)].copy()
    rows["value"] = [f"{value:.5g}" if pd.notna(value) else "" for value in rows["value"]]
    rows["cpu_seconds"] = [f"{value:.1f}" if pd.notna(value) else "" for value in rows["cpu_seconds"].astype(float)]
    rows["peak_memory"] = rows["peak_memory"].astype("Int64")
    return rows


def table(rows: pd.DataFrame) -> str:
    """The table in Markdown, and what is to be said of it."""
    measured = rows[rows["metric"] != "failed"]
    once = measured.drop_duplicates(["experiment", "method", "split", "seed"])
    cost = once.groupby("method")["cpu_seconds"].sum()
    values = pd.DataFrame({column: column.of(measured) for column in MAIN}, index=ordered(cost.index))
    values = values.dropna(axis=1, how="all")
    main = [column for column in MAIN if column in values]
    best = {c: _best(values[c].drop(list(CONTROLS), errors="ignore"), c) for c in main}
    lines = ["| method | " + " | ".join(c.title for c in main) + " | CPU s |", "|---" * (len(main) + 2) + "|"]
    for method in values.index:
        cells = [_cell(values.at[method, c], method not in CONTROLS and values.at[method, c] == best[c]) for c in main]
        lines.append(f"| {method} | {' | '.join(cells)} | {cost[method]:.0f} |")
    lines.append("| shuffled, all methods | " + " | ".join(_range(c.of(measured, SHUFFLED)) for c in main) + " | |")
    absent = [str(k) for k in range(1, 6) if k not in set(measured["experiment"])]
    told = [f"No row yet of experiment {in_words(absent)}."] if absent else []
    return "\n".join(lines) + "\n\n" + " ".join([_ahead(values), *told, *_failed(rows)])


def _best(values: pd.Series, column: Column) -> float:
    return values.min() if column.lower else values.max()


def _cell(value: float, best: bool) -> str:
    if pd.isna(value):
        return ""
    return f"**{value:.3g}**" if best else f"{value:.3g}"


def _range(values: pd.Series) -> str:
    """Least and largest of the methods' controls."""
    if values.empty:
        return ""
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"


def _ahead(values: pd.DataFrame) -> str:
    """Where others are better than ours, in words."""
    said = []
    for column in values:
        of = values[column].drop(list(CONTROLS), errors="ignore").dropna()
        if OURS not in of.index:
            continue
        before = of[(of < of[OURS]) if column.lower else (of > of[OURS])]
        if len(before):
            said.append(f"in {column.title} {in_words(ordered(before.index))}")
    return f"Ahead of ours: {'; '.join(said)}." if said else "None of these is ahead of ours in any column."


def _failed(rows: pd.DataFrame) -> list[str]:
    """What gave no result, and why."""
    failed = rows[rows["metric"] == "failed"].groupby(["method", "note"], sort=True)["split"].agg(list)
    return [f"No result of {method} on {in_words(splits)} ({note})." for (method, note), splits in failed.items()]


def main() -> int:
    """Take, write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, help="scores.tsv of a run")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.take:
        taken(pd.read_csv(given.take, sep="\t")).to_csv(RESULTS, sep="\t", index=False, lineterminator="\n")
    page = PAGE.read_text()
    new = rendered(page, table(pd.read_csv(RESULTS, sep="\t")), BEGIN, END)
    if given.check:
        return int(new != page)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
