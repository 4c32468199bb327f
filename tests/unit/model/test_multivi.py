from __future__ import annotations

import pytest
import torch

from multivi_nf.data.minibatch import Minibatch
from multivi_nf.model import ModelConfig, MultiVI


def outputs(made: MultiVI, cells: Minibatch) -> list[torch.Tensor]:
    """Everything inference reads: posteriors, sizes, and every parameter decoded under every batch and under none."""
    with torch.no_grad():
        encoded = made.encode(cells)
        joint = made.fuse(cells, encoded)
        found = [joint.mean, joint.variance]
        found += [t for q in encoded.values() for t in (q.mean, q.variance, q.size) if t is not None]
        for m in made.modalities:
            for b in (-1, 0, 1, 2):
                batch = torch.full((cells.n_cells,), b)
                h = made.hidden(m, joint.mean, batch, cells.categorical, cells.continuous)
                tile = made.tile(m, h, 0, made.config.n_features[m], batch)
                found += [h, *tile.values()]
        found.append(made.eval().loss(cells, generator=torch.Generator().manual_seed(0)).total)
    return [tensor.detach() for tensor in found]


@pytest.mark.parametrize(
    "options",
    [
        {"dispersion": "gene-batch"},
        {"rna_likelihood": "zinb", "dispersion": "gene-batch", "deep_injection": True, "library": "encoded"},
        {
            "fusion": "mopoe",
            "categorical": {"technology": ("x", "y")},
            "categorical_cells": {"technology": {"rna": (5, 0), "atac": (5, 5), "protein": (5, 5)}},
        },
    ],
)
def test_no_output_reads_a_code_its_modality_never_trained(model, minibatch, options):
    """Batch a measured all, b only ATAC, c nothing: rows of b (but ATAC's) and of c are NaN; bytes stay the same."""
    cells = {"rna": (9, 0, 0), "atac": (9, 4, 0), "protein": (9, 0, 0)}
    made = model(batch_cells=cells, **options).eval()
    present = {"rna": [0, 1], "atac": [0, 2, 3, 5], "protein": [0, 4]}
    # cells 1 and 4: RNA and protein of batches that never trained them, as of a new sample; 5: unknown
    batch = minibatch(present, 6, batch=[0, 2, 1, 2, 1, -1])
    if made.config.categorical:
        batch.categorical = torch.tensor([[0], [1], [1], [0], [1], [-1]])
    before = outputs(made, batch)
    spoilt = 0
    with torch.no_grad():
        for name, modality in made.batch_tables().items():
            rows = made.get_parameter(name)
            for b, n in enumerate(cells[modality]):
                if not n:
                    rows[b] = torch.nan
                    spoilt += 1
        if made.config.categorical:
            for name, parameter in made.named_parameters():
                if "tables.1" in name and ".rna." in name:
                    parameter[1] = torch.nan
                    spoilt += 1
    assert spoilt > 10
    after = outputs(made, batch)
    for a, b in zip(before, after):
        assert a.dtype == torch.bool or bool(a.isfinite().all())
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_no_output_reads_a_protein_outside_its_batchs_panel(model, minibatch):
    """Batch a lacks the last protein, b the first: entries (a, 5) and (b, 0) of every table are NaN."""
    panel = [[True] * 5 + [False], [False] + [True] * 5, [False] * 6]
    made = model(("protein",), panel=panel, batch_cells={"protein": (6, 3, 0)}, adversary="none").eval()
    cells = minibatch({"protein": [0, 1, 2, 3]}, 4, batch=[0, 1, 2, -1])
    before = outputs(made, cells)
    with torch.no_grad():
        for name in made.batch_tables():
            rows = made.get_parameter(name)
            if rows.shape == (3, 6):
                rows[0, 5] = rows[1, 0] = torch.nan
                rows[2] = torch.nan
    after = outputs(made, cells)
    assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(before, after))
    table = made.generative["protein"].background_mean
    assert torch.equal(table(torch.tensor([0]))[0, 5], table.rows[1, 5])
    assert torch.allclose(table(torch.tensor([-1]))[0, 2], (2 * table.rows[0, 2] + table.rows[1, 2]) / 3)


def test_a_trained_code_does_reach_the_outputs(model, minibatch):
    """The control of the test above: a NaN row of a trained batch is seen."""
    made = model(dispersion="gene-batch").eval()
    cells = minibatch({"rna": [0, 1], "atac": [0], "protein": [1]}, 2, batch=[0, 0])
    for name in made.batch_tables():
        with torch.no_grad():
            rows = made.get_parameter(name)
            kept = rows[0].clone()
            rows[0] = torch.nan
            spoilt = any(bool(t.isnan().any()) for t in outputs(made, cells) if t.dtype != torch.bool)
            rows[0] = kept
        assert spoilt, name


def test_untrained_batches_decode_as_the_average_of_the_trained(model):
    made = model(batch_cells={"rna": (30, 10, 0), "atac": (1, 1, 1), "protein": (1, 1, 1)}, dispersion="gene-batch")
    table = made.generative["rna"].batch_log_dispersion
    expected = 0.75 * table.rows[0] + 0.25 * table.rows[1]
    for b in (2, -1):
        assert torch.allclose(made.generative["rna"].dispersion(torch.tensor([b]))[0], expected)


def test_a_cells_posterior_does_not_depend_on_its_company(model, mixed, minibatch):
    made = model().double().eval()
    encoded = made.encode(mixed)
    joint = made.fuse(mixed, encoded)
    for m, rows in mixed.modalities.items():
        for i, cell in enumerate(rows.cells.tolist()):
            start, stop = int(rows.counts.indptr[i]), int(rows.counts.indptr[i + 1])
            counts = type(rows.counts)(
                torch.tensor([0, stop - start]),
                rows.counts.indices[start:stop],
                None if rows.counts.values is None else rows.counts.values[start:stop],
                rows.counts.n_features,
            )
            alone = Minibatch(mixed.batch[cell : cell + 1], {m: type(rows)(torch.tensor([0]), counts)})
            q = made.encode(alone)[m]
            assert torch.allclose(q.mean[0], encoded[m].mean[i])
            assert torch.allclose(q.variance[0], encoded[m].variance[i])
    only_atac = 4
    i = mixed.modalities["atac"].cells.tolist().index(only_atac)
    assert torch.allclose(joint.mean[8], encoded["atac"].mean[mixed.modalities["atac"].cells.tolist().index(8)])
    assert not torch.allclose(joint.mean[only_atac], encoded["atac"].mean[i])  # it has protein, too


def test_encoders_see_log_counts_and_binary_peaks(model, minibatch):
    """The first layer, written out densely."""
    made = model().double().eval()
    cells = minibatch({"rna": [0, 1], "atac": [0, 1], "protein": [0, 1]}, 2)
    for m, rows in cells.modalities.items():
        encoder = made.encoders[m]
        x = rows.counts.dense().double()
        x = x if m == "atac" else x.log1p()
        h = x @ encoder.weight + encoder.bias + encoder.layers.codes[0].tables[0].rows[cells.batch]
        h = torch.nn.functional.leaky_relu(torch.nn.functional.layer_norm(h, (8,)))
        h = torch.nn.functional.leaky_relu(torch.nn.functional.layer_norm(encoder.layers.linear[1](h), (8,)))
        q = made.encode(cells)[m]
        assert torch.allclose(q.mean, encoder.mean(h))
        assert torch.allclose(q.variance, encoder.log_variance(h).exp())


def test_counts_of_peaks_are_read_as_open_or_closed(model, minibatch):
    made = model().eval()
    cells = minibatch({"atac": [0, 1]}, 2)
    before = made.fuse(cells, made.encode(cells)).mean
    cells.modalities["atac"].counts.values = torch.full((cells.modalities["atac"].counts.indices.numel(),), 4.0)
    assert torch.equal(before, made.fuse(cells, made.encode(cells)).mean)


def test_library_is_observed_or_encoded_and_depth_is_a_share(model, minibatch):
    cells = minibatch({"rna": [0, 1, 2], "atac": [1, 2]}, 3)

    def level(modality, **options):
        made = model(**options)
        return made.level(modality, made.encode(cells.only((modality,)))[modality])

    assert torch.allclose(level("rna"), cells.modalities["rna"].counts.dense().sum(1))
    encoded = level("rna", library="encoded")
    assert bool((encoded > 0).all()) and not torch.allclose(encoded, cells.modalities["rna"].counts.dense().sum(1))
    depth = level("atac")
    assert depth.shape == (2,) and bool(((depth > 0) & (depth < 1)).all())


def test_covariates_reach_encoders_and_decoders(model, minibatch):
    made = model(categorical={"technology": ("x", "y")}, continuous={"age": (0.0, 1.0)}).eval()
    cells = minibatch({"rna": [0, 1], "atac": [0, 1], "protein": [0, 1]}, 2)
    z, batch = torch.randn(2, 3), cells.batch

    def all_of(category: int, age: float):
        cells.categorical, cells.continuous = torch.full((2, 1), category), torch.full((2, 1), age)
        q = made.encode(cells)
        return [q[m].mean for m in made.modalities] + [
            made.hidden(m, z, batch, cells.categorical, cells.continuous) for m in made.modalities
        ]

    for other in (all_of(1, 0.0), all_of(0, 2.0)):
        for a, b in zip(all_of(0, 0.0), other):
            assert not torch.allclose(a, b)
    for m in made.modalities:
        unknown = made.hidden(m, z, batch, torch.full((2, 1), -1), torch.zeros(2, 1))
        assert torch.equal(unknown, made.hidden(m, z, batch))


def test_tiles_of_features_side_by_side_are_all_features(model):
    made = model(rna_likelihood="zinb", dispersion="gene-batch").eval()
    z, batch = torch.randn(4, 3), torch.tensor([0, 1, -1, 2])
    for m in made.modalities:
        h, n = made.hidden(m, z, batch), made.config.n_features[m]
        whole = made.tile(m, h, 0, n, batch)
        parts = [made.tile(m, h, start, min(start + 4, n), batch) for start in range(0, n, 4)]
        for key, value in whole.items():
            assert torch.allclose(torch.cat([p[key] for p in parts], -1).double(), value.double(), atol=1e-6)


def test_the_reference_mixture_is_the_eight_largest_by_cells():
    cells = (5, 0, 9, 9, 1, 2, 3, 4, 6, 7, 8)
    config = ModelConfig({"rna": 3}, tuple("abcdefghijk"), {"rna": cells}, n_hidden=4, n_latent=2)
    mixture = config.reference_mixture("rna")
    assert [b for b, _ in mixture] == [2, 3, 10, 9, 8, 0, 7, 6]
    assert [w for _, w in mixture] == [n / 51 for n in (9, 9, 8, 7, 6, 5, 4, 3)]


def test_a_protein_is_decoded_under_batches_that_have_it():
    cells = tuple(range(20, 9, -1))
    panel = [[True, b < 2, b == 10] for b in range(11)]
    config = ModelConfig({"protein": 3}, tuple("abcdefghijk"), {"protein": cells}, panel=panel, n_hidden=4, n_latent=2)
    batches, weights = config.reference_weights("protein")
    assert batches.tolist() == [*range(8), 10]
    assert torch.allclose(weights.sum(0), torch.ones(3))
    assert torch.allclose(weights[:8, 0], torch.tensor(cells[:8]) / sum(cells[:8]))
    assert torch.allclose(weights[:, 1], torch.tensor([20 / 39, 19 / 39] + [0.0] * 7))
    assert torch.equal(weights[:, 2], torch.tensor([0.0] * 8 + [1.0]))


def test_decoders_start_at_the_datas_means(model):
    made = MultiVI(model(library="encoded").config)
    rna, atac = torch.rand(17) * 5, torch.rand(70) * 0.4
    made.initialise_from_means({"rna": rna, "atac": atac})
    z, batch = torch.zeros(1, 3), torch.tensor([0])
    zero = torch.zeros(1, 8)
    profile = torch.softmax(made.tile("rna", zero, 0, 17, batch)["logits"], 1)
    assert torch.allclose(profile[0], rna / rna.sum(), atol=2e-3)
    tile = made.tile("atac", zero, 0, 70, batch)
    assert torch.allclose(0.5 * tile["probability"][0] * tile["region"], atac, atol=1e-4)
    size = made.size_encoders
    assert float(size["atac"](zero, atac.sum().view(1)).detach()) == pytest.approx(0, abs=1e-5)
    assert float(size["rna"](zero, rna.sum().view(1)).detach()) == pytest.approx(float(rna.sum().log()), rel=1e-5)
    assert z.shape == (1, 3)


def test_the_background_prior_is_set_by_batch(model):
    made = model()
    mean, log_sd = torch.randn(3, 6), torch.randn(3, 6)
    made.initialise_background(mean, log_sd)
    assert torch.equal(made.generative["protein"].background_mean(torch.tensor([1]))[0], mean[1])
    assert torch.equal(made.generative["protein"].background_log_sd(torch.tensor([0]))[0], log_sd[0])


def test_weights_round_trip_through_the_state_dict(model, mixed):
    made = model(dispersion="gene-batch", fusion="weighted", library="encoded").eval()
    other = MultiVI(made.config).eval()
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.fuse(mixed, other.encode(mixed)).mean, made.fuse(mixed, made.encode(mixed)).mean)
    assert all(isinstance(v, torch.Tensor) for v in made.state_dict().values())


def test_parameters_are_the_models_or_the_adversaries(model):
    made = model(adversary="both")
    own, theirs = set(map(id, made.model_parameters())), set(map(id, made.adversary_parameters()))
    assert own | theirs == set(map(id, made.parameters())) and not own & theirs and theirs
