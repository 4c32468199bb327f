"""What measured neighbours show beside what is decoded of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.imputation.decode import Decoder
from multivi_nf.imputation.teachers import NEIGHBOURS, Teachers, knows
from multivi_nf.latent.cells import Cells, Codes
from multivi_nf.testing.models import make_model, with_split
from multivi_nf.testing.mosaics import patterned_mosaic


@pytest.fixture(scope="module")
def shown():
    mosaic = patterned_mosaic(
        n=400, genes=30, peaks=40, patterns=("rna+atac+protein", "rna", "atac", "rna+atac+protein")
    )
    model = with_split(make_model(mosaic, n_hidden=8), mosaic)
    return model, MosaicData(mosaic, model)


@pytest.mark.parametrize(("target", "depth"), [("rna", 1.0), ("atac", 0.5)])
def test_residuals_are_those_of_weighted_sums(shown, target, depth):
    model, data = shown
    known = np.flatnonzero(data.has[target])
    with torch.inference_mode():
        teachers = Teachers(Cells(model, data), Decoder(model, target, "own", depth), known, 0)
        places = [teachers.places[:30], teachers.places[50:52]]
        residual, variance = teachers.residuals(places)
        minibatch = data.minibatch(teachers.index)
        block = Cells(model, data).encoded(minibatch)
        joint, encoded = block.joint, block.encoded
        decoder = Decoder(model, target, "own", depth)
        codes = Codes(minibatch.batch, minibatch.categorical, minibatch.continuous)
        counts = minibatch.modalities[target].counts.dense().double().numpy()
        if target == "rna":
            means = decoder.profile(joint.mean, codes).double().numpy() * counts.sum(1)[:, None] / 1e4
        else:
            means = decoder.tile(decoder.prepare(joint.mean, codes), 0).double().numpy()
            means *= (model.level("atac", encoded["atac"]).double().numpy() / depth)[:, None]
    np.testing.assert_array_equal(teachers.index, known)
    for k, group in enumerate(places):
        away = ((teachers.places[None] - group[:, None]) ** 2).sum(2)
        weight = np.bincount(np.argsort(away, axis=1)[:, :NEIGHBOURS].ravel(), minlength=len(known)).astype(float)
        weight /= weight.sum()
        np.testing.assert_allclose(teachers.weights(group), weight)
        factor = (weight @ means) / (weight**2 @ means)
        bottom = weight @ means * factor + 0.5
        np.testing.assert_allclose(residual[k], np.log((weight @ counts * factor + 0.5) / bottom), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(variance[k], 1 / bottom, rtol=1e-4)
    assert variance[1].mean() > variance[0].mean(), "fewer cells hold fewer counts"


def test_few_measured_cells_are_all_neighbours(shown):
    model, data = shown
    with torch.inference_mode():
        teachers = Teachers(Cells(model, data), Decoder(model, "rna", "own"), np.flatnonzero(data.has["rna"])[:7], 0)
        np.testing.assert_allclose(teachers.weights(np.zeros((3, teachers.places.shape[1]))), 1 / 7)


def test_a_proteins_background_is_no_part_of_what_is_imputed():
    assert knows("rna") and knows("atac") and not knows("protein")
