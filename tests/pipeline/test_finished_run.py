"""One real run of the simulated mosaic: every item of docs/output.md, and a second run that repeats nothing."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import subprocess
import sys

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from tests.conftest import skip_or_fail
from tests.pipeline.doc_blocks import BLOCKS
from tests.pipeline.nextflow_runs import MOSAIC, REPOSITORY
from tests.pipeline.written_names import undescribed

SAMPLES = ["multiome_1", "multiome_2", "rna_1", "rna_2", "atac_1", "atac_2", "cite_1"]


@pytest.fixture(scope="module")
def cells(finished) -> mudata.MuData:
    return mudata.read_h5mu(finished.outdir / "multivi.h5mu")


def test_the_mosaic_has_truly_missing_rows(finished):
    mosaic = mudata.read_h5mu(finished.outdir / "mosaic" / "mosaic.h5mu")
    assert list(mosaic.mod) == ["rna", "atac", "protein"]
    assert set(mosaic.obs["sample"]) == set(SAMPLES)
    for name, modality in mosaic.mod.items():
        own = mosaic.obs.loc[modality.obs_names, "sample"].unique().tolist()
        assert own == [sample for sample in SAMPLES if sample in own]  # gathered in samplesheet order
        assert modality.X.dtype.kind in "iu" and modality.X.format == "csr"
        assert set(mosaic.obs_names[mosaic.obs[f"has_{name}"]]) == set(modality.obs_names)
    assert set(np.unique(mosaic["atac"].X.data)) == {1}
    assert mosaic["atac"].layers["counts"].max() > 1
    kinds = mosaic.obs.groupby("sample", observed=True)["modality"].agg(lambda column: set(column))
    assert kinds["rna_1"] == {"rna"} and kinds["atac_1"] == {"atac"}
    assert "rna+protein" in kinds["cite_1"]
    assert "rna+atac" in kinds["multiome_1"] and "rna+atac" in kinds["multiome_2"]  # the second by its barcode map
    # Cells that a modality does not hold stay with the other; those that fail its QC go (--partial_cells drop).
    assert kinds["cite_1"] <= {"rna", "protein", "rna+protein"} and kinds["multiome_1"] <= {"rna", "atac", "rna+atac"}
    assert mosaic.obs["donor"].notna().all()
    assert mosaic.obs_names.str.match(r"[\w.-]+:\S+").all()


def test_most_cells_stay(finished, cells):
    truth = pd.read_csv(MOSAIC / "truth" / "cells.tsv.gz", sep="\t", index_col=0)
    assert cells.obs_names.isin(truth.index).mean() > 0.95
    assert cells.n_obs >= 0.8 * (~truth.get("dying", pd.Series(False, index=truth.index)).astype(bool)).sum()


def test_the_embedding(cells):
    latent, variance = cells.obsm["X_multivi"], cells.obsm["X_multivi_variance"]
    assert latent.shape == variance.shape and len(latent) == cells.n_obs
    assert np.isfinite(latent).all() and (variance > 0).all()
    for name in ("rna", "atac", "protein"):
        absent = ~cells.obs[f"has_{name}"].to_numpy(bool)
        own = cells.obsm[f"X_multivi_{name}"]
        assert np.isnan(own[absent]).all() and np.isfinite(own[~absent]).all()
    assert cells.obsm["X_umap"].shape == (cells.n_obs, 2) and np.isfinite(cells.obsm["X_umap"]).all()
    assert cells.obs["cluster"].nunique() >= 2


def test_the_model(finished):
    model = finished.outdir / "model"
    assert {path.name for path in model.iterdir()} >= {
        *("config.json", "weights.safetensors", "features.tsv", "history.tsv", "split.tsv", "calibration.json")
    }
    history = pd.read_csv(model / "history.tsv", sep="\t")
    assert {"epoch", "train_loss", "validation_loss", "seconds"} <= set(history)
    assert history["validation_loss"].iloc[-1] < history["validation_loss"].iloc[0]
    assert set(pd.read_csv(model / "split.tsv", sep="\t")["split"]) <= {"train", "validation", "calibration"}
    assert not (finished.outdir / "checkpoints").exists()


def test_imputation_of_all_cells(finished, cells):
    for name in ("rna", "protein"):
        store = ad.read_zarr(finished.outdir / "imputed" / f"{name}.zarr")
        assert store.obs_names.tolist() == cells.obs_names.tolist()
        assert (store.obs["measured"].to_numpy(bool) == cells.obs[f"has_{name}"].to_numpy(bool)).all()
        mean, lower, upper = (np.asarray(part[:]) for part in (store.X, store.layers["lower"], store.layers["upper"]))
        assert np.isfinite(mean).all() and (lower <= upper).all() and (np.asarray(store.layers["sd"][:]) >= 0).all()
        assert "out_of_support" in store.obs and "calibrated" in store.uns


def test_files_that_other_tools_open(finished, cells):
    for name in ("rna", "atac", "protein"):
        own = cells[name]
        assert own.obs["cluster"].notna().all() and own.obsm["X_umap"].shape == (own.n_obs, 2)
        data = ad.read_h5ad(finished.outdir / "h5ad" / f"{name}.h5ad")
        assert data.obs_names.tolist() == own.obs_names.tolist() and data.layers["counts"].dtype.kind == "i"
        table = pd.read_csv(finished.outdir / "markers" / f"{name}.tsv.gz", sep="\t")
        assert {"cluster", "feature", "effect", "fdr", "fraction_expressing"} <= set(table) and len(table)
    assert (cells["atac"].var["nearest_gene"] != "").any() and cells["atac"].var["in_promoter"].any()
    table = pd.read_csv(finished.outdir / "cells.tsv.gz", sep="\t", low_memory=False)
    assert table["cell"].tolist() == cells.obs_names.tolist()
    assert pd.read_csv(finished.outdir / "clusters.tsv", sep="\t")["cells"].sum() == cells.n_obs
    store = finished.outdir / "imputed" / "rna.zarr"
    assert (store / ".zmetadata").is_file() and ad.read_zarr(store).obs["cluster"].notna().all()
    assert json.loads((finished.outdir / "imputed" / "rna.vitessce.json").read_text())["datasets"]
    assert f'"n":{cells.n_obs},' in (finished.outdir / "explorer.html").read_text()
    assert len(list((finished.outdir / "multiqc").glob("*_mqc.tsv"))) == 3


def test_contrasts(finished):
    with (MOSAIC / "contrasts.csv").open() as table:
        names = [row["contrast"] for row in csv.DictReader(table)]
    tables = {path.name: path for path in (finished.outdir / "differential").iterdir()}
    assert sorted(tables) == sorted(f"{name}.tsv.gz" for name in names)
    for path in tables.values():
        rows = pd.read_csv(path, sep="\t")
        assert len(rows) and {
            "feature",
            "effect",
            "effect_lower",
            "effect_upper",
            "probability",
            "fdr",
            "significant",
        } <= set(rows)


def test_every_barcode_and_rule_is_told(finished):
    for sample in SAMPLES:
        folder = finished.outdir / "qc" / sample
        assert (folder / f"{sample}.preflight.json").is_file()
        for summary in folder.glob("[rap]*[nc].json"):
            told = json.loads(summary.read_text())
            rows = pd.read_csv(summary.with_suffix("").with_suffix(".tsv.gz"), sep="\t", keep_default_na=False)
            assert told["cells_out"] == (rows["removed_by"] == "").sum()
    fragments = sorted(path.parent.name for path in finished.outdir.glob("qc/*/fragments.json"))
    assert fragments == ["atac_1", "atac_2", "multiome_1", "multiome_2"]


def test_inputs_are_fingerprinted(finished):
    rows = list(csv.DictReader((finished.outdir / "pipeline_info" / "inputs.tsv").open(), delimiter="\t"))
    assert list(dict.fromkeys(row["sample"] for row in rows)) == ["-", *SAMPLES]
    assert {row["column"] for row in rows if row["sample"] == "-"} == {
        *("input", "contrasts", "chrom_sizes", "gtf", "tss", "blacklist")
    }
    row = next(row for row in rows if row["sample"] == "atac_1" and row["column"] == "fragments")
    content = (MOSAIC / "atac_1" / "fragments.tsv.gz").read_bytes()
    assert row["path"].endswith("atac_1/fragments.tsv.gz")
    assert (int(row["size"]), row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert sum(row["sample"] == "rna_2" for row in rows) == 3  # an mtx folder: one row a file


def test_versions_and_costs(finished):
    info = finished.outdir / "pipeline_info"
    versions = (info / "software_versions.yml").read_text()
    assert "TRAIN:" in versions and re.search(r"    torch: 2\.", versions) and "    Nextflow: " in versions
    assert "REPORT:" not in versions
    told = dict(re.findall(r"^(\w+):\n((?:    .*\n)+)", versions, re.MULTILINE))
    ran = set(finished.submitted()) - {"REPORT", "FINGERPRINT"}
    assert ran <= set(told) and "    Java: " in told["Workflow"]
    assert all("    numpy: " in told[step] and "    multivi-nf: " in told[step] for step in ran)
    bill = json.loads((info / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["purl"]: part for part in bill["components"]}
    assert len(parts) == len(bill["components"]) > 50 and all(part["version"] for part in bill["components"])
    torch = next(part for purl, part in parts.items() if purl.startswith("pkg:pypi/torch@"))
    assert {"name": "multivi-nf:process", "value": "TRAIN"} in torch["properties"]
    assert any(purl.startswith("pkg:generic/nextflow@") for purl in parts)
    costs = [json.loads(path.read_text()) for path in (info / "resources").glob("*.resources.json")]
    steps = {cost["step"] for cost in costs}
    assert {"qc-rna", "qc-atac", "count-peaks", "mosaic", "train", "embed", "impute", "differential", "report"} <= steps
    assert all(cost["seconds"] > 0 and cost["peak_memory"] > 1e6 for cost in costs)
    for kind in ("trace_*.txt", "timeline_*.html", "report_*.html"):
        assert len(list(info.glob(f"execution_{kind}"))) >= 1


def test_controls_fall_to_chance(finished):
    table = pd.read_csv(finished.outdir / "controls.tsv", sep="\t").set_index("measure")
    calls = table.loc["rna features called"]
    assert calls["chance"] <= max(2, 0.2 * calls["result"]) and calls["control"] == "groups permuted"
    assert "What chance gives" in (finished.outdir / "report.html").read_text()


def test_the_page_is_self_contained(finished):
    page = (finished.outdir / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and len(page) > 50_000
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)
    assert all(sample in page for sample in SAMPLES)


def test_nothing_else_is_published(finished):
    described = (REPOSITORY / "docs" / "output.md").read_text()
    tops = {name.split("/")[0] for name in finished.results()}
    assert {top for top in tops if top not in described} == set()


def test_regulation_costs_nothing_where_it_is_not_asked_for(finished):
    assert not {"TRACKS", "GROUP_PEAKS", "GENE_ACTIVITY", "LINKS", "MOTIFS"} & set(finished.submitted())


def test_date_and_user_of_the_run_are_told(finished):
    made = json.loads((finished.outdir / "pipeline_info" / "run.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", made["started"]) and made["user"]
    page = (finished.outdir / "report.html").read_text()
    assert f'<span id="made">Run begun on {made["started"]} by {made["user"]}.</span>' in page


def test_peaks_were_called(finished, has_macs3):
    if not has_macs3:
        skip_or_fail("MACS3 is not built: type `make macs3`")
    assert finished.submitted().count("CALL_PEAKS") == 4
    called = pd.read_csv(finished.outdir / "peaks" / "consensus.bed", sep="\t", header=None)
    assert ((called[2] - called[1]) == 501).all() and len(called) > 50


def test_resume_repeats_nothing_and_repairs_what_was_cut(nextflow, finished, has_macs3):
    """Last, since it writes into the finished run's folder."""
    target = finished.outdir / "differential" / "donor_1_against_2.tsv.gz"
    whole = target.read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    kept = {path: path.read_bytes() for path in (finished.outdir / "multivi.h5mu", finished.outdir / "report.html")}
    source = [] if has_macs3 else ["--peak_source", "samples"]
    run = nextflow(
        finished.folder, "-profile", "test", "--save_intermediates", "--controls", *source, "-resume", traced=True
    )
    assert run.code == 0, run.said
    assert run.submitted() == []
    assert sorted(run.cached()) == sorted(finished.submitted())
    assert target.read_bytes() == whole and gzip.decompress(whole)
    assert all(path.read_bytes() == content for path, content in kept.items())


PYTHON_PAGES = sorted({b.page for b in BLOCKS if b.mark == "run: docs"})


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_python_on_a_page_runs_on_finished_results(page, finished, tmp_path):
    """All its blocks in their order, in one process, beside the results of a run."""
    (tmp_path / "results").symlink_to(finished.folder / "out")
    code = "\n".join(block.text for block in BLOCKS if block.page == page and block.mark == "run: docs")
    program = "import matplotlib; matplotlib.use('Agg')\n" + code
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_file_and_column_is_in_the_reference(finished):
    """Of what a run writes nothing is without a line in docs/output.md."""
    assert undescribed(finished.outdir) == []


def test_what_is_not_described_is_found(tmp_path):
    (tmp_path / "verdict.tsv").write_text("question\tlevel\tmood\n")
    (tmp_path / "surprise.txt").write_text("")
    assert undescribed(tmp_path) == ["surprise.txt", "verdict.tsv: mood"]
