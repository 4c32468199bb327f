"""Splits hide what they say, baselines and controls have the values that hand-made data force on them."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from multivi_nf.benchmark import baselines, splits
from multivi_nf.evaluation import controls
from multivi_nf.evaluation.metrics import label_purity, pairing
from multivi_nf.evaluation.spaces import Lsi, Pca, lsi_space, neighbour_mean, pca_space
from multivi_nf.modalities import MODALITIES


def cells(n=200, seed=0):
    """Two types in two batches, each modality tells them apart."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    names = [f"s{i % 3}:C{i}" for i in range(n)]
    obs = pd.DataFrame({"batch": [f"s{i % 3}" for i in range(n)], "type": np.where(kind, "b", "a")}, index=names)
    depth = rng.lognormal(0, 0.3, (n, 1))
    gene_mean = np.where(
        kind[:, None], np.r_[np.full(15, 3.0), np.full(15, 0.5)], np.r_[np.full(15, 0.5), np.full(15, 3.0)]
    )
    peak_mean = np.tile(gene_mean, 2) * 0.12
    rna = anndata.AnnData(
        sp.csr_matrix(rng.poisson(depth * gene_mean)), obs.copy(), pd.DataFrame(index=[f"G{j}" for j in range(30)])
    )
    atac = anndata.AnnData(
        sp.csr_matrix(rng.poisson(peak_mean)), obs.copy(), pd.DataFrame(index=[f"chr1:{j}-{j + 9}" for j in range(60)])
    )
    protein = anndata.AnnData(
        sp.csr_matrix(rng.poisson(gene_mean[:, 12:18] * 5)), obs.copy(), pd.DataFrame(index=[f"P{j}" for j in range(6)])
    )
    return {"rna": rna, "atac": atac, "protein": protein}


@pytest.fixture(scope="module")
def complete():
    return cells()


@pytest.fixture(scope="module")
def two(complete):
    return {m: complete[m] for m in ("rna", "atac")}


def same_counts(split, complete, modality):
    part = split.mosaic[modality]
    source = complete[modality][split.origin[part.obs_names].to_numpy(), part.var_names]
    counts = part.layers["counts"] if "counts" in part.layers else part.X
    return (counts != source.X).nnz == 0


def test_s1_shows_each_unpaired_cell_twice(two):
    labels = two["rna"].obs["type"]
    split = splits.random_unpairing(two, 0.25, seed=3, labels=labels)
    table = split.modalities.value_counts()
    assert table.to_dict() == {"rna+atac": 50, "rna": 150, "atac": 150}
    assert (labels[split.origin[split.views("rna+atac")]] == "a").sum() == 25, "stratified by type"
    rna, atac = split.both_views()
    assert len(rna) == 150
    assert (split.origin[rna].to_numpy() == split.origin[atac].to_numpy()).all()
    assert all(same_counts(split, two, m) for m in two)
    obs = split.mosaic.obs
    assert (obs["has_rna"].to_numpy() == split.modalities.str.contains("rna").to_numpy()).all()
    assert set(split.mosaic["atac"].X.data) == {1}
    again = splits.random_unpairing(two, 0.25, seed=3, labels=labels)
    assert list(again.mosaic.obs_names) == list(split.mosaic.obs_names)


def test_s2_shows_no_hidden_profile_anywhere(two):
    split = splits.strict_unpairing(two, 0.25, labels=two["rna"].obs["type"])
    assert split.modalities.value_counts().to_dict() == {"rna+atac": 50, "rna": 75, "atac": 75} or (
        split.modalities.value_counts().sum() == 200
    )
    hidden = split.views("atac")
    assert not set(hidden) & set(split.mosaic["rna"].obs_names)
    assert split.origin.is_unique
    assert (split.mosaic.obs["batch"] == two["rna"].obs["batch"].reindex(split.mosaic.obs_names)).all()


def test_hidden_profiles_choose_no_features(two):
    only = {m: a.copy() for m, a in two.items()}
    lonely = only["rna"].X.tolil()
    lonely[:, 0] = 0
    split = splits.strict_unpairing(only, 0.25)
    hidden = split.views("atac")
    rows = only["rna"].obs_names.get_indexer(hidden)
    lonely[rows, 0] = 5
    only["rna"].X = lonely.tocsr()
    split = splits.strict_unpairing(only, 0.25, min_fraction={"rna": 0.01})
    assert "G0" not in split.mosaic["rna"].var_names
    assert "G1" in split.mosaic["rna"].var_names


def test_s3_to_s6(complete, two):
    labels = two["rna"].obs["type"]
    held = splits.batches_held_out(two, {"s1": ("atac",), "s2": ("rna",)})
    assert set(held.mosaic.obs.loc[held.modalities == "atac", "batch"]) == {"s1"}
    assert set(held.mosaic.obs.loc[held.modalities == "rna+atac", "batch"]) == {"s0"}
    with pytest.raises(ValueError, match="no cell is of batch"):
        splits.batches_held_out(two, {"s9": ("atac",)})
    s1 = splits.random_unpairing(two, 0.5)
    s4 = splits.type_without(s1, two, labels, "b")
    assert not (labels[s4.origin[s4.mosaic["rna"].obs_names]] == "b").any()
    assert (labels[s4.origin[s4.mosaic["atac"].obs_names]] == "b").sum() == 100
    s5 = splits.type_without_pairs(s1, two, labels, "b")
    assert not (labels[s5.origin[s5.views("rna+atac")]] == "b").any()
    assert (labels[s5.origin[s5.views("rna")]] == "b").sum() == 100
    patterns = [
        ("rna",),
        ("atac",),
        ("protein",),
        ("rna", "atac"),
        ("rna", "protein"),
        ("atac", "protein"),
        MODALITIES,
    ]
    s6 = splits.presence_patterns(complete, patterns)
    assert s6.modalities.nunique() == 7
    assert s6.modalities.value_counts().max() - s6.modalities.value_counts().min() <= 1
    assert list(s6.mosaic.mod) == list(MODALITIES)
    assert s6.mosaic["protein"].uns["panel"].to_numpy().all()


# ---- controls --------------------------------------------------------------------------------------------------------


def test_shuffled_pairs_keep_marginals_and_lose_every_pair(two):
    split = splits.random_unpairing(two, 0.5)
    shuffled = controls.shuffle_pairs(split.mosaic, seed=1)
    assert list(shuffled.obs_names) == list(split.mosaic.obs_names)
    assert list(shuffled.obs["modality"]) == list(split.mosaic.obs["modality"])
    pairs = split.views("rna+atac")
    before, after = (m["atac"][pairs].layers["counts"].toarray() for m in (split.mosaic, shuffled))
    assert not (before == after).all(1).any()
    assert sorted(before.sum(1)) == sorted(after.sum(1))
    assert (split.mosaic["rna"].X != shuffled["rna"].X).nnz == 0
    lone = split.views("atac")
    assert (split.mosaic["atac"][lone].X != shuffled["atac"][lone].X).nnz == 0
    single = controls.without_pairs(split.mosaic)
    assert set(single.obs["modality"]) == {"rna", "atac"}
    assert single["rna"].n_obs == split.mosaic["rna"].n_obs


def test_other_controls(two):
    moved = controls.shuffle_features(two["rna"])
    assert sorted(moved.var_names) == sorted(two["rna"].var_names)
    assert not (moved.var_names == two["rna"].var_names).any()
    counts = two["rna"].X
    noise = controls.random_counts(counts)
    np.testing.assert_array_equal(noise.sum(0), counts.sum(0))
    assert label_purity(pca_space(counts), two["rna"].obs["type"].to_numpy()) > 0.95
    assert label_purity(pca_space(noise), two["rna"].obs["type"].to_numpy()) < 0.65
    a, b = controls.depth_embedding(two["rna"].X, two["rna"].X)
    assert pairing(a, b).foscttm == 0
    depth = np.log1p(np.asarray(counts.sum(1)).ravel())
    left = controls.regress_out_depth(np.stack([depth, depth**2], axis=1), counts)
    assert np.abs(np.corrcoef(left[:, 0], depth)[0, 1]) < 1e-3 or left[:, 0].std() < 1e-6


# ---- spaces and baselines --------------------------------------------------------------------------------------------


def test_spaces_tell_types_and_apply_to_new_cells(two):
    labels = two["rna"].obs["type"].to_numpy()
    assert label_purity(lsi_space(two["atac"].X, 5), labels) > 0.9
    fit = Pca(two["rna"].X[:100], 5)
    np.testing.assert_allclose(fit(two["rna"].X)[:100], fit(two["rna"].X[:100]), atol=1e-10)
    full = Pca(two["rna"].X, 29)
    restored = full.restore(full(two["rna"].X))
    assert np.corrcoef(restored.ravel(), full_logged(two["rna"].X).ravel())[0, 1] > 0.98, "29 of 30 dimensions are kept"
    assert Lsi(two["atac"].X, 5)(two["atac"].X[:3]).shape == (3, 5)


def full_logged(counts):
    dense = counts.toarray()
    return np.log1p(1e4 * dense / dense.sum(1, keepdims=True))


def test_neighbour_mean_by_hand():
    values, space = np.array([[1.0], [3.0], [10.0]]), np.array([[0.0], [1.0], [9.0]])
    assert neighbour_mean(values, space, 2).ravel().tolist() == [2.0, 2.0, 6.5]
    assert neighbour_mean(sp.csr_matrix(values), space, 1, np.array([[8.0]])).ravel().tolist() == [10.0]


def test_baselines_find_the_types_and_the_ridge_pairs_them(two):
    labels = two["rna"].obs["type"]
    split = splits.strict_unpairing(two, 0.5, labels=labels)
    hidden = split.views("atac")
    bridge = baselines.Bridge(split, n=5)
    own = labels[hidden].to_numpy()
    profile = baselines.mean_profile(split, "rna")
    assert profile.sum() == pytest.approx(1)
    oracle = baselines.label_means(split, "rna", labels, hidden)
    for values in (bridge.neighbours("atac", "rna", hidden, 15), bridge.ridge_rna(hidden), oracle):
        assert values.shape == (len(hidden), 30)
        tell = values[:, :15].sum(1) - values[:, 15:].sum(1)
        assert (tell[own == "b"] > 0).mean() > 0.9
        assert (tell[own == "a"] < 0).mean() > 0.9
    predicted = bridge.ridge_atac(split.views("rna"), 15)
    assert predicted.shape == (len(split.views("rna")), 60)
    assert (predicted >= 0).all()
    ceiling = baselines.own_modality_ceiling(two, "rna", hidden, split.mosaic["rna"].var_names, 15)
    np.testing.assert_allclose(ceiling.sum(1), 1, atol=1e-5)
    smooth = baselines.smoothed_truth(two, "rna", hidden, split.mosaic["rna"].var_names, 15)
    assert np.corrcoef(smooth.ravel(), ceiling.ravel())[0, 1] > 0.9
    assert np.nanmean(baselines.thinning_ceiling(two["rna"].X, 15)) > 0.2


def test_the_ceiling_leaves_the_cell_itself_out():
    rng = np.random.default_rng(0)
    alone = anndata.AnnData(sp.csr_matrix(rng.poisson(1.0, (40, 8))))
    alone.X[0, 0] = 500
    found = baselines.own_modality_ceiling({"rna": alone}, "rna", alone.obs_names[:1], alone.var_names, 5)
    assert found[0, 0] < 0.5
