"""Letters of any language in values: tables hold them, and read the same again."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from multivi_nf.inputs.contrasts import read_contrasts
from multivi_nf.inputs.samplesheet import read_samples_json, read_samplesheet
from multivi_nf.io.tables import write_table

LABELS = ["Köln – Süd", "naïve T", "β-Zelle", "漢字", 'it\'s "quoted"', "a;b", "$HOME `x`", "100 % (v/v)", "<b>&amp;"]


@pytest.mark.parametrize("label", LABELS)
def test_labels_travel_through_sheet_json_contrast_and_table(tmp_path, label):
    rows = pd.DataFrame({"sample": ["a", "b"], "rna": ["a.h5", "b.h5"], "arm": [label, "other"]})
    for name in rows["rna"]:
        (tmp_path / name).touch()
    rows.to_csv(tmp_path / "s.csv", index=False)
    samples = read_samplesheet(tmp_path / "s.csv")
    assert samples[0].metadata["arm"] == label
    (tmp_path / "s.json").write_text(json.dumps({"samples": [sample.to_json() for sample in samples]}))
    assert read_samples_json(tmp_path / "s.json")[0].metadata["arm"] == label
    contrast = pd.DataFrame(
        [{"contrast": "c", "modality": "rna", "groupby": "arm", "target": label, "reference": "rest"}]
    )
    contrast.to_csv(tmp_path / "c.csv", index=False)
    assert read_contrasts(tmp_path / "c.csv", samples)[0].target == label
    write_table(pd.DataFrame({"arm": [label]}, index=pd.Index(["c1"], name="cell")), tmp_path / "t.tsv.gz", index=True)
    assert pd.read_csv(tmp_path / "t.tsv.gz", sep="\t")["arm"].tolist() == [label]
