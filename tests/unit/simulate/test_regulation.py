import numpy as np
import pandas as pd
import pytest

from multivi_nf.regulation.motif_files import read_motifs
from multivi_nf.regulation.sequence import peak_sequences
from multivi_nf.simulate import PRESETS, simulate, simulated_mosaic
from multivi_nf.simulate.regulation import plant
from multivi_nf.simulate.world import build_world

OPTIONS = PRESETS["test"].resized(fragments=False, regulation=True, genes=300, peaks=1500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "mosaic"
    simulate(OPTIONS, folder)
    return folder


def test_links_follow_their_gene_and_nothing_else_changes():
    before, world = build_world(OPTIONS), build_world(OPTIONS)
    planted = plant(world, OPTIONS)
    links = planted.links
    own = links[links["kind"] == "planted"]
    assert len(own) > 60
    assert np.array_equal(world.atac.loadings[:, own["peak"]], world.rna.loadings[:, own["gene"]])
    place = world.peaks["start"].to_numpy()[own["peak"]] - world.genes["position"].to_numpy()[own["gene"]]
    assert np.abs(place).max() < 151_000
    untouched = np.setdiff1d(np.arange(len(world.peaks)), links.loc[links["kind"] != "nearest", "peak"])
    assert np.array_equal(world.atac.loadings[:, untouched], before.atac.loadings[:, untouched])
    for _, gene, peak, kind in links.itertuples():
        assert kind != "nearest" or (before.follows[peak] and before.peaks["gene"].iloc[peak] == gene)


def test_a_factors_targets_gain_its_loadings_and_decoys_change_nothing():
    before, world = build_world(OPTIONS), build_world(OPTIONS)
    planted = plant(world, OPTIONS)
    targets = planted.links[planted.links["kind"] == "target"]
    assert set(targets["gene"]) == set(planted.factors.loc[planted.factors["kind"] == "factor", "gene"])
    gained = np.zeros_like(before.atac.loadings)
    np.add.at(gained.T, targets["peak"], 0.7 * world.rna.loadings[:, targets["gene"]].T)
    alone = targets["peak"].unique()
    assert np.allclose((world.atac.loadings - before.atac.loadings)[:, alone], gained[:, alone])


def test_sequences_hold_their_motifs(folder):
    world = build_world(OPTIONS)
    planted = plant(world, OPTIONS)
    motifs = read_motifs(folder / "genome" / "motifs.meme")
    assert [motif.name for motif in motifs] == world.genes["symbol"].iloc[planted.factors["gene"]].tolist()
    bases = peak_sequences(folder / "genome" / "genome.fa", world.peaks).bases
    assert all(len(one) == 500 for one in bases)
    best = np.argmax(motifs[0].probabilities, axis=0)
    hits = [
        max(
            (np.lib.stride_tricks.sliding_window_view(strand, best.size) == best).mean(axis=1).max()
            for strand in (one, 3 - one[::-1])
        )
        for one in bases
    ]
    held = planted.holds[:, 0]
    assert np.median(np.array(hits)[held]) > 0.9 > np.median(np.array(hits)[~held])
    sizes = pd.read_csv(folder / "genome" / "chrom.sizes", sep="\t", header=None, index_col=0)[1]
    text = (folder / "genome" / "genome.fa").read_text().split(">")[1:]
    assert {part.split("\n", 1)[0]: len(part.split("\n", 1)[1].replace("\n", "")) for part in text} == sizes.to_dict()


def test_truth_is_written_with_names(folder):
    links = pd.read_csv(folder / "truth" / "links.tsv.gz", sep="\t")
    assert set(links["kind"]) == {"nearest", "planted", "target"} and links["gene"].str.startswith("ENSG").all()
    motifs = pd.read_csv(folder / "truth" / "motifs.tsv", sep="\t")
    assert (motifs["kind"] == "factor").sum() == 5 and (motifs["peaks"] > 20).all()


def test_without_it_nothing_is_planted():
    options = PRESETS["test"].resized(fragments=False)
    world = build_world(options)
    assert plant(world, options) is None and simulated_mosaic(options)[1].planted is None
