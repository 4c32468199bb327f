"""Write the tables of docs/benchmarks/paper.md from `results/paper.tsv`: no figure there is typed.

    python -m benchmarks.quality.paper_tables [--check]

A table for each data set, experiment and split: methods by metrics, means over seeds (the number of seeds beside the
method), the best in bold (controls aside), and under it a sentence that names every metric in which another method is
ahead of ours. `--check` changes nothing and tells by its exit code whether the page is what the rows say.
"""

from __future__ import annotations

import argparse
import re
import sys

import pandas as pd
from benchmarks import places

from multivi_nf.benchmark.figures import ordered
from multivi_nf.benchmark.page import SHOWN
from multivi_nf.benchmark.plan import CONTROLS, METHODS, OPTIONAL, SETS_OF_RUNS
from multivi_nf.benchmark.scores import SHUFFLED

RESULTS = places.RESULTS / "paper.tsv"
PAGE = places.ROOT / "docs" / "benchmarks" / "paper.md"
BEGIN, END = "<!-- tables: benchmarks/quality/paper_tables.py -->", "<!-- end of tables -->"
OURS = "multivi-nf"


def tables(rows: pd.DataFrame) -> str:
    """Markdown of all tables."""
    parts = []
    for (data, experiment, split), of in rows.groupby(["dataset", "experiment", "split"], sort=True):
        shown = [one for one in SHOWN[experiment] if (of["metric"] == one[0]).any()]
        if shown:
            parts.append(table(f"{data}, experiment {experiment}, {split}", of, shown))
    return "\n\n".join(parts)


def table(title: str, rows: pd.DataFrame, shown: list[tuple[str, str, str]]) -> str:
    """One table and what is to be said of it."""
    measured = rows[rows["metric"] != "failed"]
    means = measured.pivot_table(index="method", columns="metric", values="value", aggfunc="mean")
    cost = measured.drop_duplicates(["method", "seed"]).groupby("method")["cpu_seconds"].mean()
    seeds = measured.groupby("method")["seed"].nunique()
    lines = [f"| {title} | {' | '.join(words for _, words, _ in shown)} | CPU s |", "|---" * (len(shown) + 2) + "|"]
    for method in ordered(means.index):
        cells = [_cell(means, method, *one) for one in shown]
        told = method + (f" ({seeds[method]} seeds)" if seeds[method] > 1 else "")
        lines.append(f"| {told} | {' | '.join(cells)} | {cost[method]:.0f} |")
    for method, note in rows[rows["metric"] == "failed"].groupby("method")["note"].first().items():
        lines.append(f"| {method} |{' |' * len(shown)} | {note} |")
    return (
        "\n".join(lines)
        + "\n\n"
        + " ".join([_ahead(means, shown), _missing(rows), _by_chance(measured, shown)]).strip()
    )


def _best(means: pd.DataFrame, metric: str, better: str) -> float:
    values = means[metric].drop(list(CONTROLS), errors="ignore")
    return values.min() if better == "lower" else values.max()


def _cell(means: pd.DataFrame, method: str, metric: str, _words: str, better: str) -> str:
    value = means.loc[method, metric]
    if pd.isna(value):
        return ""
    text = f"{value:.3g}"
    return f"**{text}**" if method not in CONTROLS and value == _best(means, metric, better) else text


def _ahead(means: pd.DataFrame, shown: list[tuple[str, str, str]]) -> str:
    """Where others are better than ours, in words."""
    if OURS not in means.index:
        return "Ours has no row here yet."
    said = []
    for metric, words, better in shown:
        values = means[metric].drop(list(CONTROLS), errors="ignore").dropna()
        if OURS not in values.index:
            continue
        before = values[(values < values[OURS]) if better == "lower" else (values > values[OURS])]
        names = ordered(name for name in before.index if not name.startswith(f"{OURS}:"))
        if names:
            said.append(f"in {words} {in_words(names)}")
    return f"Ahead of ours: {'; '.join(said)}." if said else "None of these is ahead of ours in any column."


def _missing(rows: pd.DataFrame) -> str:
    """Methods of the experiment that have no row yet."""
    experiment = rows["experiment"].iloc[0]
    known = {*rows["method"], *SETS_OF_RUNS, *OPTIONAL}
    names = [m for m, of in METHODS.items() if experiment in of and m not in known]
    return f"Not computed yet: {in_words(names)}." if names else ""


def in_words(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _by_chance(rows: pd.DataFrame, shown: list[tuple[str, str, str]]) -> str:
    """Range over methods of what the same results score with pairs, cells or labels shuffled."""
    said = []
    for metric, words, _ in shown:
        values = rows.loc[rows["metric"] == f"{metric}{SHUFFLED}", "value"].dropna()
        if len(values):
            low, high = f"{values.min():.3g}", f"{values.max():.3g}"
            said.append(f"{words} {low}" + (f" to {high}" if high != low else ""))
            n = rows.loc[rows["metric"] == f"{metric}{SHUFFLED}", "method"].nunique()
    return f"Shuffled ({n} of {rows['method'].nunique()} methods): {'; '.join(said)}." if said else ""


def rendered(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with what stands between two of its lines replaced."""
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", page, re.DOTALL)
    if not found:
        raise SystemExit(f"{PAGE} has no {begin} ... {end}")
    return page[: found.start()] + f"{begin}\n\n{text}\n\n{end}" + page[found.end() :]


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    page = PAGE.read_text()
    new = rendered(page, tables(pd.read_csv(RESULTS, sep="\t")))
    if given.check:
        return int(new != page)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
