from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from multivi_nf.errors import InputError, Interrupted
from multivi_nf.model import local_mixing
from multivi_nf.training import MultiVI, fit, train
from multivi_nf.training import trainer as loop
from multivi_nf.training.objective import Objective
from multivi_nf.training.schedule import Place
from multivi_nf.training.settings import Settings, settings_for


def small(mosaic: MuData, **architecture: object) -> MultiVI:
    return MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3, **architecture)


def fitted(mosaic: MuData, architecture: dict | None = None, **how: object) -> MultiVI:
    model = small(mosaic, **(architecture or {}))
    train(model, mosaic, **{"quiet": True, "max_epochs": 6, "batch_size": 32, "device": "cpu", **how})
    return model


def same_bytes(a: MultiVI, b: MultiVI) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(torch.equal(one[k], two[k]) for k in one)


def rows_without_seconds(model: MultiVI) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in model.history.rows]


def test_training_lowers_the_loss_and_tells_every_term(mosaic):
    model = fitted(mosaic, max_epochs=30)
    frame = model.history.to_frame()
    assert list(frame["epoch"]) == list(range(1, len(frame) + 1))
    assert frame["validation_loss"].iloc[-1] < frame["validation_loss"].iloc[0]
    columns = ["epoch", "train_loss", "validation_loss", "rna", "atac", "kl", "alignment", "adversary"]
    assert list(frame.columns[: len(columns)]) == columns
    assert {"adversary_accuracy", "adversary_chance", "seconds", "best"} <= set(frame.columns)
    assert frame.drop(columns="adversary_accuracy").notna().all().all()
    assert frame["best"].sum() == 1


def test_a_seed_repeats_to_the_byte_and_leaves_the_callers_generators_alone(mosaic):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a = fitted(mosaic, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    b, c = fitted(mosaic, seed=3), fitted(mosaic, seed=4)
    assert same_bytes(a, b) and rows_without_seconds(a) == rows_without_seconds(b)
    assert not same_bytes(a, c)


def stop_after(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Ask to stop at the n-th step of the next run."""
    left = [n]

    def stop() -> str:
        left[0] -= 1
        return "the test says so" if left[0] == 0 else ""

    monkeypatch.setattr(fit, "_stopper", lambda *_: stop)


def told_apart(source, batches, *, among, seed):
    """Half of the cells have no counterparts, and are told apart."""
    found = np.ones((len(source.batch), len(batches)), dtype=np.float32)
    alone = (np.arange(len(found)) % 2 == 0)[:, None] & (source.batch[:, None] != np.array(batches))
    found[alone] = 0
    return found, alone


@pytest.mark.parametrize(("fusion", "strangers"), [("mean", False), ("mopoe", False), ("mean", True)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(mosaic, tmp_path, monkeypatch, fusion, strangers):
    architecture = {"fusion": fusion}
    if strangers:
        for name in ("joint", "leading"):  # never content: mixing acts from the first steps
            for times in (local_mixing.CONTENT, local_mixing.AT_FIRST):
                monkeypatch.setitem(times, name, 1e-3)
        monkeypatch.setattr(fit, "looked_at", lambda *_, **how: (told_apart(*_, **how)[0], np.zeros(1, dtype=bool)))
        without = fitted(mosaic, architecture)
        monkeypatch.setattr(fit, "looked_at", told_apart)
    undisturbed = fitted(mosaic, architecture)
    assert not strangers or not same_bytes(without, undisturbed)
    stops = random.Random(1)
    monkeypatch.setattr(fit, "_stopper", fit._stopper)
    for _ in range(30):
        # The first question comes while the folder is taken over, the others once a step.
        stop_after(monkeypatch, stops.randint(1, 9))
        model = small(mosaic, **architecture)
        try:
            how = {"max_epochs": 6, "batch_size": 32, "device": "cpu", "quiet": True}
            train(model, mosaic, checkpoint_dir=tmp_path, resume=True, **how)
            break
        except Interrupted as told:
            assert "resume=True" in str(told)
    else:
        pytest.fail("the run never came to its end")
    assert same_bytes(model, undisturbed)
    assert rows_without_seconds(model) == rows_without_seconds(undisturbed)
    assert not list(tmp_path.iterdir()), "a finished run removes its checkpoints"


def test_without_resume_a_run_starts_anew(mosaic, tmp_path, monkeypatch):
    stop_after(monkeypatch, 7)
    with pytest.raises(Interrupted):
        fitted(mosaic, checkpoint_dir=tmp_path)
    monkeypatch.undo()
    assert same_bytes(fitted(mosaic, checkpoint_dir=tmp_path), fitted(mosaic))


def test_a_checkpoint_of_other_data_or_options_is_refused_with_the_difference(mosaic, tmp_path, monkeypatch):
    how = {"checkpoint_dir": tmp_path / "k", "output": tmp_path / "model", "resume": True}
    stop_after(monkeypatch, 5)
    with pytest.raises(Interrupted):
        fitted(mosaic, **how)
    monkeypatch.undo()
    with pytest.raises(InputError, match="batch_size is 16 here and 32 in the checkpoint"):
        fitted(mosaic, batch_size=16, **how)
    with pytest.raises(InputError, match='fusion is "poe" here and "mean" in the checkpoint'):
        fitted(mosaic, {"fusion": "poe"}, **how)
    mosaic.mod["rna"].X.data[0] += 1
    with pytest.raises(InputError, match="other rna counts"):
        fitted(mosaic, **how)


def test_other_runs_in_the_same_folder_are_left_alone(mosaic, tmp_path, monkeypatch):
    stop_after(monkeypatch, 5)
    with pytest.raises(Interrupted):
        fitted(mosaic, checkpoint_dir=tmp_path, output=tmp_path / "one", resume=True)
    monkeypatch.undo()
    fitted(mosaic, batch_size=16, checkpoint_dir=tmp_path, output=tmp_path / "two", resume=True)
    assert len([p for p in tmp_path.iterdir() if p.name not in ("one", "two")]) == 1


def test_time_limit_stops_with_a_checkpoint(mosaic, tmp_path):
    with pytest.raises(Interrupted, match="time limit"):
        fitted(mosaic, checkpoint_dir=tmp_path, time_limit=1e-9)
    # The limit was up before the folder was taken, or a step was saved.
    fitted(mosaic, checkpoint_dir=tmp_path, resume=True)


def test_an_unwritable_checkpoint_folder_stops_the_run(mosaic, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        fitted(mosaic, checkpoint_dir=tmp_path / "file")


def test_best_weights_are_kept_and_never_from_the_warm_up(mosaic, monkeypatch):
    losses = iter([1.0, 2.0, 0.5, 0.5, 9.0, 5.0, 3.0, 4.0])
    weights = []

    def validate(self: loop.Trainer) -> dict[str, float]:
        weights.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return {"elbo_loss": next(losses), "alignment": 0.0, "integration": 0.0}

    monkeypatch.setattr(loop.Trainer, "_validate", validate)
    model = fitted(mosaic, {"kl_warmup": 2, "alignment_weight": 1.0}, max_epochs=8)
    assert model.history["kl_weight"][:4] == [0.0, 0.5, 1.0, 1.0]
    assert model.history["alignment_weight"][:5] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert model.history.best_epoch == 7
    assert all(torch.equal(v, weights[6][k]) for k, v in model.state_dict().items())


def test_more_mixing_is_asked_for_as_the_alignment_sets_in(mosaic, monkeypatch):
    from multivi_nf.model.local_mixing import LocalMixing

    asked, step = [], LocalMixing.step

    def stepped(self: LocalMixing) -> None:
        asked.append(self.asked)
        step(self)

    monkeypatch.setattr(LocalMixing, "step", stepped)
    model = fitted(mosaic, {"kl_warmup": 2, "alignment_weight": 0.0}, max_epochs=8)
    n = len(asked) // len(model.history)
    ramp = [i / (2 * n) for i in range(2 * n)]
    assert asked[: 6 * n] == pytest.approx([0.0] * (2 * n) + ramp + [1.0] * (2 * n)) and n > 1
    asked.clear()
    fitted(mosaic, {"kl_warmup": 0}, max_epochs=2)
    assert set(asked) == {1.0}


def test_training_stops_early_when_the_validation_loss_no_longer_falls(mosaic, monkeypatch):
    def validate(self: loop.Trainer) -> dict[str, float]:
        return {"elbo_loss": 5.0 + self.state.epoch, "alignment": 0.0, "integration": 0.0}

    monkeypatch.setattr(loop.Trainer, "_validate", validate)
    model = fitted(mosaic, {"kl_warmup": 0}, max_epochs=60)
    assert len(model.history) == 18 and "early" in model.history.stopped and model.history.best_epoch == 1
    rates = model.history["learning_rate"]
    assert rates[12] > 0.8 * max(rates) and rates[17] < 0.1 * rates[12], "5 epochs anneal from the best weights"


def test_a_run_interrupted_while_it_anneals_gives_the_same_bytes(mosaic, tmp_path, monkeypatch):
    def validate(self: loop.Trainer) -> dict[str, float]:
        return {"elbo_loss": 5.0 + abs(self.state.epoch - 2), "alignment": 0.0, "integration": 0.0}

    monkeypatch.setattr(loop.Trainer, "_validate", validate)
    how = {"architecture": {"kl_warmup": 0}, "max_epochs": 30}
    undisturbed = fitted(mosaic, **how)
    assert len(undisturbed.history) == 18 and undisturbed.history.best_epoch == 3
    with monkeypatch.context() as m:
        stop_after(m, 5 * 15 + 2)  # epoch 16 of 5 steps each: the third that anneals
        with pytest.raises(Interrupted, match="epoch 16"):
            fitted(mosaic, checkpoint_dir=tmp_path, **how)
    again = fitted(mosaic, checkpoint_dir=tmp_path, resume=True, **how)
    assert same_bytes(again, undisturbed)
    a, b = (model.history.to_frame().drop(columns="seconds") for model in (again, undisturbed))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_validation_has_the_same_noise_in_every_epoch(mosaic):
    model = fitted(mosaic, max_epochs=3, learning_rate=1e-30)
    losses = model.history["validation_loss"]
    assert losses[0] == losses[1] == losses[2]
    assert len(set(model.history["rna"])) == 3


def test_the_loss_of_so_many_validation_cells_is_looked_at_and_pairs_among_all(mosaic, monkeypatch):
    """What each validated minibatch was given; the same cells in every epoch, and all without a limit."""
    validated: list[int] = []
    pairs: list[int] = []
    measure, held = Objective.validate, loop.HeldPairs

    def noted(self, minibatch, n_cells, seed):
        validated.append(n_cells)
        return measure(self, minibatch, n_cells, seed)

    monkeypatch.setattr(Objective, "validate", noted)
    monkeypatch.setattr(
        loop, "HeldPairs", lambda m, data, cells, seed: pairs.append(len(cells)) or held(m, data, cells, seed)
    )
    whole = fitted(mosaic, max_epochs=2)
    n = int((whole.split["split"] == "validation").sum())
    assert sum(validated) == 2 * n and pairs == [n] and n > 8
    monkeypatch.setattr(loop, "VALIDATED", 8)
    validated.clear()
    limited, again = (fitted(mosaic, max_epochs=2, learning_rate=1e-30) for _ in range(2))
    assert validated == [8] * 4 and pairs == [n] * 3
    losses = limited.history["validation_loss"]
    assert losses[0] == losses[1] == again.history["validation_loss"][0] != whole.history["validation_loss"][0]
    assert limited.split.equals(whole.split)


def test_the_cells_that_are_looked_at_are_seeded_and_in_order():
    cells = np.arange(0, 9000, 2)
    some = loop.looked_at(cells, 0)
    assert len(some) == loop.VALIDATED == len(np.unique(some)) and np.isin(some, cells).all()
    assert (np.diff(some) > 0).all()
    assert np.array_equal(some, loop.looked_at(cells, 0)) and not np.array_equal(some, loop.looked_at(cells, 1))
    assert np.array_equal(loop.looked_at(cells[:1000], 0), cells[:1000])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "numpy"],
)
def test_parts_of_a_step_add_up_to_its_gradient(mosaic, monkeypatch, error):
    """Out of memory above 10 cells: the step runs in parts, and its gradient is that of the whole step."""
    gradients = {}

    def keep(name: str):
        update = Objective.update

        def spy(self: Objective, *args: object) -> None:
            if name not in gradients:
                gradients[name] = [p.grad.clone() for p in self.optimisers.parameters if p.grad is not None]
            update(self, *args)

        return spy

    def exact(self: Objective, minibatch: object, share: float, seed: int) -> None:
        """The gradient at the posterior means: no noise, so that parts can be compared."""
        losses = self.model.loss(minibatch, kl_weight=1.0, generator=self.generator)
        (losses.total * share).backward()
        self.tally.partial[0] += minibatch.n_cells * losses.total.detach()
        self.tally.partial[-1] += minibatch.n_cells

    def no_noise(*shape: object, generator: object = None, **how: object) -> torch.Tensor:
        return torch.zeros(*shape, **how)

    monkeypatch.setattr(torch, "randn", no_noise)
    monkeypatch.setattr(Objective, "add", exact)
    architecture = {"dropout": 0.0, "batch_dropout": 0.0, "cross_reconstruction": 0.0, "adversary": "none"}
    with monkeypatch.context() as m:
        m.setattr(Objective, "update", keep("whole"))
        fitted(mosaic, architecture, max_epochs=1)

    def limited(self: Objective, minibatch: object, share: float, seed: int) -> None:
        if minibatch.n_cells > 10:
            raise error
        exact(self, minibatch, share, seed)

    with monkeypatch.context() as m:
        m.setattr(Objective, "update", keep("parts"))
        m.setattr(Objective, "add", limited)
        fitted(mosaic, architecture, max_epochs=1)
    assert len(gradients["whole"]) == len(gradients["parts"])
    for a, b in zip(gradients["whole"], gradients["parts"]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_other_errors_of_a_step_are_not_taken_for_lack_of_memory(mosaic, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Objective, "add", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        fitted(mosaic)


LIMITED = """
import numpy as np, torch
from multivi_nf.training import device
device.memory_left = lambda: 300 << 20
errors = []
for where, room in (("cpu", False), ("meta", True)):
    with device.allocations_within_limits(torch.device(where)):
        np.ones(50 << 20, np.uint8)  # what there is room for
        for make in (lambda: torch.ones(200 << 20), lambda: np.ones(800 << 20, np.uint8)):
            try:
                make()
                assert room
            except (MemoryError, RuntimeError) as error:
                assert not room and device.is_out_of_memory(error), error
torch.ones(200 << 20)
print("done")
"""


def test_a_limit_of_the_control_group_fails_an_allocation_and_kills_nothing():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def test_too_little_memory_for_one_cell_is_said(mosaic, monkeypatch):
    def never(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Objective, "add", never)
    with pytest.raises(InputError, match="a step of one cell"):
        fitted(mosaic)


@pytest.mark.parametrize("times", [1, 2])
def test_a_loss_that_is_not_finite_goes_back_once_with_half_the_rate(mosaic, monkeypatch, capfd, times):
    add, calls = Objective.add, [0]

    def spoilt(self: Objective, *args: object) -> None:
        add(self, *args)
        calls[0] += 1
        if calls[0] == 8 or (times == 2 and calls[0] == 12):
            self.tally.partial[2] = math.nan

    monkeypatch.setattr(Objective, "add", spoilt)
    if times == 2:
        with pytest.raises(InputError, match="'atac' is not finite in epoch 1, step 4, again"):
            fitted(mosaic)
        return
    model = fitted(mosaic, quiet=False)
    assert "'atac' is not finite in epoch 2, step 3: going back to epoch 1 with half" in capfd.readouterr().err
    assert len(model.history) == 6
    rates = model.history["learning_rate"]
    assert rates[0] < settings_for(100, kl_warmup=50, batch_size=32).learning_rate / 2


@pytest.mark.parametrize("modalities", [("rna",), ("atac",), ("protein",), ("rna", "atac", "protein")])
def test_every_set_of_modalities_trains(mosaic_maker, modalities):
    model = fitted(mosaic_maker(modalities=modalities, n_cells=80), max_epochs=2)
    assert np.isfinite(model.history["validation_loss"]).all()


@pytest.mark.parametrize("n_cells", [2, 33])
def test_few_cells_one_batch_and_batches_of_one_cell(mosaic_maker, n_cells):
    model = fitted(mosaic_maker(n_cells=n_cells, batches=("a",)), max_epochs=2, batch_size=1)
    assert np.isfinite(model.history["train_loss"]).all()


def test_without_pairs_and_with_an_empty_modality(mosaic_maker):
    model = fitted(mosaic_maker(paired=0.0), max_epochs=2)
    assert np.isfinite(model.history["train_loss"]).all()
    mosaic = mosaic_maker(modalities=("rna", "atac"), paired=0.0)
    empty = MuData({"rna": mosaic.mod["rna"], "atac": mosaic.mod["atac"][:0].copy()})
    assert fitted(empty, max_epochs=1).config.modalities == ("rna",)


def test_constant_features_train(mosaic):
    for part, value in ((mosaic.mod["rna"], 3), (mosaic.mod["atac"], 1)):
        counts = part.X.toarray()
        counts[:, 0], counts[:, 1] = 0, value
        part.X = sparse.csr_matrix(counts)
    assert np.isfinite(fitted(mosaic).history["train_loss"]).all()


def test_a_given_split_is_used(mosaic):
    cells = mosaic.obs_names
    split = pd.DataFrame({"cell": cells, "split": np.where(np.arange(len(cells)) < 20, "validation", "train")})
    model = fitted(mosaic, split=split)
    assert (model.split["split"] == split["split"]).all()
    with pytest.raises(InputError, match="no row for cell"):
        fitted(mosaic, split=split.iloc[1:])


def test_cuda_without_one_is_refused(mosaic, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device"):
        fitted(mosaic, device="cuda")


def test_auto_says_loudly_that_there_is_no_gpu(mosaic, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fitted(mosaic, device="auto", quiet=False, max_epochs=1)
    assert "NO GPU FOUND" in capfd.readouterr().err


def test_bfloat16_trains(mosaic):
    model = fitted(mosaic, precision="bfloat16")
    assert np.isfinite(model.history["train_loss"]).all()
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(("n", "batch_size"), [(100, 128), (4000, 512), (1_000_000, 512)])
def test_rules_follow_the_number_of_cells(n, batch_size):
    rule = settings_for(n, kl_warmup=50)
    assert rule.batch_size == batch_size
    assert 20 <= rule.max_epochs <= 200 and rule.full_from <= rule.max_epochs // 2


def test_more_cells_hold_the_loadings_of_peaks_less():
    few, many = settings_for(2000, kl_warmup=50), settings_for(1_000_000, kl_warmup=50)
    assert few.peak_decay == pytest.approx(5.0, rel=0.1)
    steps = math.ceil(1_000_000 / 512) * many.max_epochs
    assert many.peak_decay * steps == pytest.approx(5.0 * 600)


@pytest.mark.parametrize(
    ("compat", "trainable", "expected"),
    [
        ("none", None, 5.0),
        ("scvi", None, 1e-3),
        ("none", {"generative.atac.output.weight"}, 0.0),
    ],
)
def test_only_the_loadings_of_peaks_decay_strongly(mosaic, compat, trainable, expected):
    model = MultiVI.from_mosaic(mosaic, n_hidden=16, n_latent=4, compat=compat)
    objective = Objective(model, settings_for(600, kl_warmup=5), torch.device("cpu"), trainable)
    optimiser, names = objective.optimisers.each["model"]
    decays = [group["weight_decay"] for group in optimiser.param_groups for _ in group["params"]]
    by_name = dict(zip(names, decays, strict=True))
    assert by_name.pop("generative.atac.output.weight") == pytest.approx(expected, rel=0.1)
    for name, decay in by_name.items():
        assert decay == (1e-3 if model.get_parameter(name).dim() >= 2 else 0.0)
    assert [model.get_parameter(n) for n in names] == [p for g in optimiser.param_groups for p in g["params"]]


@pytest.mark.parametrize(("compat", "pace"), [("none", 10.0), ("scvi", 1.0)])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
def test_dispersions_alone_learn_at_a_pace_of_their_own(mosaic, compat, pace, dispersion):
    model = MultiVI.from_mosaic(mosaic, n_hidden=16, n_latent=4, compat=compat, dispersion=dispersion)
    objective = Objective(model, settings_for(600, kl_warmup=5), torch.device("cpu"))
    objective.schedule(Place(3, 0, 5))
    optimiser, names = objective.optimisers.each["model"]
    rates = dict(zip(names, [group["lr"] for group in optimiser.param_groups for _ in group["params"]], strict=True))
    fast = {name for name in rates if "log_dispersion" in name}
    assert fast
    (usual,) = {rate for name, rate in rates.items() if name not in fast}
    assert [rates[name] for name in fast] == pytest.approx([pace * usual] * len(fast))


def test_dispersions_are_found_within_a_default_training():
    rng = np.random.default_rng(0)
    theta = np.where(np.arange(60) < 30, 0.5, 12.0)
    mean = rng.gamma(2, 10, size=60)
    counts = rng.poisson(mean * rng.gamma(theta, 1 / theta, size=(600, 60)))
    obs = pd.DataFrame({"batch": "a"}, index=[f"cell{i}" for i in range(600)])
    rna = AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs, pd.DataFrame(index=[f"g{j}" for j in range(60)]))
    mosaic = MuData({"rna": rna})
    mosaic.obs["batch"] = "a"
    model = MultiVI.from_mosaic(mosaic, n_hidden=16, n_latent=2)
    train(model, mosaic, quiet=True)
    found = model.generative.rna.log_dispersion.detach().exp().numpy()
    assert 0.4 < np.median(found[:30]) < 0.8
    assert np.median(found[30:]) > 6


@pytest.mark.parametrize("name", ["max_epochs", "batch_size", "learning_rate", "seed"])
def test_values_out_of_range_are_named(name):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is -1"):
        settings_for(100, kl_warmup=5, **{name: -1})
    assert isinstance(settings_for(100, kl_warmup=5), Settings)


def test_calibration_cells_take_no_part(mosaic):
    model = fitted(mosaic)
    held_out = model.split.loc[model.split["split"] == "calibration", "cell"]
    assert len(held_out) > 0
    for part in mosaic.mod.values():
        rows = part.obs_names.isin(held_out)
        part.X = part.X.multiply(np.where(rows, 5, 1)[:, None]).tocsr().astype(np.int32)
    again = small(mosaic)
    again.load_state_dict(small_start(mosaic, model))
    train(again, mosaic, max_epochs=6, batch_size=32, device="cpu", quiet=True, split=model.split)
    assert same_bytes(model, again)


def small_start(mosaic: MuData, model: MultiVI) -> dict[str, torch.Tensor]:
    """Initial weights from the untouched data: means over all cells changed with the calibration cells' counts."""
    for part in mosaic.mod.values():
        rows = part.obs_names.isin(model.split.loc[model.split["split"] == "calibration", "cell"])
        part.X = part.X.multiply(np.where(rows, 0.2, 1)[:, None]).tocsr()
    start = small(mosaic).state_dict()
    for part in mosaic.mod.values():
        rows = part.obs_names.isin(model.split.loc[model.split["split"] == "calibration", "cell"])
        part.X = part.X.multiply(np.where(rows, 5, 1)[:, None]).tocsr().astype(np.int32)
    return start


def test_the_history_file_holds_what_the_run_did(mosaic, tmp_path):
    model = fitted(mosaic, output=tmp_path / "model")
    table = pd.read_csv(Path(tmp_path) / "model" / "history.tsv", sep="\t")
    np.testing.assert_allclose(table["validation_loss"], model.history["validation_loss"], rtol=1e-8)


CELLS = {"n_cells": 240, "modalities": ("rna", "atac", "protein")}


@pytest.mark.parametrize("stop_at", [1, 5, 14, 30])
def test_what_was_seen_of_batches_goes_through_a_checkpoint(mosaic_maker, tmp_path, monkeypatch, stop_at):
    """The running sums of the mixing penalties are part of where a run is: the same bytes, also between two looks."""
    mosaic = mosaic_maker(**CELLS, batches=("a", "b", "c", "d"))
    undisturbed = fitted(mosaic)
    assert max(undisturbed.history["batch_mixing"]) > 0 and max(undisturbed.history["modality_mixing"]) > 0
    stop_after(monkeypatch, stop_at + 1)
    with pytest.raises(Interrupted):
        fitted(mosaic, checkpoint_dir=tmp_path)
    monkeypatch.undo()
    again = fitted(mosaic, checkpoint_dir=tmp_path, resume=True)
    assert same_bytes(again, undisturbed)
    assert rows_without_seconds(again) == rows_without_seconds(undisturbed)


def test_with_one_batch_its_strength_changes_nothing(mosaic_maker):
    mosaic = mosaic_maker(**CELLS, batches=("a",))
    with_it, without = fitted(mosaic), fitted(mosaic, {"batch_integration": 0})
    assert same_bytes(with_it, without)
    assert "batch_mixing" not in with_it.history.rows[0]


def test_without_strength_nothing_is_looked_at(mosaic_maker, monkeypatch):
    from multivi_nf.model import local_mixing

    def never(*_: object) -> None:
        pytest.fail("a penalty was computed")

    monkeypatch.setattr(local_mixing, "neighbourhood", never)
    model = fitted(mosaic_maker(**CELLS), {"batch_integration": 0, "modality_integration": 0})
    assert not {"batch_mixing", "modality_mixing", "integration"} & set(model.history.rows[0])
    fitted(mosaic_maker(**CELLS), {"compat": "scvi"})


def test_the_kept_epoch_is_told_how_batches_mix(mosaic, monkeypatch):
    mixed = iter([9.0, 9.0, 9.0, 0.5, 0.1, 0.2])

    def validate(self: loop.Trainer) -> dict[str, float]:
        return {"elbo_loss": 5.0 + 0.1 * self.state.epoch, "alignment": 0.0, "integration": next(mixed)}

    monkeypatch.setattr(loop.Trainer, "_validate", validate)
    assert fitted(mosaic, {"kl_warmup": 0}).history.best_epoch == 5


@pytest.mark.parametrize(("given", "pace"), [({}, 10.0), ({"batch_integration": 0}, 1.0), ({"compat": "scvi"}, 1.0)])
def test_batch_codes_of_the_protein_decoder_learn_fast_and_do_not_decay(mosaic_maker, given, pace):
    model = MultiVI.from_mosaic(mosaic_maker(**CELLS), n_hidden=16, n_latent=4, **given)
    objective = Objective(model, settings_for(600, kl_warmup=5), torch.device("cpu"))
    objective.schedule(Place(3, 0, 5))
    optimiser, names = objective.optimisers.each["model"]
    groups = dict(zip(names, [group for group in optimiser.param_groups for _ in group["params"]], strict=True))
    codes = [name for name in model.batch_tables() if name.startswith("generative.protein.")]
    assert len(codes) == 12
    usual = groups["generative.rna.output.weight"]
    for name in codes:
        assert groups[name]["lr"] == pytest.approx(pace * usual["lr"])
        assert (groups[name]["weight_decay"] == 0) == (pace > 1)
    others = [name for name in names if name not in codes and "log_dispersion" not in name]
    assert all(groups[name]["lr"] == usual["lr"] for name in others)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("No space left on device (os error 28)")]
)
def test_a_full_checkpoint_disk_costs_no_training(mosaic, tmp_path, monkeypatch, capsys, error):
    """Said once; the weights are those of an undisturbed run, and the model is written."""
    from multivi_nf.training.checkpoint import store

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(store, "save_file", full)
    monkeypatch.setenv("MULTIVI_NF_CHECKPOINT_SECONDS", "0.000001")
    how = {"checkpoint_dir": tmp_path / "k", "output": tmp_path / "model"}
    disturbed = fitted(mosaic, quiet=False, **how)
    said = capsys.readouterr()
    assert (said.out + said.err).count("WARNING: checkpoints cannot be written to") == 1
    assert (tmp_path / "model/weights.safetensors").is_file()
    monkeypatch.undo()
    assert same_bytes(disturbed, fitted(mosaic))


def test_a_stop_that_could_not_be_saved_does_not_say_that_it_was(mosaic, tmp_path, monkeypatch):
    from multivi_nf.training.checkpoint import store

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    stop_after(monkeypatch, 7)
    with pytest.raises(Interrupted, match="No checkpoint could be written"):
        fitted(mosaic, checkpoint_dir=tmp_path)


def test_ctrl_c_is_as_sigterm_with_code_130(mosaic, tmp_path, monkeypatch):
    import os
    import signal

    asked = fit._stopper

    def stopper(deadline, signalled):
        os.kill(os.getpid(), signal.SIGINT)
        return asked(deadline, signalled)

    monkeypatch.setattr(fit, "_stopper", stopper)
    with pytest.raises(Interrupted, match="SIGINT was received.*resume=True") as told:
        fitted(mosaic, checkpoint_dir=tmp_path)
    assert told.value.code == 130
    assert list(tmp_path.glob("*/step-*/state.json")), "a checkpoint is there"
    monkeypatch.undo()
    assert same_bytes(fitted(mosaic, checkpoint_dir=tmp_path, resume=True), fitted(mosaic))
