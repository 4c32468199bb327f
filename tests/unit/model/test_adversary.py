from __future__ import annotations

import math

import pytest
import torch

from multivi_nf.model.adversary import Classifier, Contest, balanced, batch_contest, modality_contest
from multivi_nf.model.formulas import FORMULAS


def test_classes_count_the_same_whatever_their_size():
    z, label = torch.randn(10, 2), torch.tensor([0] * 8 + [1] * 2)
    contest = balanced(z, label, 3)
    assert float(contest.weight[:8].sum()) == pytest.approx(0.5)
    assert float(contest.weight[8:].sum()) == pytest.approx(0.5)


def test_one_class_is_nothing_to_tell_apart():
    assert balanced(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), 2) is None
    assert batch_contest(torch.randn(3, 2), torch.tensor([-1, -1, 1]), 2) is None
    assert modality_contest(torch.randn(3, 2, 2), torch.tensor([[True, False]] * 3)) is None


def test_only_paired_cells_are_shown_by_default():
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    z = torch.arange(16.0).view(4, 2, 2)
    contest = modality_contest(z, present)
    assert contest.label.tolist() == [0, 1, 0, 1]
    assert torch.equal(contest.z, z[[0, 0, 3, 3], [0, 1, 0, 1]])


def test_each_side_moves_only_its_own():
    torch.manual_seed(0)
    classifier = Classifier(2, 2)
    z = torch.randn(6, 2, requires_grad=True)
    contest = balanced(z, torch.tensor([0, 1] * 3), 2)
    classifier.fool(contest).backward()
    assert z.grad is not None
    assert all(p.grad is None for p in classifier.parameters())
    z.grad = None
    classifier.loss(contest).backward()
    assert z.grad is None
    assert all(p.grad is not None for p in classifier.parameters())


def test_losses_are_the_cross_entropies_written_out():
    torch.manual_seed(1)
    classifier, z, label = Classifier(2, 3), torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    contest = balanced(z, label, 3)
    p = torch.softmax(classifier(z), 1)
    assert torch.isclose(classifier.loss(contest), -torch.stack([p[i, k].log() for i, k in enumerate(label)]).mean())
    assert torch.isclose(classifier.fool(contest), -p.log().mean())
    wrong = [p[i, [j for j in range(3) if j != k]].log().mean() for i, k in enumerate(label)]
    assert torch.isclose(classifier.fool(contest, FORMULAS["scvi"]), -torch.stack(wrong).mean())


def test_fooling_is_best_where_the_classifier_is_undecided():
    classifier = Classifier(2, 2)
    with torch.no_grad():
        for p in classifier.parameters():
            p.zero_()
    contest = Contest(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), torch.full((4,), 0.25))
    assert float(classifier.fool(contest)) == pytest.approx(math.log(2))
    with torch.no_grad():
        classifier.net[-1].bias[0] = 3.0
    assert float(classifier.fool(contest)) > math.log(2)


def test_a_classifier_learns_what_can_be_told_apart_and_its_accuracy_says_so():
    torch.manual_seed(2)
    label = torch.tensor([0] * 90 + [1] * 10)
    contest = balanced(torch.randn(100, 2) + 4.0 * label.unsqueeze(1), label, 2)
    classifier = Classifier(2, 2)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=0.03)
    for _ in range(60):
        optimiser.zero_grad()
        classifier.loss(contest).backward()
        optimiser.step()
    assert float(classifier.accuracy(contest)) > 0.95
