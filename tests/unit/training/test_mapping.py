from __future__ import annotations

import numpy as np
import pytest
import torch
from mudata import MuData

from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.errors import InputError
from multivi_nf.training import MultiVI, map_onto, train

QUIET = {"quiet": True, "device": "cpu", "batch_size": 32}


def reference_for(mosaic: MuData, **architecture: object) -> MultiVI:
    model = MultiVI.from_mosaic(mosaic, n_hidden=16, n_latent=4, **architecture)
    train(model, mosaic, max_epochs=20, **QUIET)
    return model


@torch.no_grad()
def joint_mean(model: MultiVI, mosaic: MuData) -> torch.Tensor:
    data = MosaicData(mosaic, model)
    minibatch = data.minibatch(np.arange(data.n_cells))
    model.eval()
    return model.fuse(minibatch, model.encode(minibatch)).mean


def shifted_query(mosaic_maker, modalities: tuple[str, ...]) -> MuData:
    """New cells of a new batch whose genes are caught at other rates."""
    query = mosaic_maker(modalities=modalities, seed=7, batches=("new",), prefix="q", n_cells=120)
    rng = np.random.default_rng(3)
    if "rna" in modalities:
        rna = query.mod["rna"]
        rna.X = rna.X.multiply(np.exp(rng.normal(0, 0.8, rna.n_vars))[None]).tocsr()
        rna.X.data = np.ceil(rna.X.data).astype(np.int32)
    return query


@pytest.mark.parametrize("modalities", [("rna",), ("atac",), ("rna", "atac")])
def test_mapping_learns_the_new_batch_and_moves_no_reference_cell(mosaic, mosaic_maker, modalities):
    reference = reference_for(mosaic)
    kept = {k: v.clone() for k, v in reference.state_dict().items()}
    query = shifted_query(mosaic_maker, modalities)
    mapped = map_onto(reference, query, max_epochs=15, **QUIET)
    assert mapped.config.batches == ("a", "b", "new")
    assert torch.equal(joint_mean(reference, mosaic), joint_mean(mapped, mosaic))
    assert all(torch.equal(v, kept[k]) for k, v in reference.state_dict().items())
    losses = mapped.history["validation_loss"]
    assert losses[-1] < losses[0]
    for m in ("rna", "atac"):
        assert (mapped.config.batch_cells[m][2] > 0) == (m in modalities)
    assert set(mapped.split["cell"]) == set(query.obs_names)
    assert all(p.requires_grad for p in mapped.parameters())


def test_only_new_rows_change(mosaic, mosaic_maker):
    reference = reference_for(mosaic, dispersion="gene-batch")
    mapped = map_onto(reference, shifted_query(mosaic_maker, ("rna", "atac")), max_epochs=3, **QUIET)
    old, new = reference.state_dict(), mapped.state_dict()
    tables = mapped.batch_tables()
    for name in new:
        if name in tables:
            assert torch.equal(old[name][:2], new[name][:2]), name
        else:
            assert torch.equal(old[name], new[name]), name
    changed = [name for name in tables if not torch.equal(new[name][2], reference_row(reference, name))]
    assert any("encoders.rna" in name for name in changed) and any("dispersion" in name for name in changed)


def reference_row(reference: MultiVI, name: str) -> torch.Tensor:
    return reference.state_dict()[name][-1]


def test_proteins_of_a_new_batch_get_their_own_background(mosaic_maker):
    mosaic = mosaic_maker(modalities=("rna", "protein"))
    reference = reference_for(mosaic)
    mapped = map_onto(reference, shifted_query(mosaic_maker, ("protein",)), max_epochs=2, **QUIET)
    name = next(n for n in mapped.batch_tables() if n.endswith("background_mean.rows"))
    assert torch.isfinite(mapped.state_dict()[name]).all()
    assert not torch.equal(mapped.state_dict()[name][2], mapped.state_dict()[name][0])


def test_known_batches_leave_nothing_to_learn(mosaic, mosaic_maker, capfd):
    reference = reference_for(mosaic)
    mapped = map_onto(reference, mosaic_maker(seed=4, prefix="q"), device="cpu")
    assert "nothing is learnt" in capfd.readouterr().err
    assert all(torch.equal(v, reference.state_dict()[k]) for k, v in mapped.state_dict().items())


def test_a_query_with_other_features_is_refused(mosaic, mosaic_maker):
    reference = reference_for(mosaic)
    with pytest.raises(InputError, match="rna features of the mosaic are not those of the model"):
        map_onto(reference, mosaic_maker(n_genes=29), **QUIET)
