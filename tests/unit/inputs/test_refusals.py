"""Every step that reads what users bring ends wrong input with exit code 2, three parts on stderr, and no output."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest

from multivi_nf.commands import main
from multivi_nf.testing.files import GENES, PEAKS, PROTEINS, barcodes, counts, features, write_10x, write_h5ad

CELLS = barcodes(60)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    write_10x(tmp_path / "all.h5", counts(60, 54), CELLS, features())
    (tmp_path / "cut.h5").write_bytes((tmp_path / "all.h5").read_bytes()[:5000])
    (tmp_path / "empty.h5ad").write_bytes(b"")
    x = counts(60, 30).astype(np.float64)
    write_h5ad(tmp_path / "log.h5ad", x.log1p(), CELLS, GENES)
    x.data[0] = np.nan
    write_h5ad(tmp_path / "nan.h5ad", x, CELLS, GENES)
    write_h5ad(tmp_path / "peaks.h5ad", counts(60, 20), CELLS, PEAKS)
    counted = ad.read_h5ad(tmp_path / "peaks.h5ad")
    counted.X = counted.X.astype(np.int32)
    places = counted.var_names.str.extract(r"(?P<chrom>.+):(?P<start>\d+)-(?P<end>\d+)")
    counted.var = places.astype({"start": np.int64, "end": np.int64}).set_index(counted.var_names)
    counted.write_h5ad(tmp_path / "counted.h5ad")
    write_h5ad(tmp_path / "isotypes.h5ad", counts(60, 2), CELLS, ["IgG1", "Mouse-IgG2a"])
    write_h5ad(tmp_path / "twice.h5ad", counts(60, 4), CELLS, [*PROTEINS[:3], PROTEINS[0]])
    (tmp_path / "cells.txt").write_text("TTTT\n")
    (tmp_path / "bad.csv").write_text("sample,rna\na,gone.h5\na,\n")
    rows = [{"sample": "a", "batch": "a", "rna": "x", "metadata": {}}]
    (tmp_path / "samples.json").write_text(json.dumps({"samples": rows, "contrasts": None, "columns": {}}))
    return tmp_path


QC = ["--sample=s", "--output={}/out/o.h5ad", "--qc={}/out/qc"]
CASES = {
    "sheet": (["check-samplesheet", "{}/bad.csv", "--output={}/out/o.json"], "gone.h5"),
    "no sheet": (["check-samplesheet", "{}/none.csv", "--output={}/out/o.json"], "none.csv"),
    "missing": (["qc-rna", "{}/none.h5", *QC], "none.h5"),
    "cut": (["qc-rna", "{}/cut.h5", *QC], "cut.h5"),
    "empty": (["qc-rna", "{}/empty.h5ad", *QC], "0 bytes"),
    "normalised": (["qc-rna", "{}/log.h5ad", *QC], "not whole numbers"),
    "NaN": (["qc-rna", "{}/nan.h5ad", *QC], "nan"),
    "peaks as genes": (["qc-rna", "{}/peaks.h5ad", *QC], "column atac"),
    "genes as peaks": (["qc-atac", "{}/nan.h5ad", *QC], "nan.h5ad"),
    "foreign list": (["qc-rna", "{}/all.h5", "--barcodes={}/cells.txt", *QC], "TTTT"),
    "no list": (["qc-rna", "{}/all.h5", "--barcodes={}/none.txt", *QC], "none.txt"),
    "all removed": (["qc-rna", "{}/all.h5", "--min-genes=31", *QC], "rna_min_genes"),
    "no mitochondria": (["qc-rna", "{}/all.h5", "--max-mito=5", *QC], "--rna_max_mito"),
    "only controls": (["qc-protein", "{}/isotypes.h5ad", *QC], "isotype"),
    "protein twice": (["qc-protein", "{}/twice.h5ad", *QC], "'CD3' occurs twice"),
    "no protein": (["qc-protein", "{}/peaks.h5ad", "--barcodes={}/cells.txt", *QC], "none of the 1 barcodes"),
    "not counted here": (["qc-atac", "{}/peaks.h5ad", "--fragments-qc={}/out", *QC], "as count-peaks writes them"),
    "no QC folder": (["qc-atac", "{}/counted.h5ad", "--fragments-qc={}/out", *QC], "fragments.tsv.gz"),
    "no QC output": (["mosaic", "--samples={}/samples.json", "--inputs={}/all.h5", "--output={}/out/m.h5mu"], "qc-rna"),
    "no preflight": (
        ["check-inputs", "{}/none.json", "--samples={}/samples.json", "--output={}/out/p.json"],
        "none.json",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_exit_code_2_and_nothing_half_written(folder, capsys, case):
    arguments, word = CASES[case]
    with pytest.raises(SystemExit) as stop:
        main([argument.format(folder) for argument in arguments])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "ERROR: " in text
    assert "Why it matters: " in text
    assert "What to do: " in text
    assert word in text
    assert "Traceback" not in text
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize("value", ["--min-genes=x", "--max-mito=101", "--mad=-1", "--min-gene=3"])
def test_bad_option_values(folder, capsys, value):
    with pytest.raises(SystemExit) as stop:
        main([argument.format(folder) for argument in ["qc-rna", "{}/all.h5", value, *QC]])
    assert stop.value.code == 2
    assert value.split("=")[0] in capsys.readouterr().err


def test_steps_before_training_do_not_import_torch():
    import subprocess
    import sys

    modules = (
        "mosaic preflight preflight.plan qc inputs.samplesheet commands.mosaic commands.preflight commands.qc_atac"
    )
    code = (
        "; ".join(f"import multivi_nf.{name}" for name in modules.split())
        + "; import sys; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
