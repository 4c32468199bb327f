"""`multivi-nf links` and `motifs` from files to files, on a simulated mosaic with planted truth."""

import json

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr

from multivi_nf.commands import exit_code
from multivi_nf.errors import InputError
from multivi_nf.io.tables import write_table
from multivi_nf.regulation import find_links as finding
from multivi_nf.regulation.find_links import Asked, find_links, gene_places, read_called, read_embedded
from multivi_nf.regulation.find_motifs import held_motifs
from multivi_nf.regulation.link_tables import COLUMNS
from multivi_nf.regulation.pairs import match_genes
from multivi_nf.regulation.possible import NotPossible
from multivi_nf.simulate import Options, simulated_mosaic
from multivi_nf.simulate.regulation import plant, write_regulation
from multivi_nf.simulate.world import build_world
from multivi_nf.simulate.write import write_genome

OPTIONS = Options(cells=700, genes=150, peaks=1200, regulation=True, atac_fragments=2500.0, rna_counts=2000.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("find")
    (folder / "truth").mkdir()
    world = build_world(OPTIONS)
    planted = plant(world, OPTIONS)
    write_genome(folder / "genome", world)
    write_regulation(folder, world, planted, 0)
    mosaic, truth = simulated_mosaic(OPTIONS)
    rng = np.random.default_rng(0)
    with mudata.set_options(pull_on_update=False):
        mosaic["rna"].var["symbol"] = world.genes["symbol"].to_numpy()
        for data in (mosaic, mosaic["atac"]):
            states = truth.states[truth.rows(data.obs_names)]
            data.obsm["X_multivi"] = (states + rng.normal(0, 0.1, states.shape)).astype(np.float32)
            data.obsm["X_umap"] = data.obsm["X_multivi"][:, :2]
            data.obs["cluster"] = pd.Categorical(truth.cells.loc[data.obs_names, "cell_type"].to_numpy())
        mosaic["atac"].uns["cluster_colors"] = np.array(["#000000"] * 9, dtype=object)
        mosaic.write(folder / "multivi.h5mu")
        rna_alone = mosaic[~mosaic.obs_names.isin(mosaic["atac"].obs_names)].copy()
        mudata.MuData({"rna": rna_alone["rna"]}).write(folder / "rna_only.h5mu")
        apart = mosaic[mosaic.obs["modality"] != "rna+atac"].copy()
        apart.write(folder / "unpaired.h5mu")
    store = ad.AnnData(
        np.full((len(apart), 20), 1.0, np.float32) + rng.random((len(apart), 20), dtype=np.float32),
        obs=pd.DataFrame({"measured": apart.obs["has_rna"].to_numpy(bool)}, index=apart.obs_names),
        var=pd.DataFrame(index=mosaic["rna"].var_names[5:25]),
    )
    store.write_zarr(folder / "rna.zarr", chunks=(50, 20))
    assert zarr.open_group(folder / "rna.zarr", mode="r")["X"].chunks[0] == 50
    return folder


def run(*words):
    return exit_code([str(word) for word in words])


def test_links_are_written_and_bytes_repeat(folder, tmp_path):
    for place in ("one", "two"):
        given = ("--tss", folder / "genome/tss.bed", "--fasta", folder / "genome/genome.fa", "--window", 100_000)
        assert (
            run(
                "links",
                folder / "multivi.h5mu",
                *given,
                "--facts",
                tmp_path / f"{place}.json",
                "--output",
                tmp_path / place,
            )
            == 0
        )
    table = pd.read_csv(tmp_path / "one/links.tsv.gz", sep="\t")
    assert tuple(table.columns) == COLUMNS and len(table) > 2000
    assert table["imputed_z"].isna().all() and table["distance"].abs().max() <= 100_000
    truth = pd.read_csv(folder / "truth/links.tsv.gz", sep="\t")
    planted = pd.MultiIndex.from_frame(truth.loc[truth["kind"] == "planted", ["gene", "peak"]])
    own = pd.MultiIndex.from_frame(table[["gene", "peak"]]).isin(planted)
    assert own.sum() > 20 and table.loc[own, "z"].median() > 2 and abs(table.loc[~own, "z"].median()) < 0.5
    facts = json.loads((tmp_path / "one.json").read_text())
    assert (
        facts["done"]
        and facts["matched_on"] == ["accessibility", "GC"]
        and facts["files"] == ["links.tsv.gz", "links.bedpe"]
    )
    for name in ("links.tsv.gz", "links.bedpe"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    head = (tmp_path / "one/links.bedpe").read_text().splitlines()[0].split("\t")
    assert head[:10] == ["#chrom1", "start1", "end1", "chrom2", "start2", "end2", "name", "score", "strand1", "strand2"]


def test_called_links_are_read_without_the_others(folder, tmp_path, monkeypatch):
    given = ("--gtf", folder / "genome/genes.gtf", "--fasta", folder / "genome/genome.fa", "--fdr", 0.2)
    assert run("links", folder / "multivi.h5mu", *given, "--facts", tmp_path / "l.json", "--output", tmp_path) == 0
    table = pd.read_csv(tmp_path / "links.tsv.gz", sep="\t")
    called = table[table["significant"]]
    assert 1 < len(called) < len(table) / 2
    monkeypatch.setattr(finding, "ROWS", len(called) // 2)
    pd.testing.assert_frame_equal(read_called(tmp_path / "links.tsv.gz"), called)
    shown = json.loads((tmp_path / "l.json").read_text())["table"]
    assert len(shown) == min(len(called), finding.SHOWN)
    assert [(row["gene"], row["peak"]) for row in shown] == list(zip(called["gene"], called["peak"]))[: finding.SHOWN]
    assert all(row["imputed_correlation"] is None for row in shown), "JSON knows no NaN"
    (tmp_path / "cut.tsv.gz").write_bytes((tmp_path / "links.tsv.gz").read_bytes()[:90])
    for name in ("cut.tsv.gz", "l.json", "nowhere"):
        with pytest.raises(InputError, match="is no table of links"):
            read_called(tmp_path / name)


@pytest.mark.parametrize("genes", [["NA", "nan"], ["7157", "672"], ["=1+1", 'a"b']])
def test_names_of_called_links_stay_as_they_are(tmp_path, genes):
    table = pd.DataFrame(0.5, index=range(2), columns=list(COLUMNS)).assign(gene=genes, symbol=genes, peak=["NA", "1"])
    write_table(table.assign(significant=True), tmp_path / "links.tsv.gz")
    found = read_called(tmp_path / "links.tsv.gz")
    assert found["gene"].tolist() == found["symbol"].tolist() == genes and found["peak"].tolist() == ["NA", "1"]


def test_a_gtf_gives_the_same_pairs_as_start_sites(folder):
    embedded = read_embedded(folder / "multivi.h5mu")
    one = gene_places(None, folder / "genome/genes.gtf", None)
    other = gene_places(None, None, folder / "genome/tss.bed")
    sites = [match_genes(embedded.rna.var, places)[["chrom", "pos", "strand"]] for places in (one, other)]
    # of genes that share a symbol only the GTF's ids tell which is which
    assert len(sites[0]) > len(sites[1]) > 130 and sites[1].merge(sites[0]).shape == sites[1].shape


def test_unpaired_cells_have_imputed_columns_only(folder):
    embedded = read_embedded(folder / "unpaired.h5mu")
    places = gene_places(None, folder / "genome/genes.gtf", None)
    table, bedpe, facts = find_links(embedded, places, Asked(), imputed=folder / "rna.zarr")
    assert table["z"].isna().all() and table["imputed_z"].notna().all() and not table["significant"].any()
    assert len(bedpe) == 0 and facts.cells == 0 and facts.cells_imputed > 100
    assert set(table["gene"]) <= set(embedded.rna.var.index[5:25]) and "imputed ones only" in facts.told


@pytest.mark.parametrize(
    ("file", "given", "what"),
    [
        ("unpaired.h5mu", ["--tss", "genome/tss.bed"], "0 cells have both RNA and ATAC"),
        ("rna_only.h5mu", ["--tss", "genome/tss.bed"], "no sample brings atac"),
        ("multivi.h5mu", [], "there is no annotation of genes"),
        ("multivi.h5mu", ["--genome", "hg38"], "no peak lies within"),
        ("multivi.h5mu", ["--tss", "genome/tss.bed", "--strata", "nobody"], "no such column in obs"),
    ],
)
def test_links_that_cannot_be_are_told_or_are_an_error(folder, tmp_path, capsys, file, given, what):
    given = [folder / word if word.startswith("genome/") else word for word in given]
    assert run("links", folder / file, *given, "--output", tmp_path) == 2
    said = capsys.readouterr().err
    assert what in said and "Why it matters" in said and "What to do" in said
    assert run("links", folder / file, *given, "--output", tmp_path, "--facts", tmp_path / "links.json") == 0
    facts = json.loads((tmp_path / "links.json").read_text())
    assert (
        not facts["done"]
        and what in facts["what"]
        and sorted(path.name for path in tmp_path.iterdir()) == ["links.json"]
    )


def test_motifs_are_written_and_planted_ones_come_first(folder, tmp_path):
    given = ("--fasta", folder / "genome/genome.fa", "--motifs", folder / "genome/motifs.meme")
    assert run("motifs", folder / "multivi.h5mu", *given, "--facts", tmp_path / "m.json", "--output", tmp_path) == 0
    found = ad.read_h5ad(tmp_path / "motifs.h5ad")
    embedded = read_embedded(folder / "multivi.h5mu")
    assert found.obs_names.equals(embedded.atac.cells) and found.shape[1] == 20
    truth = pd.read_csv(folder / "truth/motifs.tsv", sep="\t").set_index("motif")
    assert (truth.loc[found.var_names[:5], "kind"] == "factor").sum() >= 4  # 1,200 peaks are few
    assert (found.var["name"] == truth.loc[found.var_names, "symbol"]).all()
    assert "X_umap" in found.obsm and "cluster_colors" in found.uns and np.isfinite(found.X).all()
    assert found.layers["deviations"].shape == found.shape and found.var["rna_correlation"].notna().all()
    table = pd.read_csv(tmp_path / "motifs.tsv.gz", sep="\t")
    assert (truth.loc[table["motif"].head(5), "kind"] == "factor").all() and (table["p"].diff().dropna() >= 0).all()
    assert set(table["group"]) <= set(found.obs["cluster"])
    facts = json.loads((tmp_path / "m.json").read_text())
    assert facts["done"] and facts["motifs"] == 20 and facts["files"] == ["motifs.h5ad", "motifs.tsv.gz"]
    up = table[table["significant"] & (table["effect"] > 0)]
    for group, rows in pd.DataFrame(facts["table"]).groupby("group"):
        assert rows["motif"].tolist() == up.loc[up["group"] == group, "motif"].head(3).tolist()
    assert {row["group"] for row in facts["table"]} == set(up["group"])


def test_a_missing_chromosome_is_told(folder, tmp_path):
    text = (folder / "genome/genome.fa").read_text().split(">")
    (tmp_path / "part.fa").write_text("".join(f">{part}" for part in text[1:] if not part.startswith("chr3")))
    given = ("--fasta", tmp_path / "part.fa", "--motifs", folder / "genome/motifs.meme", "--background", 10)
    assert run("motifs", folder / "multivi.h5mu", *given, "--facts", tmp_path / "m.json", "--output", tmp_path) == 0
    facts = json.loads((tmp_path / "m.json").read_text())
    assert facts["missing_chromosomes"] == ["chr3"] and "have no bases in the FASTA (chr3)" in facts["told"]
    lost, given = facts["peaks_without_bases"], ("--gtf", folder / "genome/genes.gtf", *given[:2])
    assert run("links", folder / "multivi.h5mu", *given, "--facts", tmp_path / "l.json", "--output", tmp_path) == 0
    facts = json.loads((tmp_path / "l.json").read_text())
    assert facts["missing_chromosomes"] == ["chr3"] and facts["peaks_without_bases"] == lost > 0
    assert facts["told"].endswith(f" {lost:,} peaks have no bases in the FASTA (chr3).")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([], "the genome's sequence was not given"),
        (["--motifs", "genome/motifs.meme"], "the genome's sequence was not given"),
        (["--fasta", "genome/genome.fa"], "there are no motifs"),
        (["--fasta", "genome/genome.fa", "--motifs", "genome/motifs.meme", "--groups", "nobody"], "no such column"),
    ],
)
def test_motifs_that_cannot_be_are_told(folder, tmp_path, monkeypatch, given, what):
    monkeypatch.setenv("MULTIVI_NF_MOTIFS", str(tmp_path / "none"))
    given = [folder / word if word.startswith("genome/") else word for word in given]
    assert run("motifs", folder / "multivi.h5mu", *given, "--output", tmp_path, "--facts", tmp_path / "m.json") == 0
    facts = json.loads((tmp_path / "m.json").read_text())
    assert not facts["done"] and what in facts["what"] and not (tmp_path / "motifs.h5ad").exists()


def test_the_environment_may_hold_motifs(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.delenv("MULTIVI_NF_MOTIFS", raising=False)
    with pytest.raises(NotPossible, match="make motifs"):
        held_motifs()
    place = tmp_path / "share/multivi-nf/jaspar.meme"
    place.parent.mkdir(parents=True)
    place.write_text("MEME version 4\n")
    assert held_motifs() == place
