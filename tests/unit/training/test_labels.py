"""Known labels guide training where a weight is given; cells without one are free, without a weight nothing changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from mudata import MuData

from multivi_nf.commands.train import command
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.errors import InputError
from multivi_nf.latent.embed import embed
from multivi_nf.model.loss import label_cost
from multivi_nf.testing.mosaics import clustered_mosaic
from multivi_nf.training import MultiVI, map_onto, train
from multivi_nf.training.checkpoint.run import Keeping
from multivi_nf.training.fit import Training
from multivi_nf.training.progress import Reporter
from multivi_nf.training.settings import settings_for

SMALL = {"n_hidden": 16, "n_latent": 4, "seed": 1}


def coin(n_cells: int = 200, known: float = 1.0) -> MuData:
    """Labels that nothing in the counts tells, of a share of the cells; the others have what counts as none."""
    mosaic = clustered_mosaic(n_cells=n_cells)
    rng = np.random.default_rng(5)
    label = np.where(rng.random(mosaic.n_obs) < 0.5, "heads", "tails").astype(object)
    free = rng.random(mosaic.n_obs) >= known
    label[free] = np.array(["Unknown", "", "nan", "unassigned", None], dtype=object)[np.arange(free.sum()) % 5]
    mosaic.obs["coin"] = label
    return mosaic


def fitted(mosaic: MuData, **options) -> MultiVI:
    model = MultiVI.from_mosaic(mosaic, **SMALL, **options)
    train(model, mosaic, max_epochs=20, batch_size=32, seed=2, quiet=True, device="cpu")
    return model


def test_cost_is_torchs_over_labelled_cells_and_free_cells_get_no_gradient():
    torch.manual_seed(0)
    z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    classifier = torch.nn.Linear(4, 3).double()
    labels = torch.tensor([0, -1, 2, 1, -1, 2])
    cost = label_cost(classifier, z, labels)
    logits = z @ classifier.weight.T + classifier.bias
    by_hand = -sum((logits[i] - logits[i].logsumexp(0))[labels[i]] for i in (0, 2, 3, 5))
    assert torch.isclose(cost, by_hand)
    (gradient,) = torch.autograd.grad(cost, z)
    assert bool((gradient[[1, 4]] == 0).all()) and bool((gradient[[0, 2, 3, 5]] != 0).any(1).all())
    nobody = label_cost(classifier, z, torch.full((6,), -1))
    assert float(nobody.detach()) == 0 and bool((torch.autograd.grad(nobody, z)[0] == 0).all())


def test_codes_are_of_known_labels_only():
    mosaic = coin(known=0.6)
    model = MultiVI.from_mosaic(mosaic, **SMALL, labels="coin", labels_weight=1.0)
    assert model.config.label_names == ("heads", "tails") and model.classifier.weight.shape == (2, 4)
    data = MosaicData(mosaic, model)
    expected = mosaic.obs["coin"].map({"heads": 0, "tails": 1}).astype(float).fillna(-1).to_numpy()
    assert data.minibatch(np.arange(50)).labels.tolist() == expected[:50].tolist()
    new = clustered_mosaic(n_cells=40, seed=3)
    new.obs["coin"] = "sides"
    assert set(MosaicData(new, model).labels.tolist()) == {-1}
    del new.obs["coin"]
    assert set(MosaicData(new, model).labels.tolist()) == {-1}


def test_the_objective_rises_by_weight_times_cost_per_cell():
    mosaic = coin(known=0.6)
    model = MultiVI.from_mosaic(mosaic, **SMALL, labels="coin", labels_weight=7.0).eval()
    batch = MosaicData(mosaic, model).minibatch(np.arange(30))

    def total(labels: torch.Tensor) -> tuple[float, dict]:
        batch.labels = labels
        found = model.loss(batch, generator=torch.Generator().manual_seed(0))
        return float(found.total.detach()), found.terms

    known = batch.labels
    guided, terms = total(known)
    free, none = total(torch.full_like(known, -1))
    assert float(none["labels"]) == 0 and float(terms["labels"]) > 0
    assert guided - free == pytest.approx(7 * float(terms["labels"]), rel=1e-3)
    assert terms["elbo_loss"] == none["elbo_loss"]


def test_labels_part_the_space_and_without_weight_nothing_changes():
    mosaic = coin()
    plain, guided = fitted(mosaic), fitted(mosaic, labels="coin", labels_weight=200.0)
    zero = fitted(mosaic, labels="coin", labels_weight=0.0)
    assert plain.config != guided.config and zero.classifier is None
    assert all(torch.equal(zero.state_dict()[k], v) for k, v in plain.state_dict().items())
    learnt = mosaic.obs_names.isin(guided.split.loc[guided.split["split"] == "train", "cell"])
    heads = (mosaic.obs["coin"] == "heads").to_numpy()

    def apart(model: MultiVI) -> float:
        z = embed(model, mosaic).mean[learnt]
        one, other = z[heads[learnt]], z[~heads[learnt]]
        return float(np.linalg.norm(one.mean(0) - other.mean(0)) / np.sqrt(z.var(0).sum()))

    assert apart(guided) > 2 * apart(plain)
    columns = guided.history.to_frame().columns
    assert {"labels", "validation_labels"} <= set(columns) and "labels" not in plain.history.to_frame()


def test_a_checkpoint_belongs_to_its_labels():
    one, two = coin(known=0.6), coin(known=0.6)
    first = two.obs_names[two.obs["coin"] == "heads"][0]
    two.obs.loc[first, "coin"] = "tails"
    parts = []
    for mosaic in (one, two):
        model = MultiVI.from_mosaic(mosaic, **SMALL, labels="coin", labels_weight=1.0)
        data = MosaicData(mosaic, model)
        roles, how = np.full(data.n_cells, "train"), settings_for(100, kl_warmup=1)
        cpu = torch.device("cpu")
        parts.append(Training(model, data, roles, how, cpu, Reporter(quiet=True), Keeping()).identity()["data"])
    assert {k for k in parts[0] if parts[0][k] != parts[1][k]} == {"covariate coin"}


def test_saved_read_and_mapped_onto(tmp_path):
    mosaic = coin(known=0.6)
    model = fitted(mosaic, labels="coin", labels_weight=1.0)
    model.save(tmp_path / "model")
    again = MultiVI.load(tmp_path / "model")
    assert again.config == model.config and torch.equal(again.classifier.weight, model.classifier.weight)
    new = clustered_mosaic(n_cells=60, seed=8, batches=("z",), prefix="q")
    unlabelled = map_onto(again, new, max_epochs=2, quiet=True, device="cpu")
    new.obs["coin"] = "heads"
    labelled = map_onto(again, new, max_epochs=2, quiet=True, device="cpu")
    assert np.array_equal(embed(unlabelled, new).mean, embed(labelled, new).mean)
    assert np.array_equal(embed(labelled, mosaic).mean, embed(model, mosaic).mean)


def test_what_cannot_guide_is_refused(tmp_path):
    mosaic = coin()
    with pytest.raises(InputError, match="'faces' are not a column of obs"):
        MultiVI.from_mosaic(mosaic, **SMALL, labels="faces", labels_weight=1.0)
    mosaic.obs["coin"] = pd.Series("Unknown", index=mosaic.obs_names)
    with pytest.raises(InputError, match="name no cell"):
        MultiVI.from_mosaic(mosaic, **SMALL, labels="coin", labels_weight=1.0)
    mosaic.obs["coin"] = "heads"
    with pytest.raises(InputError, match="name only 'heads'"):
        MultiVI.from_mosaic(mosaic, **SMALL, labels="coin", labels_weight=1.0)
    with pytest.raises(InputError, match="labels_weight is 2"):
        MultiVI.from_mosaic(mosaic, **SMALL, labels_weight=2.0)
    with pytest.raises(InputError, match="labels_weight is -1"):
        MultiVI.from_mosaic(mosaic, **SMALL, labels_weight=-1.0)


def test_the_command_passes_labels_on(tmp_path):
    mosaic = coin()
    mosaic.uns["multivi_nf"] = "{}"
    mosaic.obs["coin"] = mosaic.obs["coin"].astype(str)
    mosaic.write(tmp_path / "m.h5mu")
    options = [str(tmp_path / "m.h5mu"), "--output", str(tmp_path / "model"), "--max-epochs", "1", "--n-hidden", "8"]
    result = CliRunner().invoke(command, [*options, "--labels", "coin", "--labels-weight", "3"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    config = MultiVI.load(tmp_path / "model").config
    assert (config.labels, config.labels_weight, config.label_names) == ("coin", 3.0, ("heads", "tails"))
    refused = CliRunner().invoke(command, [*options, "--labels-weight", "3"])
    assert isinstance(refused.exception, InputError) and "--labels-weight is 3 without --labels" in str(
        refused.exception
    )
