"""The whole error of imputed means, on values whose error is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.held_out.fit import levelled, whole_error
from multivi_nf.held_out.pairs import HeldOut, halved
from multivi_nf.held_out.prediction import NeighbourMeans, folds
from multivi_nf.imputation.decode import Decoder
from multivi_nf.latent.cells import Cells
from multivi_nf.testing.models import make_model, with_split
from multivi_nf.testing.mosaics import patterned_mosaic

N, J = 300, 200


def made(error: float, shared: bool, counts: float, seed: int = 0):
    """Imputed means that are off by an error of the log, of each cell or of all cells alike; two neighbours' means."""
    rng = np.random.default_rng(seed)
    truth = rng.lognormal(0, 0.5, J) * rng.lognormal(0, 0.3, (N, J))
    off = rng.normal(0, error, J if shared else (N, J)) if error else 0.0
    value = truth * np.exp(off) * np.ones((N, J))
    one, other = (rng.poisson(truth * counts) / counts for _ in range(2))
    return value, NeighbourMeans(one, other, counts)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("counts", [0.5, 20.0])
def test_the_error_is_found_though_counts_are_noisier(shared, counts):
    value, means = made(0.3, shared, counts)
    found = whole_error(value, np.zeros_like(value), means)
    assert np.sqrt(np.mean(np.square(found.sd))) == pytest.approx(0.3, rel=0.3)
    assert len(found.sd) == 10 and (np.diff(found.log_mean) > 0).all()


def test_without_an_error_there_is_next_to_none():
    value, means = made(0.0, False, 20.0)
    assert max(whole_error(value, np.zeros_like(value), means).sd) < 0.08


def test_what_the_posterior_spreads_over_is_not_counted_twice():
    value, means = made(0.3, False, 20.0)
    all_of_it = whole_error(value, 0.09 * value**2, means)
    half = whole_error(value, 0.045 * value**2, means)
    assert np.mean(all_of_it.sd) < 0.15
    assert np.mean(np.square(half.sd)) == pytest.approx(0.045, rel=0.5)


@pytest.fixture(scope="module")
def paired():
    mosaic = patterned_mosaic(n=800, genes=30, peaks=40, patterns=("rna+atac", "rna", "atac", "rna+atac"))
    model = with_split(make_model(mosaic, n_hidden=8), mosaic)
    data = MosaicData(mosaic, model)
    held = np.flatnonzero(data.cells.isin(model.split.loc[model.split["split"] == "calibration", "cell"]))
    return model, data, held


@torch.inference_mode()
def test_halves_add_up_to_the_counts(paired):
    _, data, held = paired
    for target in ("rna", "atac"):
        rows = data.minibatch(held).modalities[target]
        first, second = halved(rows, np.random.default_rng(0))
        np.testing.assert_array_equal(
            first.counts.dense().numpy() + second.counts.dense().numpy(), rows.counts.dense().numpy()
        )
        assert 0.4 < second.counts.dense().sum() / rows.counts.dense().sum() < 0.6


@torch.inference_mode()
@pytest.mark.parametrize("target", ["rna", "atac"])
def test_neighbours_are_of_the_users_scale_and_never_held_out(paired, target):
    model, data, held = paired
    positions = np.arange(20)
    apart, decoder = HeldOut(Cells(model, data), held, 0.5, 0), Decoder(model, target, None, 0.5)
    found = NeighbourMeans.of(apart.library(held, decoder, positions))
    one = found.one
    assert one.shape == found.other.shape == (len(held), 20) and found.size > 0
    counts = data.minibatch(np.flatnonzero(data.has[target])).modalities[target].counts.dense().numpy()
    level = counts[:, :20].mean(0) * (1e4 / counts.sum(1).mean() if target == "rna" else 1)
    assert np.corrcoef(one.mean(0), level)[0, 1] > 0.9
    if target == "rna":
        assert one.mean() == pytest.approx(level.mean(), rel=0.3), "counts per 10,000"
    np.testing.assert_array_equal(one, NeighbourMeans.of(apart.library(held, decoder, positions)).one)
    everyone = np.arange(data.n_cells)
    apart.index = everyone
    assert apart.library(held, decoder, positions) is None, "nobody is left"


def test_coverage_after_comes_from_batches_that_taught_no_levels():
    batch = np.array(["a"] * 60 + ["b"] * 50 + ["c"] * 5)
    fold = folds(batch)
    assert len(set(fold[:60])) == len(set(fold[60:110])) == 1 and fold[0] != fold[60] and fold[112] not in fold[:110]
    assert (folds(np.array(["a"] * 60 + ["b"] * 5)) == np.arange(65) % 2).all()
    # one batch lies wholly inside its intervals, the other at their ends: neither knows of the other
    rng = np.random.default_rng(0)
    transform = np.where(np.arange(200)[:, None] < 100, rng.uniform(0.4, 0.6, (200, 50)), rng.random((200, 50)))
    known, fold = np.ones(transform.shape, bool), (np.arange(200) >= 100).astype(int)
    apart = levelled(transform, known, fold)
    narrow, wide = (np.abs(apart[fold == f] - 0.5).mean() for f in (0, 1))
    assert narrow < 0.1 and wide > 0.4, "each is judged by what the other one taught"
