"""The whole of `--regulation` in one run: a small simulated mosaic with fragments, planted links and factors.

About two minutes on two idle cores, so with the runs on real cells (`make test-real`).
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pyBigWig
import pytest
from sklearn.metrics import roc_auc_score
from tests.pipeline.nextflow_runs import BIN, Run, program
from tests.pipeline.written_names import undescribed

pytestmark = pytest.mark.real
SIZES = ("--cells", 900, "--genes", 240, "--peaks", 1500, "--regulation")
PARTS = ("tracks", "group_peaks", "gene_activity", "links", "motifs")


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "mosaic"
    program(BIN / "multivi-nf", "simulate", "--outdir", folder, *SIZES)
    return folder


@pytest.fixture(scope="module")
def run(nextflow: Callable[..., Run], mosaic, has_macs3, tmp_path_factory) -> Run:
    genome = mosaic / "genome"
    given = [
        *(
            "--input",
            mosaic / "samplesheet.csv",
            "--chrom_sizes",
            genome / "chrom.sizes",
            "--gtf",
            genome / "genes.gtf",
        ),
        *("--blacklist", genome / "blacklist.bed", "--fasta", genome / "genome.fa", "--fdr", 0.2, "--regulation"),
        *("--motifs", genome / "motifs.meme", "--peak_source", "samples", "--max_epochs", 25),
        *("--posterior_samples", 39, "--impute", "rna"),
    ]
    done = nextflow(tmp_path_factory.mktemp("run"), *given)
    assert done.code == 0, done.said
    return done


def facts(run: Run) -> dict[str, dict]:
    return {part: json.loads((run.outdir / "regulation" / f"{part}.json").read_text()) for part in PARTS}


def test_every_part_is_made_and_its_files_are_there(run, has_macs3):
    for part, found in facts(run).items():
        if part == "group_peaks" and not has_macs3:
            assert not found["done"] and "make macs3" in found["remedy"]
            continue
        assert found["done"], found
        named = [*found.get("files", []), *(row["file"] for row in found.get("table", []) if row.get("file"))]
        assert named and all((run.outdir / "regulation" / name).stat().st_size > 0 for name in named)
    assert "--regulation: no" not in run.said or not has_macs3


def test_every_file_and_column_is_in_the_reference(run):
    assert undescribed(run.outdir) == []


def test_tracks_hold_every_cut_site(run):
    found = facts(run)["tracks"]
    assert len(found["table"]) >= 2
    for row in found["table"]:
        with pyBigWig.open(str(run.outdir / "regulation" / row["file"])) as track:
            per_million = sum(
                (end - start) / found["bin_size"] * value
                for chrom in track.chroms()
                for start, end, value in track.intervals(chrom) or ()
            )
        assert per_million == pytest.approx(1e6, rel=2e-3) and row["insertions"] > 1000, row


def test_links_measured_and_imputed_find_what_was_planted(run, mosaic):
    table = pd.read_csv(run.outdir / "regulation" / "links.tsv.gz", sep="\t")
    truth = pd.read_csv(mosaic / "truth" / "links.tsv.gz", sep="\t")
    names = pd.MultiIndex.from_frame(table[["gene", "peak"]])
    # the run's peaks are the samples' own, merged: a planted one is that which it overlaps most
    known = {tuple(pair) for pair in truth[["gene", "peak"]].to_numpy()}
    planted = {tuple(pair) for pair in truth.loc[truth["kind"] == "planted", ["gene", "peak"]].to_numpy()}
    moved = nearest_names(table["peak"].unique(), truth["peak"].unique())
    pairs = [(gene, moved.get(peak, "")) for gene, peak in names]
    is_planted, is_known = (np.array([pair in held for pair in pairs]) for held in (planted, known))
    measured, guessed = table["z"].notna(), table["imputed_z"].notna()
    assert is_planted.sum() > 30 and measured.mean() > 0.9 and guessed.mean() > 0.5
    asked = (measured & (is_planted | ~is_known)).to_numpy()
    assert roc_auc_score(is_planted[asked], table.loc[asked, "z"]) >= 0.85
    assert not table["significant"][~measured].any(), "imputed values call nothing"
    told = facts(run)["links"]
    assert told["cells"] > 200 and told["cells_imputed"] > 50 and {"accessibility", "GC"} <= set(told["matched_on"])
    called = table[table["significant"]]
    assert told["links"] == len(called) > 0
    bedpe = (run.outdir / "regulation" / "links.bedpe").read_text().splitlines()
    assert len(bedpe) == len(called) + 1


def nearest_names(own: np.ndarray, others: np.ndarray) -> dict[str, str]:
    """Each peak's name → the name of the peak of another set whose middle lies within 250 bp of its own."""
    places = [pd.Series(names).str.extract(r"(.+):(\d+)-(\d+)").assign(name=names) for names in (own, others)]
    for place in places:
        place["middle"] = (place[1].astype(int) + place[2].astype(int)) // 2
    left, right = (place.sort_values("middle") for place in places)
    joined = pd.merge_asof(left, right, on="middle", by=0, direction="nearest", tolerance=250, suffixes=("", "_other"))
    return dict(joined.dropna(subset="name_other")[["name", "name_other"]].itertuples(index=False))


def test_planted_factors_come_first(run, mosaic):
    found = ad.read_h5ad(run.outdir / "regulation" / "motifs.h5ad")
    truth = pd.read_csv(mosaic / "truth" / "motifs.tsv", sep="\t").set_index("motif")["kind"]
    assert (truth[found.var_names[:5]] == "factor").sum() >= 4
    assert found.n_obs == facts(run)["motifs"]["cells"] and np.isfinite(found.X).all()


def test_gene_activity_is_of_the_fragments(run):
    found = ad.read_h5ad(run.outdir / "regulation" / "gene_activity.h5ad")
    assert found.uns["source"] == "fragments" and found.shape == tuple(
        facts(run)["gene_activity"][name] for name in ("cells", "genes")
    )
    assert found.layers["counts"].sum() > found.n_obs


def test_the_pages_lead_from_genes_to_linked_peaks(run):
    called = pd.read_csv(run.outdir / "regulation" / "links.tsv.gz", sep="\t").query("significant").head(200)
    page = (run.outdir / "explorer.html").read_text()
    meta = json.loads(re.search(r'<script type="application/json" id="meta">(.*?)</script>', page, re.S).group(1))
    assert [tuple(link[:2]) for link in meta["links"]][: len(called)] == list(zip(called["gene"], called["peak"]))
    gene = next(item for item in meta["items"] if item["group"] == "rna" and item["id"] == called["gene"].iloc[0])
    text = re.search(rf'<script type="text/plain" id="{gene["blob"]}">(.*?)</script>', page, re.S).group(1)
    assert len(zlib.decompress(base64.b64decode(text))) == meta["n"]
    report = (run.outdir / "report.html").read_text()
    first = called.iloc[0]
    assert f"explorer.html#left=rna:{first['gene']}&amp;right=atac:{first['peak'].replace(':', '%3A')}" in report
    assert "Up to 3 motifs more open in each cluster" in report


def test_groups_have_peaks_of_their_own(run, has_macs3):
    if not has_macs3:
        pytest.skip("MACS3 is not built: type `make macs3`")
    found = facts(run)["group_peaks"]
    merged = (run.outdir / "regulation" / "peaks_merged.bed").read_text().splitlines()
    consensus = (run.outdir / "peaks" / "consensus.bed").read_text().splitlines()
    new = sum(line.split("\t")[-1] == "1" for line in merged)
    assert len(merged) == len(consensus) + new
    assert any(row["peaks"] for row in found["table"])
