"""The gate on what cells bring along: h5mu, tables of cells, named columns, trimodal samples, names that meet."""

from __future__ import annotations

import json

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from multivi_nf.commands import check_inputs, check_samplesheet, preflight, qc_rna
from multivi_nf.inputs.samplesheet import read_samplesheet
from multivi_nf.testing.files import GENES, SYMBOLS, barcodes, counts
from multivi_nf.testing.layouts import CELLS, PROTEIN, PROTEINS, RNA, joint_h5ad

PEAKS = [f"chr1:{1000 * n}-{1000 * n + 500}" for n in range(1, 21)]


def check(folder, name="s", **options):
    words = [f"--{key.replace('_', '-')}={folder / v if 'column' not in key else v}" for key, v in options.items()]
    output = folder / f"{name}.json"
    result = CliRunner().invoke(preflight.command, ["--sample", name, *words, "--output", str(output)])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(output.read_text())


def gate(folder, text, contrasts=None, options=()):
    (folder / "sheet.csv").write_text(text)
    words = [str(folder / "sheet.csv"), "--output", str(folder / "samples.json")]
    if contrasts:
        (folder / "contrasts.csv").write_text(contrasts)
        words += ["--contrasts", str(folder / "contrasts.csv")]
    result = CliRunner().invoke(check_samplesheet.command, words)
    if result.exception:
        raise result.exception
    names = [sample.sample for sample in read_samplesheet(folder / "sheet.csv")]
    words = [*(str(folder / f"{n}.json") for n in names), "--samples", str(folder / "samples.json"), *options]
    result = CliRunner().invoke(check_inputs.command, [*words, "--output", str(folder / "plan.json")])
    if result.exception:
        raise result.exception
    return json.loads((folder / "plan.json").read_text()), result.output


def write(path, matrix, cells, names, **obs):
    ad.AnnData(matrix.astype(np.float32), obs=pd.DataFrame(obs, index=cells), var=pd.DataFrame(index=names)).write_h5ad(
        path
    )


def test_one_h5ad_for_all_three(tmp_path):
    path = joint_h5ad(tmp_path / "all.h5ad", ("GEX", "ATAC", "ADT")).name
    found = check(tmp_path, rna=path, atac=path, protein=path)
    assert found["problems"] == []
    assert [row["fraction"] for row in found["overlap"]] == [1.0, 1.0, 1.0]
    plan, _ = gate(tmp_path, f"sample,rna,atac,protein\ns,{path},{path},{path}\n")
    assert plan["samples"]["s"]["modalities"] == ["rna", "atac", "protein"]


def halves(tmp_path, atac, protein):
    write(tmp_path / "r.h5ad", counts(60, 30), barcodes(60), GENES)
    write(tmp_path / "a.h5ad", counts(30, 20), atac, PEAKS)
    write(tmp_path / "p.h5ad", counts(30, 3), protein, PROTEINS)
    return check(tmp_path, rna="r.h5ad", atac="a.h5ad", protein="p.h5ad")


def test_two_disjoint_halves_of_a_trimodal_sample(tmp_path):
    found = halves(tmp_path, barcodes(60)[:30], barcodes(60)[30:])
    assert found["problems"] == []
    assert {(r["left"], r["right"]): r["shared"] for r in found["overlap"]} == {
        ("atac", "rna"): 30,
        ("protein", "rna"): 30,
        ("atac", "protein"): 0,
    }
    assert any("0 of 30 barcodes" in warning for warning in found["warnings"])


def test_one_modality_that_meets_is_enough(tmp_path):
    assert halves(tmp_path, barcodes(60)[:30], barcodes(30, start=9000))["problems"] == []


def test_a_sample_of_which_nothing_meets_is_refused(tmp_path):
    found = halves(tmp_path, barcodes(30, start=5000), barcodes(30, start=9000))
    assert len(found["problems"]) == 3
    by_left = {p["what"].split(", ")[1].split(":")[0]: p["remedy"] for p in found["problems"]}
    assert "barcode_map" in by_left["atac"]
    assert "barcode_map" not in by_left["protein"]  # the sheet would refuse it


def test_a_lacking_suffix_is_told_not_refused(tmp_path):
    write(tmp_path / "r.h5ad", counts(60, 30), barcodes(60), GENES)
    write(tmp_path / "p.h5ad", counts(60, 3), [b[:-2] for b in barcodes(60)], PROTEINS)
    found = check(tmp_path, rna="r.h5ad", protein="p.h5ad")
    assert found["problems"] == []
    assert "without the suffix" in found["warnings"][0]
    assert found["overlap"][0]["fraction"] == 1.0


def made_h5mu(tmp_path):
    parts = {
        "rna": ad.AnnData(RNA, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES)),
        "prot": ad.AnnData(PROTEIN, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=PROTEINS)),
    }
    mudata.MuData(parts).write(tmp_path / "m.h5mu")


def test_an_h5mu(tmp_path):
    made_h5mu(tmp_path)
    found = check(tmp_path, h5mu="m.h5mu")
    assert found["h5mu"] == ["rna", "protein"]
    assert found["modalities"]["rna"]["cells"] == 24
    contrasts = "contrast,modality,groupby,target\nc,protein,cluster,each\n"
    plan, _ = gate(tmp_path, "sample,h5mu\ns,m.h5mu\n", contrasts)
    assert plan["samples"]["s"] | {"overlap": None} == {
        "modalities": ["rna", "protein"],
        "h5mu": ["rna", "protein"],
        "atac": None,
        "overlap": None,
    }


def test_an_h5mu_beside_files_of_its_own_modalities(tmp_path):
    made_h5mu(tmp_path)
    write(tmp_path / "r.h5ad", RNA, CELLS, GENES)
    write(tmp_path / "p.h5ad", PROTEIN, CELLS, PROTEINS)
    assert check(tmp_path, h5mu="m.h5mu", rna="r.h5ad")["h5mu"] == ["protein"]
    [problem] = check(tmp_path, h5mu="m.h5mu", rna="r.h5ad", protein="p.h5ad")["problems"]
    assert "each of which another column" in problem["what"]


def test_a_named_column(tmp_path):
    write(tmp_path / "r.h5ad", RNA, CELLS, GENES, batch=["x", "y"] * 12)
    assert any("batch_column" in note for note in check(tmp_path, rna="r.h5ad")["notes"])
    found = check(tmp_path, rna="r.h5ad", batch_column="batch")
    assert found["problems"] == []
    assert found["batches"] == ["x", "y"]
    sheet = "sample,rna,batch_column\ns,r.h5ad,batch\n"
    gate(tmp_path, sheet, "contrast,modality,groupby,target\nc,rna,batch,x\n")
    with pytest.raises(Exception, match="no cell has the value 'z' in 'batch'"):
        gate(tmp_path, sheet, "contrast,modality,groupby,target\nc,rna,batch,z\n")


@pytest.mark.parametrize("column", ["batch_column", "sample_column"])
def test_a_named_column_that_is_not_there(tmp_path, column):
    write(tmp_path / "r.h5ad", RNA, CELLS, GENES, kit=["x", "y"] * 12)
    [problem] = check(tmp_path, rna="r.h5ad", **{column: "kti"})["problems"]
    assert "'kti' is no column of its cells (there are kit)" in problem["what"]


def test_batch_and_batch_column(tmp_path):
    with pytest.raises(Exception, match="a cell has one batch"):
        gate(tmp_path, "sample,rna,batch,batch_column\ns,r.h5ad,b,kit\n")


def test_a_table_of_cells(tmp_path):
    write(tmp_path / "r.h5ad", RNA, CELLS, GENES)
    rows = "".join(f"{c[:-2]},{i % 3},{'TRUE' if i % 2 else 'FALSE'}\n" for i, c in enumerate(CELLS))
    (tmp_path / "cells.csv").write_text("barcode,leiden,treated\n" + rows)
    found = check(tmp_path, rna="r.h5ad", cells="cells.csv")
    assert found["problems"] == []
    assert found["annotations"] == {"leiden": ["0", "1", "2"], "treated": ["False", "True"]}
    sheet = "sample,rna,cells\ns,r.h5ad,cells.csv\n"
    contrasts = "contrast,modality,groupby,target\na,rna,leiden,1\nb,rna,leiden,1.0\nc,rna,treated,true\n"
    gate(tmp_path, sheet, contrasts)
    words = [str(tmp_path / "r.h5ad"), "--sample=s", f"--cells={tmp_path / 'cells.csv'}", "--mad=0"]
    words += [f"--output={tmp_path / 'o.h5ad'}", f"--qc={tmp_path / 'qc'}"]
    result = CliRunner().invoke(qc_rna.command, words)
    assert result.exit_code == 0, result.output
    kept = ad.read_h5ad(tmp_path / "o.h5ad")
    assert kept.obs["leiden"].tolist() == [CELLS.index(c) % 3 for c in kept.obs_names]
    assert kept.obs["treated"].dtype == bool


def test_barcodes_that_are_a_table_keep_their_columns(tmp_path):
    write(tmp_path / "r.h5ad", RNA, CELLS, GENES)
    (tmp_path / "b.csv").write_text("barcode,cell_type\n" + "".join(f"{c},B\n" for c in CELLS[:9]))
    found = check(tmp_path, rna="r.h5ad", barcodes="b.csv")
    assert found["modalities"]["rna"]["cells"] == 9
    assert found["annotations"] == {"cell_type": ["B"]}


def two_panels(tmp_path, names):
    for name, panel in zip("ab", names):
        write(tmp_path / f"{name}.h5ad", counts(24, len(panel), mean=9), CELLS, panel)
        check(tmp_path, name, protein=f"{name}.h5ad")
    return "sample,protein\na,a.h5ad\nb,b.h5ad\n"


def test_proteins_that_meet_are_told(tmp_path):
    sheet = two_panels(tmp_path, [["CD3", "CD4", "CD19"], ["CD3_TotalSeqB", "CD4_TotalSeqB", "CD19_TotalSeqB"]])
    plan, said = gate(tmp_path, sheet)
    assert plan["warnings"] == []
    assert "CD3 = CD3_TotalSeqB" in said


def test_panels_that_share_nothing_are_told_and_aliases_help(tmp_path):
    sheet = two_panels(tmp_path, [["UCHT1", "SK7"], ["CD3", "CD4"]])
    plan, said = gate(tmp_path, sheet)
    assert any("0 of 4 proteins are shared" in warning for warning in plan["warnings"])
    assert "--feature_aliases" in said
    (tmp_path / "aliases.csv").write_text("UCHT1,CD3\nSK7,CD4\n")
    plan, _ = gate(tmp_path, sheet, options=[f"--feature-aliases={tmp_path / 'aliases.csv'}"])
    assert not any("proteins are shared" in warning for warning in plan["warnings"])


def test_a_loss_of_genes_is_told(tmp_path):
    for name, genes in (("a", GENES), ("b", [*GENES[:18], *(f"ENSG9{i:010d}" for i in range(12))])):
        write(tmp_path / f"{name}.h5ad", RNA, CELLS, genes)
        check(tmp_path, name, rna=f"{name}.h5ad")
    plan, _ = gate(tmp_path, "sample,rna\na,a.h5ad\nb,b.h5ad\n")
    [warning] = [w for w in plan["warnings"] if "genes are shared" in w]
    assert warning.startswith("18 genes are shared by all samples (by id; of a 30, b 30)")


def test_made_unique_symbols_meet(tmp_path):
    for name, genes in (("a", SYMBOLS), ("b", [*SYMBOLS[:-1], "GENE1-1"])):
        write(tmp_path / f"{name}.h5ad", RNA, CELLS, genes)
        check(tmp_path, name, rna=f"{name}.h5ad")
    plan, _ = gate(tmp_path, "sample,rna\na,a.h5ad\nb,b.h5ad\n", options=["--min-shared-genes=0.96"])
    assert plan["peak_set"] == "none"  # 29 of b's 29 genes: GENE1-1 is GENE1
