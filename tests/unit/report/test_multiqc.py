from __future__ import annotations

import pandas as pd
import yaml

from multivi_nf.report import write_report


def section(path):
    """Header and table of one file, read as MultiQC's custom content does: YAML behind `#`, then tab-separated."""
    lines = path.read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    table = pd.read_csv(path, sep="\t", skiprows=len(head))
    return yaml.safe_load("\n".join(line.removeprefix("#").strip() for line in head)), table


def test_sections_hold_the_runs_numbers(results_folder, tmp_path):
    write_report(results_folder, tmp_path / "report.html")
    files = {path.name: section(path) for path in (tmp_path / "multiqc").iterdir()}
    assert set(files) == {f"multivi_nf_{name}_mqc.tsv" for name in ("qc", "training", "verdict")}
    head, cells = files["multivi_nf_qc_mqc.tsv"]
    assert head["id"] == "multivi_nf_qc" and head["plot_type"] == "table"
    assert cells.iloc[0].tolist()[:3] == ["s1 rna", 47, 40] and cells["removed"].iloc[0] == "counts 7"
    assert abs(cells["kept_percent"].iloc[0] - 100 * 40 / 47) < 1e-3
    head, losses = files["multivi_nf_training_mqc.tsv"]
    assert head["plot_type"] == "linegraph" and losses.iloc[:, 0].tolist() == ["train loss", "validation loss"]
    assert (tmp_path / "multiqc" / "multivi_nf_training_mqc.tsv").read_text().splitlines()[5].startswith("\t1\t2")
    assert losses.iloc[1, 1:].astype(float).tolist() == [9, 8, 7, 6, 5.5, 5.4, 5.6, 5.7, 5.8, 5.9]
    _, verdict = files["multivi_nf_verdict_mqc.tsv"]
    assert set(verdict["level"]) <= {"good", "look", "poor", "unknown"} and len(verdict) >= 4
