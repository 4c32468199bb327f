"""Counts of insertions are told from fragments by their even values, and become fragments once, however read."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import torch
from scipy import sparse

from multivi_nf.data.insertions import fragments_of, is_insertions
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.data.source import source_of
from multivi_nf.data.stored import StoredMatrix, stored_source
from multivi_nf.errors import InputError
from multivi_nf.testing.mosaics import clustered_mosaic
from multivi_nf.training import MultiVI


def fragments(shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(0.7 * rng.gamma(1, 1, shape[1]), shape).astype(np.int32)


def insertions(of: np.ndarray, inside: float, seed: int = 2) -> np.ndarray:
    """Two for each fragment whose ends both lie in the peak, else one."""
    return of + np.random.default_rng(seed).binomial(of, inside).astype(np.int32)


def counted(batches: tuple[str, ...] = ("a", "b"), doubled: tuple[str, ...] = ("b",)) -> mudata.MuData:
    """A mosaic with ATAC as 0/1 and, in `layers`, fragments; insertions in the batches named."""
    mosaic = clustered_mosaic(batches=batches, modalities=("rna", "atac"))
    atac = mosaic["atac"]
    truth = fragments(atac.shape)
    batch = mosaic.obs.loc[atac.obs_names, "batch"].to_numpy()
    counts = np.where(np.isin(batch, doubled)[:, None], 2 * truth, truth)
    atac.X = sparse.csr_matrix((truth > 0).astype(np.int8))
    atac.layers["counts"] = sparse.csr_matrix(counts)
    atac.layers["truth"] = sparse.csr_matrix(truth)
    mosaic.uns["multivi_nf"] = "{}"
    return mosaic


@pytest.mark.parametrize("inside", [0.65, 0.8, 1.0])
def test_insertions_are_told_and_fragments_are_not(inside):
    truth = fragments((400, 60))
    assert not is_insertions(truth[truth > 0]) and is_insertions(insertions(truth, inside)[truth > 0])


@pytest.mark.parametrize("mean", [0.05, 1.0, 5.0])
def test_no_mixture_of_poissons_passes_for_insertions(mean):
    rng = np.random.default_rng(3)
    counts = rng.poisson(mean * rng.gamma(0.5, 2, 200_000))
    assert not is_insertions(counts[counts > 0]) and not is_insertions(np.zeros(0))
    assert is_insertions(2 * counts[counts > 0])


def test_half_rounded_up():
    assert fragments_of(np.arange(6)).tolist() == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("form", ["memory", "file", "mapped", "stored", "reordered"])
def test_every_way_of_reading_gives_the_same_fragments(tmp_path, form):
    mosaic = counted()
    mosaic.write_h5mu(tmp_path / "m.h5mu")
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3, atac_likelihood="poisson")
    if form == "reordered":
        mosaic.mod["atac"] = mosaic["atac"][:, ::-1].copy()
    source = {
        "memory": lambda: mosaic,
        "reordered": lambda: mosaic,
        "file": lambda: tmp_path / "m.h5mu",
        "mapped": lambda: source_of(tmp_path / "m.h5mu", max_bytes=0, atac_counts=True),
        "stored": lambda: stored_source(tmp_path / "m.h5mu", atac_counts=True),
    }[form]()
    data = MosaicData(source, model)
    assert isinstance(data._counts["atac"], StoredMatrix) == (form == "stored")
    assert len(data.source.notes) == 1 and "ATAC counts of b are insertions" in data.source.notes[0]
    again = MosaicData(data.source, model)
    for one in (data, again):
        rows = one.minibatch(np.arange(one.n_cells)).modalities["atac"]
        truth = counted()["atac"].layers["truth"].toarray()
        np.testing.assert_array_equal(rows.counts.dense().numpy(), truth[[*one._rows["atac"][one.has["atac"]]]])


def test_the_layer_is_read_for_fragments_only(tmp_path):
    mosaic = counted(doubled=())
    mosaic.write_h5mu(tmp_path / "m.h5mu")
    for source in (mosaic, tmp_path / "m.h5mu", stored_source(tmp_path / "m.h5mu")):
        model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
        data = MosaicData(source, model)
        assert data.minibatch(np.arange(30)).modalities["atac"].counts.values is None and not data.source.notes
    # a source with fragments serves a model of open peaks too
    read = source_of(mosaic, atac_counts=True)
    assert read.matrices["atac"].values.max() > 1
    assert MosaicData(read, model).minibatch(np.arange(30)).modalities["atac"].counts.values is None
    model.eval()
    assert torch.equal(
        model.encode(MosaicData(read, model).minibatch(np.arange(9)))["atac"].mean,
        model.encode(MosaicData(mosaic, model).minibatch(np.arange(9)))["atac"].mean,
    )


def test_counts_that_are_missing_are_asked_for():
    mosaic = counted()
    poisson = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3, atac_likelihood="poisson")
    with pytest.raises(InputError, match="read without the counts of ATAC"):
        MosaicData(source_of(mosaic), poisson)
    del mosaic["atac"].layers["counts"]
    with pytest.raises(InputError, match="no count of ATAC is above 1"):
        MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3, atac_likelihood="poisson")
