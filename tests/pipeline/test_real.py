"""Real cells in one go, no code changed: samplesheets written here, data beside the clone (`make test-real`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mudata
import pandas as pd
import pytest
from tests.conftest import skip_or_fail
from tests.pipeline.nextflow_runs import BIN, Run, program

pytestmark = pytest.mark.real

FEW = ["--max_epochs", "15", "--posterior_samples", "39"]


@dataclass
class RealSet:
    """How a set is told to the pipeline."""

    rows: list[dict[str, str]]
    arguments: list[object]
    modalities: set[str]
    labels: str | None = None


def snare(data: Path, folder: Path) -> RealSet:
    """Eight libraries: three paired, three of which only the RNA is used, two of which only the ATAC is."""
    cells = pd.read_csv(data / "cells.tsv.gz", sep="\t")
    libraries = sorted(cells["batch"].unique())
    files = {"rna": str(data / "rna.h5ad"), "atac": str(data / "atac.h5ad")}
    rows = []
    for sample, chosen, columns in (
        ("paired", libraries[:3], ("rna", "atac")),
        ("rna_only", libraries[3:6], ("rna",)),
        ("atac_only", libraries[6:], ("atac",)),
    ):
        barcodes = folder / f"{sample}.txt"
        barcodes.write_text("\n".join(cells.loc[cells["batch"].isin(chosen), "barcode"]) + "\n")
        rows.append({"sample": sample, "barcodes": barcodes.name} | {column: files[column] for column in columns})
    contrasts = folder / "contrasts.csv"
    contrasts.write_text("contrast,modality,groupby,target,reference,cells\nclusters,rna,cluster,each,rest,observed\n")
    return RealSet(rows, ["--contrasts", contrasts], {"rna+atac", "rna", "atac"}, "cell_type")


def myeloma(data: Path, folder: Path) -> RealSet:
    """A natural mosaic: some barcodes passed in one modality only."""
    row = {"sample": "marrow", "rna": str(data / "rna.h5ad"), "atac": str(data / "atac.h5ad")}
    return RealSet([row], [], {"rna+atac", "rna", "atac"}, "cell_type")


def bmmc(data: Path, folder: Path) -> RealSet:
    """Multiome and CITE-seq of the same donors: no cell has all three modalities."""
    multiome, cite = (str(data / f"{name}_filtered_feature_bc_matrix.h5") for name in ("multiome", "cite"))
    rows = [
        {"sample": "multiome", "rna": multiome, "atac": multiome},
        {"sample": "cite", "rna": cite, "protein": cite},
    ]
    return RealSet(rows, ["--min_shared_genes", "0.1"], {"rna+atac", "rna+protein"})


def pbmc(data: Path, folder: Path) -> RealSet:
    """A file exactly as Cell Ranger wrote it."""
    file = str(data / "filtered_feature_bc_matrix.h5")
    return RealSet([{"sample": "pbmc", "rna": file, "protein": file}], [], {"rna+protein"})


def fragments_given(data: Path, folder: Path) -> RealSet:
    """Raw fragments and other cells' RNA; peaks of the source."""
    rows = [
        {"sample": "atac", "fragments": str(data / "fragments.tsv.gz"), "barcodes": str(data / "barcodes.tsv")},
        {"sample": "rna", "rna": str(data / "rna_unpaired.h5ad")},
    ]
    genome = ["--chrom_sizes", data / "chrom.sizes"]
    return RealSet(rows, [*genome, "--peaks", data / "peaks.bed"], {"rna", "atac"})


def fragments_called(data: Path, folder: Path) -> RealSet:
    """The same; peaks called here, and all of regulation that unpaired cells without a genome's sequence allow."""
    real = fragments_given(data, folder)
    arguments = ["--genome", "hg19", "--peak_source", "macs3", "--regulation"]
    return RealSet(real.rows, arguments, real.modalities, real.labels)


SETS = {
    "snare_mouse_cortex_dev": snare,
    "myeloma_multiome_mosaic": myeloma,
    "bmmc_neurips_mini": bmmc,
    "pbmc1k_citeseq_10x": pbmc,
    "fragments_pbsmall_hg19": fragments_given,
    "fragments_pbsmall_hg19, peaks called": fragments_called,
}


@pytest.mark.parametrize("name", SETS)
def test_real_cells(nextflow: Callable[..., Run], shared_data, has_macs3, tmp_path, name):
    if name.endswith("called") and not has_macs3:
        skip_or_fail("MACS3 is not built: type `make macs3`")
    real = SETS[name](shared_data(name.split(",")[0]), tmp_path)
    sheet = tmp_path / "samples.csv"
    pd.DataFrame(real.rows).to_csv(sheet, index=False)
    started = time.monotonic()
    run = nextflow(tmp_path, "--input", sheet, *real.arguments, *FEW)
    seconds = time.monotonic() - started
    assert run.code == 0, run.said
    cells = mudata.read_h5mu(run.outdir / "multivi.h5mu")
    # A paired cell that passes QC in one modality only is kept as unpaired
    assert real.modalities <= set(cells.obs["modality"]) <= real.modalities | {"rna", "atac", "protein"}
    summaries = [json.loads(path.read_text()) for path in run.outdir.glob("qc/*/*.json")]
    told = [summary for summary in summaries if "rules" in summary and summary.get("modality")]
    lines = []
    for summary in told:
        kept = summary["cells_out"] / summary["cells_in"]
        lines.append(f"{summary['sample']} {summary['modality']} {summary['cells_out']}/{summary['cells_in']}")
        assert kept >= 0.8, (
            f"{summary['sample']} {summary['modality']}: {kept:.0%} of the cells stay: {summary['rules']}"
        )
    assert (run.outdir / "report.html").stat().st_size > 50_000
    if "--regulation" in real.arguments:
        assert_regulated(run)
    costs = [json.loads(path.read_text()) for path in run.outdir.glob("pipeline_info/resources/*.json")]
    peak = max(cost["peak_memory"] for cost in costs) / 2**30
    said = scores(run, real.labels, cells)
    print(f"\n{name}: {cells.n_obs} cells ({', '.join(lines)}), {seconds:.0f} s, peak {peak:.1f} GiB\n{said}")


def assert_regulated(run: Run) -> None:
    """What can be made of unpaired cells is made; what cannot says why, at the gate and at its end."""
    folder = run.outdir / "regulation"
    facts = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert {part for part, found in facts.items() if found["done"]} == {
        "tracks",
        "group_peaks",
        "gene_activity",
        "links",
    }, facts
    assert "sequence was not given" in facts["motifs"]["what"] and facts["motifs"]["remedy"] == "give --fasta FILE"
    assert run.said.count("no motifs: the genome's sequence was not given") == 2
    links = pd.read_csv(folder / "links.tsv.gz", sep="\t")
    assert facts["links"]["cells"] == 0 and links["z"].isna().all() and not links["significant"].any()
    assert links["imputed_z"].notna().any() and "no cell has both" in facts["links"]["told"]
    assert facts["gene_activity"]["source"] == "fragments" and len(list((folder / "tracks").glob("*.bw"))) >= 2


def scores(run: Run, labels: str | None, cells: mudata.MuData) -> str:
    """What `multivi-nf evaluate` says against the labels that the set came with."""
    if labels is None or labels not in cells.obs:
        return "  (no labels)"
    model, mosaic = run.outdir / "model", run.outdir / "multivi.h5mu"
    output = run.folder / "evaluation.json"
    said = program(
        BIN / "multivi-nf", "evaluate", "--mosaic", mosaic, "--labels", labels, "--model", model, "--output", output
    )
    assert json.loads(output.read_text())["scores"]
    return said
