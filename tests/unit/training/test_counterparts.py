"""Which cells have counterparts in other batches, against what was planted."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

from multivi_nf.data.source import source_of
from multivi_nf.training import counterparts as room
from multivi_nf.training import sisters
from multivi_nf.training.counterparts import counterparts

FEATURES = {"rna": 300, "atac": 600, "protein": 40}


def world(cells: dict[str, dict[str, int]], measured: dict[str, tuple[str, ...]] | None = None, lab: float = 0.4):
    """Batches by their numbers of cells of each type; each batch has a factor of its own on each feature.

    A type `sister` is `shared` but for a seventh of the features, which it has e times or an e-th as often.
    """
    random = np.random.default_rng(0)
    types = sorted({t for by_type in cells.values() for t in by_type})
    kind = np.concatenate([np.repeat(t, n) for by_type in cells.values() for t, n in by_type.items()])
    batch = np.concatenate([np.repeat(b, sum(by_type.values())) for b, by_type in cells.items()])
    names = np.array([f"c{i}" for i in range(len(kind))])
    parts = {}
    for m, n in FEATURES.items():
        profile = {t: random.gamma(0.5, 2.0, n) + 0.05 for t in types}
        if "sister" in types:
            profile["sister"] = profile["shared"] * np.exp((random.random(n) < 1 / 7) * random.choice([1.0, -1.0], n))
        effect = {b: np.exp(lab * random.standard_normal(n)) for b in cells}
        rate = np.stack([profile[t] * effect[b] for t, b in zip(kind, batch)])
        counts = random.poisson(rate * random.gamma(5, 0.2, (len(kind), 1))).astype(np.int32)
        counts = (counts > 1).astype(np.int32) if m == "atac" else counts
        rows = [i for i, b in enumerate(batch) if m in (measured or {}).get(b, ("rna",))]
        if rows:
            var = pd.DataFrame(index=[f"{m}{j}" for j in range(n)])
            parts[m] = AnnData(sparse.csr_matrix(counts[rows]), obs=pd.DataFrame(index=names[rows]), var=var)
    with mudata.set_options(pull_on_update=False):
        made = MuData(parts)
    where = pd.Index(names).get_indexer(made.obs_names)
    made.obs["batch"] = batch[where]
    return made, kind[where], batch[where]


TWO = {"a": {"shared": 200, "other": 100, "lone": 150}, "b": {"shared": 100, "other": 200, "own": 60}}


def test_a_type_that_one_batch_alone_has_has_no_counterparts_and_shared_ones_have_as_many_as_there_are():
    made, kind, batch = world(TWO)
    found = counterparts(source_of(made), ("a", "b"))
    assert found.shape == (len(kind), 2) and found.dtype == np.float32
    own = np.where(batch == "a", 0, 1)
    there = found[np.arange(len(kind)), 1 - own]
    assert (found[np.arange(len(kind)), own] == 1).all()
    assert (there >= 0).all(), "nothing is assumed where a modality is shared"
    for name in ("lone", "own"):
        assert (there[kind == name] > 0).mean() < 0.03
    for at, ratio in [
        ((batch == "a") & (kind == "shared"), 0.5),
        ((batch == "b") & (kind == "shared"), 2.0),
        ((batch == "a") & (kind == "other"), 2.0),
        ((batch == "b") & (kind == "other"), 0.5),
    ]:
        assert (there[at] > 0).mean() > 0.97
        assert there[at].mean() == pytest.approx(ratio, rel=0.15)


def test_a_type_of_one_batch_whose_sister_both_have_has_no_counterparts():
    """Its cells go to the sister there, which is near, and come back to the sister here, which is near too."""
    made, kind, batch = world({"a": {"shared": 100, "sister": 150, "other": 150}, "b": {"shared": 150, "other": 100}})
    found = counterparts(source_of(made), ("a", "b"))
    assert (found[kind == "sister", 1] > 0).mean() < 0.1
    for name in ("shared", "other"):
        assert (found[(batch == "a") & (kind == name), 1] > 0).mean() > 0.9
        assert (found[(batch == "b") & (kind == name), 0] > 0).mean() > 0.9


def test_of_two_sisters_of_which_each_batch_has_one_neither_has_counterparts():
    """Nothing nearer arrives: what tells them is that no other kind of cells differs between the batches as they do."""
    common = {f"t{i}": 60 + 10 * i for i in range(5)}
    made, kind, batch = world({"a": {"shared": 100, **common}, "b": {"sister": 80, **common}})
    found, told_apart = room.looked_at(source_of(made), ("a", "b"))
    other = np.arange(len(kind)), np.where(batch == "a", 1, 0)
    there, lone = found[other] > 0, np.isin(kind, ("shared", "sister"))
    assert there[lone].mean() < 0.1 and told_apart[other][kind == "sister"].mean() > 0.9
    assert told_apart[other][~lone].mean() < 0.05 and not told_apart[np.arange(len(kind)), 1 - other[1]].any()
    assert not (told_apart & (found != 0)).any()
    for name in common:
        assert there[kind == name].mean() > 0.95
    both = {"shared": 100, "sister": 80, **common}
    made, kind, batch = world({"a": both, "b": both})
    found, told_apart = room.looked_at(source_of(made), ("a", "b"))
    assert (found[np.arange(len(kind)), np.where(batch == "a", 1, 0)] > 0).mean() > 0.97, "where both have both"
    assert not told_apart.any()


def test_of_three_batches_two_that_have_a_sister_keep_each_other_and_are_told_apart_from_the_third():
    common = {f"t{i}": 60 + 10 * i for i in range(5)}
    cells = {"a": {"shared": 100, **common}, "b": {"sister": 80, **common}, "c": {"shared": 90, **common}}
    made, kind, batch = world(cells)
    found, told_apart = room.looked_at(source_of(made), ("a", "b", "c"))
    of_a, of_c = ((batch == b) & (kind == "shared") for b in ("a", "c"))
    assert (found[of_a, 2] > 0).mean() > 0.9 and (found[of_c, 0] > 0).mean() > 0.9
    assert (found[of_a | of_c, 1] > 0).mean() < 0.1 and told_apart[of_a | of_c, 1].mean() > 0.9
    assert told_apart[kind == "sister"][:, [0, 2]].mean() > 0.9
    assert not told_apart[of_a, 2].any() and not told_apart[of_c, 0].any()


@pytest.mark.parametrize("agrees", [True, False])
def test_who_is_told_apart_is_not_where_those_of_a_third_batch_are_of_both_kinds(agrees):
    """Two kinds, at right angles; cells of the first in batches 0 and 1 are told apart; batch 2 has all, 3 is empty.

    What cells of the other kind in the third batch have says nothing. A cell that has none there is told by those that
    it lies among in the other batch.
    """
    places = [np.repeat(np.eye(2, dtype=np.float32), 6, 0) for _ in range(3)] + [np.zeros((0, 2), np.float32)]
    first = np.arange(12) < 6
    near = [np.ones((len(p), 4), dtype=bool) for p in places]
    told = [np.zeros((len(p), 4), dtype=bool) for p in places]
    told[0][first, 1] = told[1][first, 0] = True
    near[2][first, :2] = agrees
    near[0][0, 2] = False
    out = room._uncontradicted(places, near, told)
    np.testing.assert_array_equal(out[0][:, 1], first & ~np.full(12, agrees))
    np.testing.assert_array_equal(out[1][:, 0], first & ~np.full(12, agrees))
    assert not out[2].any() and sum(o.sum() for o in out) == (0 if agrees else 12)
    assert told[0][first, 1].all(), "what was given stays"


@pytest.mark.parametrize("asked", [0, 1])
def test_what_a_third_batch_says_to_one_of_two_is_true_of_the_other(asked):
    """Of batches 0 and 1 the first alone has counterparts in 2, whose cells are of the kind that the second has."""
    places = [np.repeat(np.eye(2, dtype=np.float32), 6, 0) for _ in range(3)]
    first, other = np.arange(12) < 6, 1 - asked
    near = [np.zeros((12, 3), dtype=bool) for _ in places]
    told = [np.zeros((12, 3), dtype=bool) for _ in places]
    told[0][:, 1] = told[1][:, 0] = True
    near[asked][first, 2] = near[2][first, other] = True
    out = room._uncontradicted(places, near, told)
    np.testing.assert_array_equal(out[asked][:, other], ~first)
    np.testing.assert_array_equal(out[other][:, asked], ~first)


@pytest.mark.parametrize("modality", ["atac", "protein"])
def test_of_peaks_and_proteins_sisters_are_not_told_by_their_profiles(modality):
    """A protein outside a batch's panel is 0 in all its cells, and peaks say too little."""
    cells = {"shared": 100, **{f"t{i}": 60 + 10 * i for i in range(4)}}
    other = {"sister": 100, **{f"t{i}": 60 + 10 * i for i in range(4)}}
    made, _, _ = world({"a": cells, "b": other}, {"a": (modality,), "b": (modality,)})
    _, told_apart = room.looked_at(source_of(made), ("a", "b"))
    assert not told_apart.any()


def test_levels_to_compare_kinds_by_are_those_of_the_features_that_vary_most(monkeypatch):
    made, _, _ = world({"a": {"s": 60, "t": 60}, "b": {"s": 60, "t": 60}})
    matrix = source_of(made).matrices["rna"]
    monkeypatch.setattr(room, "N_FEATURES", 7)
    found = room.leading(matrix, 10)
    levels = room._levels(found, matrix, [np.arange(40), np.arange(130, 150)])
    assert [x.shape for x in levels] == [(40, 7), (20, 7)]
    both = found.normalised[np.r_[0:40, 130:150]].toarray()
    most = np.sort(np.argsort(-both.var(0))[:7])
    np.testing.assert_allclose(np.concatenate(levels), both[:, most], rtol=1e-5)


def kinds_of(sizes: list[int]) -> tuple:
    """Cells that only walk among those of their own kind, which are as many as told, and steps from kind to kind."""
    code = np.repeat(np.arange(len(sizes)), sizes)
    walk = (code[:, None] == code).astype(np.float32)
    walk /= walk.sum(1, keepdims=True)
    return sisters._Kinds(np.eye(len(sizes))[code], sparse.csr_matrix(walk), walk, *np.zeros((3, len(code)))), walk


@pytest.mark.parametrize(
    ("sizes", "which", "told"),
    [([40, 40, 40], 2, True), ([40, 40, 40], 0, True), ([150, 30], 0, False), ([150, 30], 1, False)],
)
def test_a_profile_is_odd_by_what_it_differs_in_beyond_all_other_kinds_and_beyond_chance(sizes, which, told):
    """Where one kind of cells is most of what is left, nobody knows what a lab does to all."""
    random = np.random.default_rng(0)
    (one, walk), (two, _) = kinds_of(sizes), kinds_of(sizes)
    profile = random.gamma(2.0, 1.0, (len(sizes), 50))
    lab = np.exp(0.8 * random.standard_normal(50))
    code = np.repeat(np.arange(len(sizes)), sizes)
    changed = profile.copy()
    changed[which, :7] *= 3
    steps_across = (sparse.csr_matrix(walk), sparse.csr_matrix(walk))

    def odd(there: np.ndarray, scatter: float) -> list[list[float]]:
        levels = [p[code] * random.gamma(1 / scatter, scatter, (len(code), 50)) for p in (profile, there * lab)]
        found = sisters.odd((one, two), steps_across, (levels[0], levels[1]))
        return [[float(f[code == k].mean()) for k in range(len(sizes))] for f in found]

    nobody = [[0.0] * len(sizes)] * 2
    assert odd(profile, 0.01) == nobody, "a lab's factors on all kinds are no difference of kinds"
    assert odd(profile, 1.0) == nobody, "nothing is told from noise"
    assert odd(changed, 0.01) == [[float(told and k == which) for k in range(len(sizes))]] * 2


def test_the_noise_of_a_profile_is_that_of_as_many_cells():
    """1/2 sum share x var(log ratio), of which each profile has its part: 1/2 sum share x variance / cells / mean^2."""
    random = np.random.default_rng(1)
    mean, n = random.gamma(2.0, 1.0, 400) + 0.5, 64
    levels = random.poisson(mean * 10, (n, 400)) / 10
    found = sisters._Profile.of(np.full((1, n), 1 / n), levels)
    share = mean / mean.sum()
    assert found.noise[0] == pytest.approx(0.5 * (share * (mean / 10) / n / mean**2).sum(), rel=0.15)
    assert np.allclose(np.exp(found.log[0]), found.share[0] + sisters.FAINT / 400)


def test_a_labs_shift_does_not_hide_counterparts_and_without_types_in_common_there_are_none():
    made, kind, batch = world(TWO, lab=0.8)
    there = counterparts(source_of(made), ("a", "b"))[batch == "a", 1]
    assert (there[kind[batch == "a"] == "shared"] > 0).mean() > 0.9
    made, kind, batch = world({"a": {"s": 150, "t": 150}, "b": {"u": 150, "v": 150}}, lab=0.8)
    found = counterparts(source_of(made), ("a", "b"))
    assert (found[np.arange(len(kind)), np.where(batch == "a", 1, 0)] > 0).mean() < 0.05


@pytest.mark.parametrize("few", [{"shared": 20, "other": 10}, {"shared": 25, "other": 15, "own": 12}])
def test_a_batch_of_few_cells(few):
    """30 cells, and 5 per cent of all with a rare type of its own."""
    made, kind, batch = world({"a": {"shared": 500, "other": 300, "lone": 150}, "b": few})
    found = counterparts(source_of(made), ("a", "b"))
    here = batch == "b"
    matched = found[here, 0] > 0
    assert matched[kind[here] != "own"].mean() > 0.9
    assert matched[kind[here] == "own"].mean() < 0.1 if "own" in few else True
    assert (found[(batch == "a") & (kind == "lone"), 1] > 0).mean() < 0.05
    for name in ("shared", "other"):
        here = (batch == "a") & (kind == name)
        assert found[here, 1].mean() == pytest.approx(few[name] / here.sum(), rel=0.35)


def test_one_kind_of_cells_alone_has_counterparts():
    """A batch of one type has no other to be told from."""
    made, kind, batch = world({"a": {"t": 200}, "b": {"t": 100}, "c": {"t": 150, "u": 150}})
    found = counterparts(source_of(made), ("a", "b", "c"))
    assert (found[batch == "a", 1] > 0).mean() > 0.9
    assert (found[(batch == "c") & (kind == "u")][:, :2] > 0).mean() < 0.05


def test_batches_that_share_no_modality_are_assumed_to_be_alike_and_a_second_modality_is_asked():
    sets = {"a": ("rna",), "b": ("atac", "protein"), "c": ("protein",)}
    cells = {"a": {"s": 100, "t": 100}, "b": {"s": 150, "u": 150}, "c": {"s": 100, "t": 300}}
    made, kind, batch = world(cells, sets)
    found = counterparts(source_of(made), ("a", "b", "c"))
    assert np.allclose(found[batch == "a"], [1, -1.5, -2])
    assert np.allclose(found[batch == "b"][:, 0], -200 / 300) and np.allclose(found[batch == "c"][:, 0], -0.5)
    assert (found[(batch == "b") & (kind == "s"), 2] > 0).mean() > 0.95
    assert (found[(batch == "b") & (kind == "u"), 2] > 0).mean() < 0.05
    assert (found[batch == "b", 2] >= 0).all()


def test_cells_without_the_first_modality_ask_those_of_their_batch_that_have_it():
    """ATAC alone would say that a type has counterparts of which RNA knows better."""
    two = ("rna", "atac")
    made, kind, batch = world({"a": {"s": 150, "t": 150}, "b": {"s": 150, "u": 150}}, {"a": two, "b": two})
    x = made["atac"].X.toarray()
    lookalike = np.flatnonzero(kind[made.obs_names.get_indexer(made["atac"].obs_names)] == "t")
    x[lookalike] = x[batch[made.obs_names.get_indexer(made["atac"].obs_names)] == "b"][150:][:150]
    made["atac"].X = sparse.csr_matrix(x)
    lone = np.arange(len(kind)) % 3 == 0
    made.mod["rna"] = made["rna"][~lone[made.obs_names.get_indexer(made["rna"].obs_names)]].copy()
    with mudata.set_options(pull_on_update=False):
        made.update()
    where = pd.Index(made.obs_names).get_indexer([f"c{i}" for i in range(len(kind))])
    found = counterparts(source_of(made), ("a", "b"))[where]
    assert (found[lone & (kind == "t"), 1] > 0).mean() < 0.05
    assert (found[lone & (kind == "s") & (batch == "a"), 1] > 0).mean() > 0.95
    atac = made.copy()
    del atac.mod["rna"]
    with mudata.set_options(pull_on_update=False):
        atac.update()
    where = pd.Index(atac.obs_names).get_indexer([f"c{i}" for i in range(len(kind))])
    assert (counterparts(source_of(atac), ("a", "b"))[where][lone & (kind == "t"), 1] > 0).mean() > 0.9


def test_a_modality_that_part_of_a_batch_measured_stands_for_all_of_it():
    made, kind, batch = world(
        {"a": {"s": 200, "t": 200}, "b": {"s": 200, "t": 200}}, {"a": ("rna",), "b": ("rna", "atac")}
    )
    keep = made["rna"].obs_names[(batch == "a") | (np.arange(len(batch)) % 2 == 0)]
    made.mod["rna"] = made["rna"][keep].copy()
    with mudata.set_options(pull_on_update=False):
        made.update()
    found = counterparts(source_of(made), ("a", "b"))
    here = made.obs["batch"].to_numpy() == "a"
    assert found[here, 1].mean() == pytest.approx(1.0, rel=0.1), "half of b has RNA, but b is as large as a"
    lone = np.setdiff1d(made.obs_names, made["rna"].obs_names)
    assert np.allclose(found[made.obs_names.get_indexer(lone), 0], -1.0)


def test_batches_that_were_not_asked_for_have_none():
    made, kind, batch = world(TWO)
    found = counterparts(source_of(made), ("a",))
    assert (found[batch == "b"] == 0).all() and (found[batch == "a"] == 1).all()


def test_cells_that_are_not_looked_at_ask_their_nearest_and_change_nothing():
    made, kind, batch = world(TWO)
    among = np.arange(len(kind)) % 4 > 0
    found = counterparts(source_of(made), ("a", "b"), among=among)
    x = made["rna"].X.toarray()
    x[~among] = x[~among][:, ::-1]
    made["rna"].X = sparse.csr_matrix(x)
    again = counterparts(source_of(made), ("a", "b"), among=among)
    assert found[among].tobytes() == again[among].tobytes() and (found[~among] != again[~among]).any()
    there = found[np.arange(len(kind)), np.where(batch == "a", 1, 0)]
    for name, matched in (("shared", True), ("lone", False)):
        assert ((there > 0) == matched)[~among & (kind == name)].mean() > 0.95


def test_of_many_cells_some_are_looked_at_and_the_others_ask_these(monkeypatch):
    made, kind, batch = world(TWO)
    source = source_of(made)
    whole = counterparts(source, ("a", "b"))
    assert whole.tobytes() == counterparts(source, ("a", "b")).tobytes()
    monkeypatch.setattr(room, "N_CELLS", 300)
    some = counterparts(source, ("a", "b"))
    assert some.tobytes() == counterparts(source, ("a", "b")).tobytes() != whole.tobytes()
    assert ((some > 0) == (whole > 0)).mean() > 0.95
    for name in ("shared", "other"):
        here = (batch == "a") & (kind == name)
        assert some[here, 1].mean() == pytest.approx(whole[here, 1].mean(), rel=0.25)


def test_counterparts_are_found_by_one_thread(monkeypatch):
    """A checkpoint's identity holds them: sums of shares may not be added up in another order."""
    made, _, _ = world(TWO)
    seen, whole = set(), room._masses

    def masses(*arguments):
        seen.update(pool["num_threads"] for pool in threadpool_info())
        seen.add(torch.get_num_threads())
        return whole(*arguments)

    monkeypatch.setattr(room, "_masses", masses)
    torch.set_num_threads(2)
    with threadpool_limits(2):
        room.looked_at(source_of(made), ("a", "b"))
        assert 2 in {pool["num_threads"] for pool in threadpool_info()}, "control, and given back"
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert seen and seen <= {0, 1}


def test_a_checkpoint_belongs_to_its_counterparts(mosaic):
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI
    from multivi_nf.training.checkpoint.run import Keeping
    from multivi_nf.training.fit import Training
    from multivi_nf.training.progress import Reporter
    from multivi_nf.training.settings import settings_for

    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=2)
    parts, one = [], torch.ones(mosaic.n_obs, 2)
    another, told = one.clone(), torch.zeros(mosaic.n_obs, 2, dtype=torch.bool)
    another[3, 1] = 0
    for found, apart in ((one, None), (another, None), (another, told), (one.clone(), None)):
        data = MosaicData(mosaic, model)
        data.counterparts, data.told_apart = found, apart
        roles, how = np.full(data.n_cells, "train"), settings_for(100, kl_warmup=1)
        run = Training(model, data, roles, how, torch.device("cpu"), Reporter(quiet=True), Keeping())
        parts.append(run.identity()["data"])
    for changed in parts[1:3]:
        assert {k for k in changed if parts[0][k] != changed[k]} == {"counterparts"}
    assert parts[1] != parts[2] and parts[3] == parts[0]


def test_training_looks_at_its_own_cells_once_and_not_where_there_is_nothing_to_integrate(monkeypatch, mosaic):
    from multivi_nf.training import MultiVI, fit, train

    seen = []

    def looked(source, batches, *, among, seed):
        seen.append((tuple(batches), among, seed))
        return room.looked_at(source, batches, among=among, seed=seed)

    monkeypatch.setattr(fit, "looked_at", looked)
    how = {"max_epochs": 1, "device": "cpu", "quiet": True, "seed": 3}
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=2)
    train(model, mosaic, **how)
    ((batches, among, seed),) = seen
    split = model.split.set_index("cell")["split"].loc[mosaic.obs_names]
    assert batches == ("a", "b") and seed == 3 and (among == (split == "train").to_numpy()).all()
    train(MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=2, batch_integration=0), mosaic, **how)
    mosaic.obs["batch"] = "one"
    train(MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=2), mosaic, **how)
    assert len(seen) == 1
