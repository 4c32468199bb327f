import functools

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import kstest, ttest_ind

from multivi_nf.export.normalise import log_normalised
from multivi_nf.regulation import motifs
from multivi_nf.regulation.background import peak_properties
from multivi_nf.regulation.motif_files import Motif
from multivi_nf.simulate import Options, simulated_mosaic
from multivi_nf.simulate.regulation import FACTORS, genome_sequence, plant
from multivi_nf.simulate.world import build_world

# ------------------------------------------------------------------ scan


def sharp(word):
    probabilities = np.full((4, len(word)), 0.01)
    probabilities[word, np.arange(len(word))] = 0.97
    return Motif("M1", "TF", probabilities)


def test_both_strands_are_scanned_and_nothing_reaches_past_a_peaks_end():
    rng = np.random.default_rng(0)
    word = np.array([0, 1, 2, 3, 3, 0, 2, 1])
    bases = [rng.integers(0, 4, n).astype(np.uint8) for n in (30, 50, 20, 40)]
    bases[0][-8:] = word
    bases[1][5:13] = 3 - word[::-1]
    bases[2][-7:] = word[:7]  # the last base is missing
    found = motifs.scan([*bases, None, np.full(60, 4, np.uint8)], [sharp(word)])
    assert found.shape == (6, 1) and found.toarray().ravel().tolist() == [True, True, False, False, False, False]


def test_matches_are_as_rare_as_asked_for():
    rng = np.random.default_rng(1)
    bases = [rng.integers(0, 4, 500).astype(np.uint8) for _ in range(2000)]
    probabilities = rng.dirichlet(np.full(4, 0.3), 9).T
    share = motifs.scan(bases, [Motif("a", "a", probabilities)]).mean()
    # 492 places on two strands at 5e-5 at most (scores are discrete)
    assert 0.01 < share < 1 - (1 - 5e-5) ** 984 + 0.01


# ------------------------------------------------------------------ deviations


def by_hand(counts, matches, background):
    share = counts.sum(axis=0) / counts.sum()
    n = counts.sum(axis=1, keepdims=True)

    def raw(others):
        observed, expected = counts[:, others] @ matches, n * (share[others] @ matches)
        return (observed - expected) / expected

    drawn = np.stack([raw(background[:, k]) for k in range(background.shape[1])])
    deviation = raw(np.arange(counts.shape[1])) - drawn.mean(axis=0)
    return deviation, deviation / drawn.std(axis=0, ddof=1)


def test_deviations_are_chromvars(monkeypatch):
    monkeypatch.setattr(motifs, "CELLS", 7)
    rng = np.random.default_rng(0)
    counts, matches = rng.poisson(0.4, (20, 60)), rng.random((60, 3)) < 0.3
    background = rng.integers(0, 60, (60, 12))
    found = motifs.deviations(sparse.csr_matrix(counts), sparse.csr_matrix(matches), background)
    for one, expected in zip(found, by_hand(counts, matches.astype(float), background)):
        assert np.allclose(one, expected, rtol=1e-4, atol=1e-5)


def test_a_cell_without_counts_has_no_deviation():
    counts = sparse.csr_matrix(np.array([[0, 0, 0], [1, 2, 0]]))
    deviation, z = motifs.deviations(counts, sparse.csr_matrix(np.eye(3, 1)), np.array([[1, 1], [0, 2], [1, 0]]))
    assert np.isnan(deviation[0]).all() and np.isnan(z[0]).all() and np.isfinite(deviation[1]).all()


def test_background_sets_hold_other_peaks_alike():
    properties = np.linspace(0, 1, 2000)[:, None]
    sets = motifs.background_sets(properties, 30)
    assert sets.shape == (2000, 30) and (sets != np.arange(2000)[:, None]).all()
    assert np.abs(properties[sets, 0] - properties).max() < 0.12
    assert np.array_equal(sets, motifs.background_sets(properties, 30))


def test_variability_is_one_where_nothing_varies():
    z = np.random.default_rng(0).normal(size=(2000, 200))
    z[:, 0] *= 3
    table = motifs.variability(z)
    assert table["variability"].iloc[0] == pytest.approx(3, abs=0.2) and table["fdr"].iloc[0] < 1e-10
    assert kstest(table["p"].iloc[1:], "uniform").pvalue > 0.01


# ------------------------------------------------------------------ groups


def test_p_of_groups_is_even_for_sets_of_peaks_that_mean_nothing():
    rng = np.random.default_rng(0)
    groups = pd.Series(pd.Categorical(np.repeat(["a", "b"], 300)))
    # types differ at a third of the peaks: a test between cells would find any set of peaks to differ
    rate = np.exp(rng.normal(0, 0.8, (2, 1500)) * (rng.random(1500) < 0.33)) * 0.1
    counts = sparse.csr_matrix(rng.poisson(np.repeat(rate, 300, axis=0)))
    matches = sparse.csr_matrix(rng.random((1500, 150)) < 0.1)
    background = motifs.background_sets(peak_properties(np.asarray(counts.sum(axis=0)).ravel())[0])
    table = motifs.by_group(counts, matches, background, groups, motifs.deviations(counts, matches, background)[0])
    first = table[table["group"] == "a"]
    assert len(table) == 300 and kstest(first["p_background"], "uniform").pvalue > 0.001
    assert (table["fdr"] <= 0.05).mean() < 0.02
    other = table[table["group"] == "b"]
    assert np.allclose(first["effect"], -other["effect"].to_numpy(), atol=1e-9)  # two groups: one is the other's rest


def test_groups_of_two_cells_are_left_out():
    counts = sparse.csr_matrix(np.ones((9, 40), int))
    groups = pd.Series(["a"] * 4 + ["b"] * 3 + ["tiny"] * 2)
    background = np.random.default_rng(0).integers(0, 40, (40, 5))
    values = np.random.default_rng(1).normal(size=(9, 2))
    table = motifs.by_group(counts, sparse.csr_matrix(np.ones((40, 2))), background, groups, values)
    own = np.arange(9) < 4
    assert table["p_cells"].iloc[0] == pytest.approx(ttest_ind(values[own, 0], values[~own, 0], equal_var=False).pvalue)
    assert sorted(set(table["group"])) == ["a", "b"] and table["cells"].tolist() == [4, 4, 3, 3]


# ------------------------------------------------------------------ the factor's own RNA


def test_own_expression_by_symbol_of_dimers_and_of_none():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 3))
    var = pd.DataFrame({"symbol": ["Jun", "FOS", "Other", "TWICE", "TWICE"]}, index=list("abcde"))
    rna = rng.normal(size=(200, 5))
    rna[:, 0] = z[:, 0] + rng.normal(0, 0.3, 200)
    named = [Motif("1", "JUN", None), Motif("2", "JUN::FOS(var.2)", None), Motif("3", "TWICE", None)]
    table = motifs.own_expression(z, rna, named, var)
    assert table["genes"].tolist() == ["Jun", "Jun::FOS", ""]
    assert table["rna_correlation"].iloc[0] > 0.9 and table["rna_fdr"].iloc[0] < 1e-10
    both = (rna[:, :2] / rna[:, :2].std(axis=0)).sum(axis=1)
    assert table["rna_correlation"].iloc[1] == pytest.approx(np.corrcoef(both, z[:, 1])[0, 1], abs=0.01)
    assert np.isnan(table["rna_correlation"].iloc[2])


# ------------------------------------------------------------------ planted factors


@functools.cache
def planted(seed):
    options = Options(cells=1500, genes=300, peaks=3000, regulation=True, atac_fragments=2500.0, seed=seed)
    world = build_world(options)
    truth = plant(world, options)
    genome = genome_sequence(world, truth, seed)
    letters = {65: 0, 67: 1, 71: 2, 84: 3}
    peaks = world.peaks
    bases = [
        np.array([letters[b] for b in genome[chrom][start:end].tolist()], np.uint8)
        for chrom, start, end in zip(peaks["chrom"], peaks["start"], peaks["end"])
    ]
    names = [
        Motif(m, world.genes["symbol"].iloc[g], p)
        for m, g, p in zip(truth.factors["motif"], truth.factors["gene"], truth.probabilities)
    ]
    return simulated_mosaic(options)[0], truth, bases, names


def differ(seed, shuffle=None):
    mosaic, truth, bases, names = planted(seed)
    rng = np.random.default_rng(3)
    counts = sparse.csr_matrix(mosaic["atac"].layers["counts"])
    groups = mosaic.obs["type"].loc[mosaic["atac"].obs_names]
    usable = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel() > 0)
    counts, bases = counts[:, usable], [bases[k] for k in usable]
    gc = np.array([np.isin(one, (1, 2)).mean() for one in bases])
    matches = motifs.scan(bases, names)
    if shuffle == "peaks":
        matches = matches[rng.permutation(len(usable))]
    if shuffle == "cells":
        groups = pd.Series(rng.permutation(groups), index=groups.index)
    background = motifs.background_sets(peak_properties(np.asarray(counts.sum(axis=0)).ravel(), gc)[0], seed=seed)
    deviation, z = motifs.deviations(counts, matches, background)
    return z, matches, motifs.by_group(counts, matches, background, groups, deviation)


def test_planted_factors_rank_first_and_decoys_are_not_called():
    wrong = []
    for seed in (0, 1, 2):
        z, matches, table = differ(seed)
        truth = planted(seed)[1].factors["kind"].to_numpy()
        assert matches[:, 0].sum() > 0.8 * planted(seed)[1].holds[:, 0].sum()
        order = motifs.variability(z)["variability"].sort_values(ascending=False).index
        assert (truth[order[:FACTORS]] == "factor").all()
        best = table.assign(strength=table["z"].abs()).groupby("motif")["strength"].max().sort_values(ascending=False)
        assert (truth[best.index[:FACTORS]] == "factor").all()
        called = table[table["fdr"] <= 0.05]
        assert set(called["motif"]) >= set(range(FACTORS))
        wrong.append((truth[called["motif"]] == "decoy").mean())
    assert np.mean(wrong) <= 0.10


@pytest.mark.parametrize("seed, shuffle", [(0, "peaks"), (0, "cells"), (1, "peaks"), (2, "cells")])
def test_nothing_is_called_once_shuffled(seed, shuffle):
    assert (differ(seed, shuffle)[2]["fdr"] <= 0.05).sum() == 0


def test_a_planted_factors_rna_goes_with_its_motif():
    mosaic, truth, _, names = planted(0)
    z = differ(0)[0]
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names)
    at = mosaic["atac"].obs_names.get_indexer(both)
    symbol = pd.Series(mosaic["rna"].var_names).map(dict(zip(mosaic["rna"].var_names, build_symbols())))
    rna = log_normalised(sparse.csr_matrix(mosaic["rna"][both].X), "rna").toarray()
    table = motifs.own_expression(
        z[at], rna, names, pd.DataFrame({"symbol": symbol.to_numpy()}, mosaic["rna"].var_names)
    )
    kind = truth.factors["kind"].to_numpy()
    assert (table["rna_correlation"][kind == "factor"] > 0.2).all()
    assert table["rna_correlation"][kind == "decoy"].abs().mean() < 0.12


def build_symbols():
    options = Options(cells=1500, genes=300, peaks=3000, regulation=True, atac_fragments=2500.0, seed=0)
    return build_world(options).genes["symbol"]
