"""The table of `make benchmark`: means of the named splits, who is ahead, what failed; the page follows the rows."""

from __future__ import annotations

import pandas as pd
from benchmarks.quality import small_table

from multivi_nf.benchmark.plan import METHODS, OPTIONAL, SETS_OF_RUNS


def rows(*given: tuple[int, str, str, str, float]) -> pd.DataFrame:
    table = pd.DataFrame(given, columns=["experiment", "split", "method", "metric", "value"])
    return table.assign(seed=0, cpu_seconds=2.0, note="", dataset="d", peak_memory=1)


MEASURED = rows(
    (1, "75% unpaired", "multivi-nf", "foscttm", 0.2),
    (1, "75% unpaired", "ridge", "foscttm", 0.1),
    (1, "75% unpaired", "depth", "foscttm", 0.05),
    (1, "75% unpaired", "ridge", "foscttm_shuffled", 0.51),
    (1, "75% unpaired", "mofa", "foscttm_shuffled", 0.49),
    (1, "75% unpaired, shuffled pairs", "ridge", "foscttm", 0.9),
    (5, "simulated complete", "multivi-nf", "ari", 0.7),
    (5, "simulated complete", "mofa", "ari", 0.6),
    (5, "simulated pairs only", "multivi-nf", "ari", 0.4),
    (5, "simulated 7 patterns", "multivi-nf", "ari", 0.2),
)


def cells(text: str, method: str) -> dict[str, str]:
    lines = [[one.strip() for one in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    (found,) = [line for line in lines if line[0] == method]
    return dict(zip(lines[0], found))


def test_columns_are_means_of_their_splits_and_the_best_is_marked():
    text = small_table.table(MEASURED)
    ours, ridge = cells(text, "multivi-nf"), cells(text, "ridge")
    assert (ours["1: FOSCTTM"], ridge["1: FOSCTTM"], cells(text, "depth")["1: FOSCTTM"]) == ("0.2", "**0.1**", "0.05")
    assert ours["5: ARI, complete"] == "**0.7**" and ours["5: ARI, mean of the five incomplete"] == "**0.3**"
    assert ours["CPU s"] == "8"  # once a split, not once a metric
    assert cells(text, "shuffled, all methods")["1: FOSCTTM"] == "0.49 to 0.51"
    assert "Ahead of ours: in 1: FOSCTTM ridge." in text


def test_what_failed_is_told():
    failed = rows((4, "t without rna", "wnn", "failed", float("nan"))).assign(note="failed: no pairs")
    text = small_table.table(pd.concat([MEASURED, failed]))
    assert "No result of wnn on t without rna (failed: no pairs)." in text


def test_only_what_the_table_needs_is_kept():
    more = pd.concat([MEASURED, rows((1, "75% unpaired", "ridge", "n_cells", 9.0))])
    kept = small_table.taken(more)
    assert len(kept) == len(MEASURED) and set(kept["value"]) >= {"0.2", "0.51"}


def test_the_page_says_what_the_rows_say():
    page = small_table.PAGE.read_text()
    text = small_table.table(pd.read_csv(small_table.RESULTS, sep="\t"))
    assert small_table.rendered(page, text, small_table.BEGIN, small_table.END) == page


def test_controls_of_the_committed_rows_are_at_chance():
    rows = pd.read_csv(small_table.RESULTS, sep="\t")
    bounds = {
        "foscttm": (0.48, 0.52),
        "rna_gene_spearman": (-0.02, 0.02),
        "atac_peak_auroc": (0.49, 0.51),
        "pearson": (-0.05, 0.05),
        "ari": (-0.02, 0.02),
    }
    for metric, (low, high) in bounds.items():
        values = rows.loc[rows["metric"] == f"{metric}{small_table.SHUFFLED}", "value"].dropna()
        assert len(values) > 2 and values.between(low, high).all(), metric


def test_the_committed_rows_are_of_every_method_and_experiment():
    rows = pd.read_csv(small_table.RESULTS, sep="\t")
    found = {(k, m) for k, m in zip(rows["experiment"], rows["method"])}
    wanted = {(k, m) for m, of in METHODS.items() if m not in (*SETS_OF_RUNS, *OPTIONAL) for k in of}
    assert wanted <= found
