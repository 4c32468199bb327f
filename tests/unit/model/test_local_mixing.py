from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from multivi_nf.model.encoding import Noise
from multivi_nf.model.local_mixing import (
    AT_FIRST,
    CONTENT,
    FLOOR,
    HEARD,
    REFRESH,
    SHARPNESS,
    SURE_FLOOR,
    LocalMixing,
    chance,
    divergence,
    neighbourhood,
    penalty,
    sides,
    strangers,
)
from multivi_nf.model.loss import SOON, Objective, Weights, comparisons, mixing_terms


def two_clouds(n: int, gap: float, *, share: float = 0.5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 3) float64 means of two groups at a distance, and the group of each."""
    generator = torch.Generator().manual_seed(seed)
    group = (torch.arange(n) < share * n).long()
    return torch.randn(n, 3, generator=generator, dtype=torch.float64) + gap * group.unsqueeze(1), group


def by_hand(mean: torch.Tensor, side: torch.Tensor) -> list[float]:
    """L_i with loops, from the page: p_i, pi_i and the floor."""
    n, found = len(mean), []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        d = {j: float((mean[i] - mean[j]).square().sum()) for j in others}
        s = sorted(d.values())[min(5, n - 1) - 1]
        w = {j: math.exp(-2 * d[j] / s) for j in others}
        p = sum(w[j] for j in others if side[j] == side[i]) / sum(w.values())
        pi = sum(bool(side[j] == side[i]) for j in others) / (n - 1)
        if p <= pi or pi == 1:
            found.append(0.0)
            continue
        q = max(1 - p, FLOOR * (1 - pi))
        own = pi * math.log(pi / (1 - q)) if pi else 0.0
        found.append(own + (1 - pi) * math.log((1 - pi) / q))
    return found


@pytest.mark.parametrize(("n", "share"), [(9, 0.4), (4, 0.5), (30, 0.1), (6, 1 / 6)])
def test_the_penalty_is_that_of_the_page(n, share):
    mean, group = two_clouds(n, 0.8, share=share)
    found, _ = penalty(neighbourhood(mean), group.bool())
    assert found.tolist() == pytest.approx(by_hand(mean, group.bool()), rel=1e-9, abs=1e-12)
    assert float(found.max()) > 0


def test_three_points_on_a_line():
    """Points at 0, 1 and 2 of sides A, A, B: d^2 1 and 4; the width is the second neighbour's."""
    weight = neighbourhood(torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64))
    near = math.exp(-2 / 4) / (math.exp(-2 / 4) + math.exp(-2))
    assert weight[0].tolist() == pytest.approx([0, near, 1 - near])
    found, _ = penalty(weight, torch.tensor([True, True, False]))
    expected = 0.5 * math.log(0.5 / near) + 0.5 * math.log(0.5 / (1 - near))
    assert float(found[0]) == pytest.approx(expected)
    assert float(found[2]) == 0, "whoever is alone on its side has only others around it"


def test_gradients_agree_with_finite_differences_through_both_ends():
    mean, group = two_clouds(14, 0.6)
    scale = neighbourhood_scale(mean)

    def value(z: torch.Tensor) -> torch.Tensor:
        square = torch.cdist(z, z).square()
        itself = torch.eye(len(z), dtype=torch.bool)
        weight = torch.softmax((-2 * square / scale).masked_fill(itself, -math.inf), 1)
        return penalty(weight, group.bool())[0].mean()

    z = mean.clone().requires_grad_()
    (ours,) = torch.autograd.grad(penalty(neighbourhood(z), group.bool())[0].mean(), z)
    for i, k in [(0, 0), (3, 1), (9, 2), (13, 0)]:
        step = torch.zeros_like(mean)
        step[i, k] = 1e-6
        slope = float(value(mean + step) - value(mean - step)) / 2e-6
        assert float(ours[i, k]) == pytest.approx(slope, rel=1e-4, abs=1e-9)
    assert float(ours.abs().sum()) > 0


def neighbourhood_scale(mean: torch.Tensor) -> torch.Tensor:
    """(n, 1) squared distance of the fifth neighbour, which the gradient takes as given."""
    return torch.cdist(mean, mean).square().sort(1).values[:, 5:6]


def test_gradcheck_of_the_divergence():
    own = torch.tensor([0.5, 0.7, 0.9, 0.96], dtype=torch.float64, requires_grad=True)
    expected = torch.tensor([0.6, 0.5, 0.8, 0.95], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: divergence(p, expected), own)


def test_who_has_no_counterpart_is_left_alone():
    """Far apart all neighbours are of the own side: the penalty is at its height and pulls nobody."""
    mean, group = two_clouds(40, 30.0)
    z = mean.requires_grad_()
    cost, free = penalty(neighbourhood(z), group.bool())
    assert not free.any()
    assert float(cost.detach().min()) > 0.3
    (pull,) = torch.autograd.grad(cost.mean(), z)
    assert float(pull.abs().max()) < 1e-12


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_step_down_the_gradient_mixes_sides_also_of_5_and_95_per_cent(share):
    torch.manual_seed(0)
    mean, group = two_clouds(200, 1.0, share=share)
    start = float(penalty(neighbourhood(mean), group.bool())[0].mean())
    z = mean.clone().requires_grad_()
    for _ in range(150):
        (pull,) = torch.autograd.grad(penalty(neighbourhood(z), group.bool())[0].mean(), z)
        z = (z - 20 * pull).detach().requires_grad_()
    assert float(penalty(neighbourhood(z), group.bool())[0].mean().detach()) < 0.7 * start


def test_a_side_of_95_per_cent_is_not_below_its_floor_when_mixed():
    """An absolute floor of 0.15 would never let cells of a large side feel anything: 5 % is all they can have."""
    own, expected = torch.tensor([0.97]).requires_grad_(), torch.tensor([0.95])
    divergence(own, expected).sum().backward()
    assert float(own.grad) > 0


def test_one_side_costs_and_pulls_nothing():
    mean, _ = two_clouds(20, 1.0)
    z = mean.requires_grad_()
    cost = penalty(neighbourhood(z), torch.ones(20, dtype=torch.bool))[0].sum()
    (pull,) = torch.autograd.grad(cost, z)
    assert float(cost.detach()) == 0 and bool((pull == 0).all())


def test_equal_means_are_finite():
    z = torch.zeros(12, 3, requires_grad=True)
    cost = penalty(neighbourhood(z), torch.arange(12) % 2 == 0)[0].mean()
    (pull,) = torch.autograd.grad(cost, z)
    assert math.isfinite(float(cost)) and bool(pull.isfinite().all())


def planted(labs: list[int], sizes: list[float], within: float = 0.9) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow of batches that mix fully inside their lab and leave it with probability 1 - `within`."""
    lab, mass = torch.tensor(labs), torch.tensor(sizes, dtype=torch.float64)
    rows = []
    for b in range(len(labs)):
        own = torch.where(lab == lab[b], mass, 0.0)
        every = mass / mass.sum()
        rows.append(mass[b] * (within * own / own.sum() + (1 - within) * every))
    return torch.stack(rows), mass


@pytest.mark.parametrize("sizes", [[1.0] * 16, [1.0 + i for i in range(16)], [30.0] + [0.5] * 15])
def test_the_two_labs_of_many_batches_are_the_sides(sizes):
    labs = [0, 1] * 8
    side = sides(*planted(labs, sizes))
    assert len({(lab, bool(s)) for lab, s in zip(labs, side)}) == 2, "each lab lies on one side"


def test_two_batches_are_their_own_sides_and_mixed_ones_have_none():
    assert sides(*planted([0, 1], [3.0, 1.0])).sum() == 1
    assert sides(*planted([0, 1], [3.0, 1.0], within=0.0)).sum() == 0
    assert sides(torch.zeros(3, 3), torch.zeros(3)).sum() == 0


def test_a_small_odd_batch_does_not_hide_two_labs_that_mix_little():
    """Batch 0 of 1 % never mixes, which may be right for good; the labs of the others mix a little."""
    labs = [2] + [0] * 5 + [1] * 5
    flow, mass = planted(labs, [0.1] + [1.0] * 10, within=0.8)
    flow[0] = 0
    flow[0, 0] = 0.1
    side = sides(flow, mass)
    assert len(set(side[1:6].tolist())) == len(set(side[6:].tolist())) == 1
    assert side[1] != side[6]


def test_running_sums_find_planted_labs_from_means():
    """Six batches of two labs a distance apart, one of them 3 % of the cells; cells of unknown batch are not there."""
    generator = torch.Generator().manual_seed(0)
    mixing = LocalMixing({"joint": (1, 6)})
    share = torch.tensor([0.3, 0.2, 0.03, 0.2, 0.17, 0.1])
    for _ in range(2 * REFRESH):
        batch = torch.multinomial(share, 128, replacement=True, generator=generator)
        mean = torch.randn(128, 3, generator=generator) + 2.0 * (batch % 2).unsqueeze(1)
        batch[:10] = -1
        mixing.charge("joint", mean, batch, note=True)
        mixing.step()
    side = mixing.sums["joint"].side.tolist()
    assert side[0] == side[2] == side[4] != side[1] == side[3] == side[5]
    assert float(mixing.sums["joint"].table.sum()) == pytest.approx(118 * (1 - 0.95**20) / 0.05)


def test_unknown_batches_neither_pay_nor_count():
    mean, group = two_clouds(40, 1.0)
    mixing = LocalMixing({"joint": (1, 2)})
    mixing.sums["joint"].side = torch.tensor([False, True])
    known, _ = mixing.charge("joint", mean, group, note=False)
    stray = torch.cat([mean, mean[:7] + 0.1])
    code = torch.cat([group, torch.full((7,), -1)])
    z = stray.clone().requires_grad_()
    cost, _ = mixing.charge("joint", z, code, note=False)
    assert float(cost) == pytest.approx(float(known), rel=1e-12) and float(cost) > 0
    (pull,) = torch.autograd.grad(cost, z)
    assert bool((pull[40:] == 0).all()) and float(pull[:40].abs().sum()) > 0


def test_the_sums_go_through_a_checkpoint_and_a_step_not_taken_leaves_none():
    mean, group = two_clouds(40, 1.0)
    shapes = {"joint": (1, 2), "measured": (3, 4)}
    mixing, again = LocalMixing(shapes), LocalMixing(shapes)
    mixing.charge("joint", mean, group, note=True)
    mixing.forget()
    mixing.step()
    assert float(mixing.sums["joint"].flow.sum()) == 0
    mixing.charge("joint", mean, group, note=True)
    mixing.charge("measured", mean, group + 1, torch.arange(40) % 3, note=True)
    mixing.step()
    assert float(mixing.sums["joint"].flow.sum()) == pytest.approx(40)
    again.load_state_dict(mixing.state_dict())
    one, two = mixing.state_dict(), again.state_dict()
    assert list(one) == list(two) and all(torch.equal(one[k], two[k]) for k in one)
    assert bool(one["joint.side"].any()) and int(one["steps"]) == 2


def test_parts_of_a_step_add_up_before_it_is_taken():
    mixing = LocalMixing({"joint": (1, 2)})
    for seed in (1, 2):
        mixing.charge("joint", *two_clouds(20, 1.0, seed=seed), note=True)
    assert float(mixing.sums["joint"].table.sum()) == 0
    mixing.step()
    assert float(mixing.sums["joint"].table.sum()) == 40


def charged(made, minibatch, generator, mixing):
    return Objective(made, minibatch, Noise(generator(3))).terms(
        Weights(1.0, made.config.alignment_weight, 0.0), mixing
    )


def test_what_is_compared(model, config):
    assert comparisons(model().config) == {"joint": (1, 3), "leading": (1, 3), "measured": (3, 8)}
    assert comparisons(model(("rna",)).config) == {"joint": (1, 3)}
    assert comparisons(model(batch_integration=0).config) == {"measured": (3, 8)}
    assert comparisons(model(batch_integration=0, modality_integration=0).config) == {}
    assert comparisons(model(compat="scvi").config) == {}


def test_one_batch_has_nothing_to_integrate(model, config):
    cells = dict.fromkeys(("rna", "atac", "protein"), (30,))
    made = model(batches=("a",), batch_cells=cells)
    assert comparisons(made.config) == {"measured": (1, 8)}
    assert made.config.leader is None and not made.config.integrates_batches


def test_the_modality_that_most_batches_measured_leads(model):
    assert model().config.leader == 0
    cells = {"rna": (20, 0, 0), "atac": (20, 10, 5), "protein": (0, 10, 5)}
    assert model(batch_cells=cells).config.leader == 1
    assert model(batch_integration=0).config.leader is None


def test_the_strength_is_a_share_of_the_reconstruction(model, minibatch, generator):
    everyone = list(range(24))
    cells = minibatch({"rna": everyone, "atac": everyone[::2]}, 24)
    made = model(("rna", "atac"), dropout=0.0, modality_integration=0.5, batch_integration=2.0).double().eval()
    mixing = LocalMixing(comparisons(made.config))
    for sums in mixing.sums.values():
        sums.side = torch.arange(len(sums.side)) % 3 == 1
        sums.table += 1
    with torch.no_grad():
        without, with_it = charged(made, cells, generator, None), charged(made, cells, generator, mixing)
    t = with_it.terms
    assert float(t["batch_mixing"]) > 0 and float(t["modality_mixing"]) > 0
    q = made.encode(cells)
    posteriors = made.stack(cells.n_cells, cells, q)
    joint = mixing.charge("joint", made.fuse(cells, q).mean, cells.batch, note=False)
    leading = mixing.charge("leading", posteriors.mean[:, 0], cells.batch, note=False)
    pattern = torch.where(torch.arange(24) % 2 == 0, 3, 1)
    measured = mixing.charge("measured", made.fuse(cells, q).mean, pattern, cells.batch, note=False)
    assert torch.isclose(t["batch_mixing"], (joint[0] + leading[0]) / 2)
    assert torch.isclose(t["modality_mixing"], measured[0])
    over = [float((cost - content).clamp(min=0)) for cost, content in (joint, leading, measured)]
    expected = 0.05 * (t["rna"] + t["atac"]) * (over[0] + over[1] + 0.5 * over[2])
    assert torch.isclose(t["integration"], expected) and float(expected) > 0
    assert torch.isclose(with_it.total, without.total + expected)
    assert torch.equal(without.terms["elbo_loss"], t["elbo_loss"])
    with torch.no_grad():
        weights = Weights(0.25, made.config.alignment_weight, 0.0)
        warming = Objective(made, cells, Noise(generator(3))).terms(weights, mixing)
        plain = Objective(made, cells, Noise(generator(3))).terms(weights)
    assert torch.isclose(warming.total - plain.total, 0.25 * expected)


def test_a_step_pays_at_the_strength_that_acts(model, minibatch, generator):
    cells = minibatch({"rna": list(range(24))}, 24)
    made = model(("rna",), dropout=0.0, batch_dropout=0.0).double().train()
    mixing = LocalMixing(comparisons(made.config))
    mixing.sums["joint"].side = torch.tensor([True, False, False])
    mixing.sums["joint"].dual[1] = 0.3
    t = charged(made, cells, generator, mixing).terms
    assert torch.isclose(t["integration"], 0.3 * 0.05 * t["rna"] * t["batch_mixing"])
    assert float(t["integration"]) > 0


def test_strength_rises_where_groups_part_and_falls_where_they_mix(monkeypatch):
    monkeypatch.setitem(CONTENT, "alone", 1.2)
    mixing = LocalMixing({"joint": (1, 2)})
    seen = []
    for gap in (0.7, 0.0):
        for step in range(250):
            mixing.charge("joint", *two_clouds(200, gap, seed=step), note=True)
            mixing.step()
        seen.append(float(mixing.strength("joint")))
    assert seen[0] > 0.9 and seen[1] < 0.3


def test_what_follows_from_the_batch_is_not_charged_to_modalities():
    """Batch a measured RNA only, batch b RNA and ATAC: patterns differ as batches do, and nothing is to be mixed."""
    mean, batch = two_clouds(60, 2.0)
    mixing = LocalMixing({"measured": (2, 4)})
    mixing.sums["measured"].side = torch.tensor([False, False, False, True])
    mixing.sums["measured"].table = torch.tensor([[0, 30, 0, 0], [0, 0, 0, 30.0]], dtype=torch.float64)
    z = mean.clone().requires_grad_()
    cost, _ = mixing.charge("measured", z, 1 + 2 * batch, 1 - batch, note=True)
    assert float(cost.detach()) > 0.3, "control: with the batches' tables exchanged it is"
    cost, _ = mixing.charge("measured", z, 1 + 2 * batch, batch, note=True)
    (pull,) = torch.autograd.grad(cost, z)
    assert float(cost.detach()) == 0 and bool((pull == 0).all())
    flow = mixing.pending["measured"][:4] / 2
    assert sides(flow, flow.sum(1), flow).sum() == 0, "as expected: no sides"
    # control: patterns that part inside a batch are charged
    pattern = 1 + 2 * (mean[:, 0] - 2.0 * batch > 0).long()
    mixing.load_state_dict(LocalMixing({"measured": (2, 4)}).state_dict())
    for _ in range(2):
        cost, _ = mixing.charge("measured", mean, pattern, batch, note=True)
        mixing.step()
    assert float(cost) > 0.02


def test_only_encoders_learn_from_it(model, minibatch, generator):
    everyone = list(range(24))
    cells = minibatch({"rna": everyone, "atac": everyone[::2]}, 24)
    made = model(("rna", "atac"), dropout=0.0, alignment="none", adversary="none").double().eval()
    mixing = LocalMixing(comparisons(made.config))
    mixing.sums["joint"].side = mixing.sums["leading"].side = torch.tensor([True, False, False])
    gradients = []
    for given in (None, mixing):
        made.zero_grad()
        charged(made, cells, generator, given).total.backward()
        gradients.append({n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None})
    changed = {n for n in gradients[0] if not torch.allclose(gradients[0][n], gradients[1][n], rtol=1e-12, atol=1e-14)}
    assert changed and all(name.startswith("encoders.") for name in changed)


def test_evaluation_leaves_the_running_sums_alone(model, minibatch, generator):
    cells = minibatch({"rna": list(range(24))}, 24)
    made = model(("rna",)).eval()
    mixing = LocalMixing(comparisons(made.config))
    charged(made, cells, generator, mixing)
    assert float(mixing.pending["joint"].sum()) == 0
    charged(made.train(), cells, generator, mixing)
    assert float(mixing.pending["joint"][6].sum()) == 24


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_chance_is_what_random_sides_cost(share):
    mean = torch.randn(400, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = neighbourhood(mean)
    generator = torch.Generator().manual_seed(1)
    costs = [penalty(weight, torch.rand(400, generator=generator) < share)[0].mean() for _ in range(20)]
    assert float(torch.stack(costs).mean()) == pytest.approx(float(chance(weight)), rel=0.5)


@pytest.mark.parametrize("name", ["joint", "leading", "measured"])
def test_what_it_is_content_with_falls_as_types_form_and_in_evaluation_is_that_of_the_end(name):
    mean, group = two_clouds(60, 0.6)
    first, ratios = AT_FIRST.get(name, CONTENT[name]), []
    assert first >= CONTENT[name]
    for asked, times in ((0.0, first), (0.5, (first + CONTENT[name]) / 2), (1.0, CONTENT[name])):
        mixing = LocalMixing({"joint": (1, 2), "leading": (1, 2), "measured": (1, 2)})
        mixing.sums[name].side = torch.tensor([False, True])
        mixing.asked = asked
        ended = mixing.charge(name, mean, group, note=False)
        cost, content = mixing.charge(name, mean, group, note=True)
        at_chance = float(chance(neighbourhood(mean, SHARPNESS[name])))
        assert float(content) == pytest.approx(times * at_chance, rel=1e-9)
        assert float(ended[1]) == pytest.approx(CONTENT[name] * at_chance, rel=1e-9)
        assert float(ended[0]) == float(cost) > 0
        ratios.append(float(mixing.pending[name][-1, 0]) * times)
    assert ratios == pytest.approx([ratios[0]] * 3), "what moves the strength is measured against it"


def test_what_strangers_cost_is_not_hidden_by_what_a_penalty_leaves_over(model, minibatch, generator):
    """Validation charges them in full also where batches mix better than a penalty asks for."""
    everyone = list(range(24))
    plain = minibatch({"rna": everyone}, 24)
    told = torch.nn.functional.one_hot(plain.batch.clamp(min=0), 3) == 0
    cells = replace(plain, counterparts=1.0 - told.float(), told_apart=told)
    made = model(("rna",), dropout=0.0, adversary="none").double().eval()
    q = made.encode(cells)
    posteriors = made.stack(cells.n_cells, cells, q)
    away = strangers(made.fuse(cells, q).mean, cells.batch, cells.counterparts, told, 2.0)
    mixing = LocalMixing(comparisons(made.config))
    mixing.charge = lambda *_, **__: (torch.tensor(0.1), torch.tensor(5.0))
    with torch.no_grad():
        _, pull = mixing_terms(made, cells, posteriors, mixing)
    assert float(pull) == pytest.approx(0.05 * float(away), rel=1e-9) and float(away) > 0.1


def test_what_has_no_counterpart_does_not_keep_the_strength_up():
    """Half of the cells mix; the other half is a type that side True alone has, far away."""
    mixing = LocalMixing({"joint": (1, 2)})
    for step in range(150):
        mean, group = two_clouds(200, 0.0, seed=step)
        alone = torch.arange(200) % 4 == 0
        mixing.charge("joint", mean + 30.0 * alone.unsqueeze(1), torch.where(alone, 1, group), note=True)
        mixing.step()
    assert bool(mixing.sums["joint"].side.any()) and float(mixing.strength("joint")) < 0.3


def paired(n: int, groups: int, group: torch.Tensor, other: float = 1.0) -> torch.Tensor:
    """(n, groups) counterparts: 1 of the own group, `other` of each other."""
    own = torch.nn.functional.one_hot(group, groups).double()
    return own + other * (1 - own)


def two_sides(groups: int = 2) -> LocalMixing:
    mixing = LocalMixing({"joint": (1, groups)})
    mixing.sums["joint"].side = torch.arange(groups) == 1
    return mixing


def test_cells_without_counterparts_neither_pay_nor_count_nor_are_pulled():
    mean, group = two_clouds(40, 1.0)
    alone = torch.arange(40) % 5 == 0
    theirs = paired(40, 2, group)
    theirs[alone] = torch.nn.functional.one_hot(group[alone], 2).double()
    z = mean.clone().requires_grad_()
    cost, content = two_sides().charge("joint", z, group, counterparts=theirs, note=False)
    (pull,) = torch.autograd.grad(cost, z)
    assert bool((pull[alone] == 0).all()) and bool((pull[~alone].abs().sum(1) > 0).any())
    some, same = two_sides().charge("joint", mean[~alone], group[~alone], counterparts=theirs[~alone], note=False)
    assert float(cost.detach()) == pytest.approx(0.8 * float(some), rel=1e-12) and float(some) > 0
    assert float(content) == pytest.approx(0.8 * float(same), rel=1e-12)
    nobody = torch.nn.functional.one_hot(group, 2).double()
    assert float(two_sides().charge("joint", mean, group, counterparts=nobody, note=False)[0]) == 0


def test_what_is_expected_are_a_cells_own_counterparts():
    """One of the other side for each three of the own: shares of 3/4 and 1/4, whatever the sides' sizes are."""
    mean, group = two_clouds(30, 0.6)
    found, _ = two_sides().charge("joint", mean, group, counterparts=paired(30, 2, group, 1 / 3), note=False)
    own = (neighbourhood(mean) * (group.unsqueeze(1) == group)).sum(1)
    by_hand = divergence(own, torch.full((30,), 0.75, dtype=torch.float64), SURE_FLOOR).mean()
    assert float(found) == pytest.approx(float(by_hand), rel=1e-9) and float(found) > 0
    half, _ = two_sides().charge("joint", mean, group, counterparts=paired(30, 2, group), note=False)
    assert float(half) > float(found), "more counterparts, more to ask for"


def test_known_counterparts_pull_from_where_assumed_ones_do_not():
    mean, group = two_clouds(40, 2.6, seed=3)
    own = (neighbourhood(mean) * (group.unsqueeze(1) == group)).sum(1)
    between = (1 - own > 0.5 * SURE_FLOOR) & (1 - own < 0.5 * FLOOR)
    assert int(between.sum()) > 3
    pulls = []
    for sign in (1.0, -1.0):
        z = mean.clone().requires_grad_()
        theirs = paired(40, 2, group, sign)
        cost, _ = two_sides().charge("joint", z, group, counterparts=theirs, note=False)
        pulls.append(torch.autograd.grad(cost, z)[0])
    plain = mean.clone().requires_grad_()
    cost = penalty(neighbourhood(plain), group.bool(), torch.full((40,), 0.5, dtype=torch.float64))[0].mean()
    assert torch.allclose(pulls[1], torch.autograd.grad(cost, plain)[0]), "assumed: as without looking"
    assert float(pulls[0].norm()) > 1.5 * float(pulls[1].norm())


def test_gradients_with_counterparts_agree_with_finite_differences():
    mean, group = two_clouds(14, 0.6)
    theirs = paired(14, 2, group, 0.7)
    theirs[[2, 9]] = torch.nn.functional.one_hot(group[[2, 9]], 2).double()
    kept = [i for i in range(14) if i not in (2, 9)]
    scale = neighbourhood_scale(mean[kept])

    def value(z: torch.Tensor) -> torch.Tensor:
        z, side = z[kept], group[kept].bool()
        square = torch.cdist(z, z).square()
        weight = torch.softmax((-2 * square / scale).masked_fill(torch.eye(12, dtype=torch.bool), -math.inf), 1)
        own = (weight * (side.unsqueeze(1) == side)).sum(1)
        return divergence(own, torch.full((12,), 1 / 1.7, dtype=torch.float64), SURE_FLOOR).sum() / 14

    z = mean.clone().requires_grad_()
    (ours,) = torch.autograd.grad(two_sides().charge("joint", z, group, counterparts=theirs, note=False)[0], z)
    for i, k in [(0, 0), (3, 1), (10, 2), (13, 0), (2, 1)]:
        step = torch.zeros_like(mean)
        step[i, k] = 1e-6
        slope = float(value(mean + step) - value(mean - step)) / 2e-6
        assert float(ours[i, k]) == pytest.approx(slope, rel=1e-4, abs=1e-9)
    assert float(ours.abs().sum()) > 0


def test_batches_that_mix_as_much_as_their_counterparts_allow_have_no_sides():
    """Groups 0 and 1 share nothing and lie apart; with the sizes as expectation they would be the sides."""
    mean, group = two_clouds(80, 4.0)
    lone = torch.nn.functional.one_hot(group, 2).double()
    lone[group == 0, 1] = lone[group == 1, 0] = 1e-6
    for theirs, split in ((lone, 0), (None, 1)):
        mixing = LocalMixing({"joint": (1, 2)})
        mixing.charge("joint", mean, group, counterparts=theirs, note=True)
        mixing.step()
        assert int(mixing.sums["joint"].side.sum()) == split


def test_of_several_modalities_counterparts_tell_who_takes_part_alone():
    mean, group = two_clouds(40, 0.6)
    alone = torch.arange(40) % 5 == 0
    theirs = paired(40, 2, group, 0.2)
    theirs[alone] = torch.nn.functional.one_hot(group[alone], 2).double()
    mixing = LocalMixing({"joint": (1, 2), "leading": (1, 2)})
    for name in ("joint", "leading"):
        mixing.sums[name].side = torch.tensor([False, True])
        found, _ = mixing.charge(name, mean, group, counterparts=theirs, note=False)
        plain, _ = mixing.charge(name, mean[~alone], group[~alone], note=False)
        assert float(found) == pytest.approx(0.8 * float(plain), rel=1e-9) and float(plain) > 0


def apart(group: torch.Tensor, alone: torch.Tensor, told: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """(n, 2) counterparts, none of `alone` cells in the other group, and (n, 2) who is told apart (None: they)."""
    one, two = torch.ones(len(group), 2), torch.zeros(len(group), 2, dtype=torch.bool)
    one[alone, 1 - group[alone]] = 0
    told = alone if told is None else told
    two[told, 1 - group[told]] = True
    return one, two


def test_strangers_are_charged_by_their_share_of_each_neighbourhood():
    """Loops, from the page: of cells told apart in both groups, those of the other."""
    mean, group = two_clouds(20, 0.3)
    alone = torch.arange(20) % 3 == 0
    found = strangers(mean, group, *apart(group, alone), 2.0)
    weight, costs = neighbourhood(mean, 2.0), []
    for i in range(20):
        u = sum(float(weight[i, j]) for j in range(20) if alone[i] and alone[j] and group[i] != group[j])
        c = -math.log(1 - u)
        costs.append(c if c < HEARD else HEARD + math.log(1 + c - HEARD))
    assert float(found) == pytest.approx(sum(costs) / 20, rel=1e-6) and max(costs) > 0.1


def test_strangers_are_those_of_which_neither_has_counterparts_and_one_is_told_apart():
    mean, group = two_clouds(20, 0.3)
    all_, nobody = torch.ones(20, dtype=torch.bool), torch.zeros(20, dtype=torch.bool)
    assert float(strangers(mean, group, *apart(group, group == 0), 2.0)) == 0, "the others have counterparts here"
    assert float(strangers(mean, group, *apart(group, all_, nobody), 2.0)) == 0, "that none are found is no evidence"
    both, either = (float(strangers(mean, group, *apart(group, all_, t), 2.0)) for t in (all_, group == 0))
    assert either == both > 0


def test_unknown_cells_are_nobodys_strangers():
    mean, group = two_clouds(20, 0.3)
    none, told = apart(group, torch.ones(20, dtype=torch.bool))
    code = torch.where(torch.arange(20) % 2 == 0, -1, group)
    z = mean.clone().requires_grad_()
    cost = strangers(z, code, none, told, 2.0)
    (pull,) = torch.autograd.grad(cost, z)
    known = float(strangers(mean[1::2], group[1::2], none[1::2], told[1::2], 2.0))
    assert float(cost.detach()) == pytest.approx(known)
    assert float(cost.detach()) > 0 and (pull[::2] == 0).all() and (pull[1::2] != 0).any()
    assert float(strangers(mean[:2], group[:2], none[:2], told[:2], 2.0)) == 0


def test_gradients_of_strangers_agree_with_finite_differences():
    """All but the width of the kernel, through which no gradient flows: held where it is, the cost changes so."""
    mean, group = two_clouds(16, 0.5)
    alone = torch.arange(16) % 2 == 0
    scale = torch.cdist(mean, mean).square().fill_diagonal_(math.inf).kthvalue(5, dim=1).values

    def at(z: torch.Tensor) -> torch.Tensor:
        square = (z.unsqueeze(1) - z).square().sum(2).masked_fill(torch.eye(16, dtype=torch.bool), math.inf)
        weight = torch.softmax(-2 * square / scale.unsqueeze(1), 1)
        none = alone & alone.unsqueeze(1) & (group.unsqueeze(1) != group)
        cost = -(1 - (weight * none).sum(1)).log()
        return torch.where(cost < HEARD, cost, HEARD + (cost - HEARD).clamp(min=0).log1p()).mean()

    z = mean.clone().requires_grad_()
    (ours,) = torch.autograd.grad(strangers(z, group, *apart(group, alone), 2.0), z)
    step, numeric = 1e-6, torch.zeros_like(mean)
    for i in range(16):
        for k in range(3):
            change = torch.zeros_like(mean)
            change[i, k] = step
            numeric[i, k] = (at(mean + change) - at(mean - change)) / (2 * step)
    assert torch.allclose(ours, numeric, rtol=1e-5, atol=1e-8) and float(ours.abs().max()) > 1e-3


@pytest.mark.parametrize("gap", [4.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cells_among_strangers_alone_are_pushed_as_well_and_not_without_end(gap, dtype):
    """Cell 0 of one group lies among six of the other, of another kind; all else is far off."""
    mean = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    mean[7:] += gap
    group = ((torch.arange(30) > 0) & (torch.arange(30) < 7)).long()
    one, two = torch.ones(30, 2), torch.zeros(30, 2, dtype=torch.bool)
    one[:7, :] = torch.nn.functional.one_hot(group[:7], 2).float()
    two[:7] = one[:7] == 0
    z = mean.clone().requires_grad_()
    cost = strangers(z, group, one, two, 2.0)
    (pull,) = torch.autograd.grad(cost, z)
    assert float(neighbourhood(mean)[0, 1:7].sum()) > 0.95, "control"
    assert HEARD / 30 < float(cost.detach()) < 3 * HEARD / 30 + 0.3 and bool(pull.isfinite().all())
    assert 1e-3 < float(pull[0].norm()) < 10


def test_whose_others_are_all_strangers_pays_nothing():
    mean, group = two_clouds(7, 0.3, share=1 / 7)
    lone = torch.ones(7, dtype=torch.bool)
    z = mean.clone().requires_grad_()
    cost = strangers(z, group, *apart(group, lone), 2.0)
    (pull,) = torch.autograd.grad(cost, z)
    weight, of_one = neighbourhood(mean), int((group == 1).nonzero()[0])
    u = [float(weight[i, of_one]) for i in range(7) if i != of_one]
    assert float(cost.detach()) == pytest.approx(sum(-math.log(1 - x) for x in u) / 7, rel=1e-9)
    assert bool(pull.isfinite().all()) and int((group == 1).sum()) == 1


def test_steps_down_the_gradient_part_strangers():
    mean, group = two_clouds(60, 0.0)
    alone = torch.arange(60) % 2 == 0
    told, z = apart(group, alone), mean.clone()
    for _ in range(200):
        z.requires_grad_()
        (pull,) = torch.autograd.grad(strangers(z, group, *told, 2.0), z)
        z = (z - 2.0 * pull).detach()
    before, after = (float(strangers(x, group, *told, 2.0)) for x in (mean, z))
    assert after < 0.2 * before
    nearest = torch.cdist(z, z).fill_diagonal_(math.inf).argmin(1)
    assert not (alone & alone[nearest] & (group[nearest] != group)).any()


def test_strangers_cost_a_step_as_soon_as_mixing_acts_and_only_encoders_learn_from_it(model, minibatch, generator):
    """Before there are sides nothing else is charged."""
    everyone = list(range(24))
    plain = minibatch({"rna": everyone, "atac": everyone[::2]}, 24)
    told = torch.nn.functional.one_hot(plain.batch.clamp(min=0), 3) == 0
    none = 1.0 - told.float()
    plain = replace(plain, counterparts=none)
    cells = replace(plain, told_apart=told)
    made = model(("rna", "atac"), dropout=0.0, batch_integration=2.0, modality_integration=0.0, adversary="none")
    made = made.double().eval()
    q = made.encode(cells)
    posteriors = made.stack(cells.n_cells, cells, q)
    joint = strangers(made.fuse(cells, q).mean, cells.batch, none, told, 2.0)
    leading = strangers(posteriors.mean[:, 0], cells.batch, none, told, 2.0)
    for strength, acts in ((0.0, 0.0), (SOON / 2, 0.5), (0.5, 1.0)):
        mixing = LocalMixing(comparisons(made.config))
        for sums in mixing.sums.values():
            sums.dual[1] = strength
        made.train()
        with torch.no_grad():
            _, pull = mixing_terms(made, cells, posteriors, mixing)
        assert float(pull) == pytest.approx(acts * float((0.05 * (joint + leading)).detach()))
    assert float(joint.detach()) > 0
    made.eval()
    gradients = []
    for given in (plain, cells):
        made.zero_grad()
        charged(made, given, generator, LocalMixing(comparisons(made.config))).total.backward()
        gradients.append({n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None})
    changed = {n for n in gradients[0] if not torch.allclose(gradients[0][n], gradients[1][n], rtol=1e-12, atol=1e-14)}
    assert changed and all(name.startswith("encoders.") for name in changed)
