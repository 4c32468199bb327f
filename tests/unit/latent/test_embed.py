from __future__ import annotations

import json

import anndata
import mudata
import numpy as np
import pytest
import torch

from multivi_nf.errors import InputError
from multivi_nf.latent.annotate import annotate
from multivi_nf.latent.cells import draw, tempered
from multivi_nf.latent.embed import embed
from multivi_nf.model.fusion import Joint
from multivi_nf.testing.models import make_model
from multivi_nf.testing.mosaics import patterned_mosaic


def test_rows_and_absent_modalities(model, mosaic):
    found = embed(model, mosaic)
    assert found.mean.shape == (mosaic.n_obs, 5) and np.isfinite(found.mean).all() and (found.variance > 0).all()
    for modality, mean in found.by_modality.items():
        measured = np.isin(mosaic.obs_names, mosaic[modality].obs_names)
        np.testing.assert_array_equal(np.isnan(mean).any(1), ~measured)
    only = (mosaic.obs["batch"] == "s1").to_numpy()
    np.testing.assert_array_equal(found.mean[only], found.by_modality["rna"][only])
    assert found.unseen_batches == []


def test_cells_alone_or_together_and_new_batches(model, mosaic):
    whole = embed(model, mosaic)
    some = mosaic[mosaic.obs_names[[5, 17, 30]]].copy()
    np.testing.assert_allclose(embed(model, some).mean, whole.mean[[5, 17, 30]], atol=1e-5)
    some.obs["batch"] = ["s1", "later", "s2"]
    new = embed(model, some)
    assert new.unseen_batches == ["later"]
    assert np.isfinite(new.mean).all()


def test_annotated_mosaic(model, mosaic, tmp_path):
    one = annotate(mosaic.copy(), embed(model, mosaic), seed=3)
    two = annotate(mosaic.copy(), embed(model, mosaic), seed=3)
    np.testing.assert_array_equal(one.obsm["X_umap"], two.obsm["X_umap"])
    assert list(one.obs["cluster"]) == list(two.obs["cluster"])
    assert set(one.obsm) >= {"X_multivi", "X_multivi_variance", "X_multivi_rna", "X_multivi_atac", "X_umap"}
    record = json.loads(one.uns["multivi_nf"])["embed"]
    assert set(record) >= {"unseen_batches", "joint_variance_exceeds_single", "active_dimensions"}
    one.write_h5mu(tmp_path / "one.h5mu")
    two.write_h5mu(tmp_path / "two.h5mu")
    assert (tmp_path / "one.h5mu").read_bytes() == (tmp_path / "two.h5mu").read_bytes()


@pytest.mark.parametrize("note", ["<script>", "[]", "7", "[" * 100_000, ""])
def test_a_forged_note_of_a_mosaic_is_refused(model, mosaic, note):
    forged = mosaic.copy()
    forged.uns["multivi_nf"] = note
    with pytest.raises(InputError, match=r"uns\['multivi_nf'\] of the mosaic is no JSON object"):
        annotate(forged, embed(model, mosaic), seed=3)


def test_temperature_scales_variance_up_to_the_prior():
    joint = Joint(torch.zeros(2, 2), torch.tensor([[0.1, 0.5], [0.1, 2.0]]), [])
    warm = tempered(joint, torch.tensor([4.0, 4.0]))
    np.testing.assert_allclose(warm.variance, [[0.4, 1.0], [0.4, 2.0]])
    np.testing.assert_allclose(tempered(joint, torch.tensor([0.5, 0.5])).variance, joint.variance / 2)
    noise = torch.randn(3000, 2, 2, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(draw(warm, noise).var(0), warm.variance, rtol=0.15)


@pytest.mark.parametrize("fusion", ["mean", "weighted", "cell-weighted", "poe", "mopoe"])
def test_every_fusion_draws_from_its_posterior(fusion):
    mosaic = patterned_mosaic(n=24)
    model = make_model(mosaic, fusion=fusion)
    from multivi_nf.latent.cells import Cells

    with torch.inference_mode():
        cells = Cells(model, mosaic)
        joint = cells.encoded(cells.data.minibatch(np.arange(24))).joint
        noise = torch.randn(4000, 24, 5, generator=torch.Generator().manual_seed(0))
        z = draw(joint, noise)
    np.testing.assert_allclose(z.mean(0), joint.mean, atol=0.1)
    np.testing.assert_allclose(z.var(0), joint.variance, rtol=0.25)


def test_the_neighbour_graph_is_stored_as_scanpy_makes_it(model, mosaic, tmp_path):
    import scanpy as sc

    annotate(mosaic, embed(model, mosaic), seed=3).write(tmp_path / "x.h5mu")
    stored = mudata.read_h5mu(tmp_path / "x.h5mu")
    fresh = anndata.AnnData(obs=stored.obs[[]].copy(), obsm={"X_multivi": stored.obsm["X_multivi"]})
    sc.pp.neighbors(fresh, use_rep="X_multivi", n_neighbors=15, random_state=3)
    for name in ("distances", "connectivities"):
        # float32: two cells of nearly one place are a few thousandths apart, more or less
        assert abs(stored.obsp[name] - fresh.obsp[name]).max() < 5e-3
        assert stored.obsp[name].nnz == fresh.obsp[name].nnz > 0
    told = stored.uns["neighbors"]
    assert (told["distances_key"], told["connectivities_key"]) == ("distances", "connectivities")
    assert told["params"]["use_rep"] == "X_multivi" and told["params"]["n_neighbors"] == 15
    sc.tl.leiden(fresh, flavor="igraph", n_iterations=2, directed=False, random_state=3)
    sizes = [sorted(table.value_counts().tolist()) for table in (fresh.obs["leiden"], stored.obs["cluster"])]
    assert sizes[0] == sizes[1], "clusters are those of the stored graph"


def test_the_largest_cluster_is_0():
    from multivi_nf.latent.annotate import by_size

    assert by_size(np.array(["b", "a", "c", "c", "a", "c", "d"])) == ["2", "1", "0", "0", "1", "0", "3"]
