"""Labels are transferred where hidden labels say that they can be, and with probabilities that come true."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from multivi_nf.errors import InputError
from multivi_nf.latent.label_probabilities import Line
from multivi_nf.latent.label_transfer import transfer_labels


def blobs(n: int, apart: float, types: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) places around centres, and the type of each cell."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(types, size=n)
    return (rng.normal(size=(types, 4)) * apart)[kind] + rng.normal(size=(n, 4)), kind


def table(labels: np.ndarray, **columns) -> pd.DataFrame:
    return pd.DataFrame({"type": labels, **columns}, index=[f"c{i}" for i in range(len(labels))])


def test_labels_go_to_the_nearest_labelled_cells_and_given_ones_stay():
    latent, kind = blobs(900, 6)
    truth, known = np.array(["A", "B", "C"])[kind], np.arange(900) % 3 == 0
    gaps = np.array([None, "Unknown", "nan", "", "unassigned"], dtype=object)[np.arange(900) % 5]
    found = transfer_labels(latent, table(np.where(known, truth, gaps)), "type")
    assert (found.label[known] == truth[known]).all() and (found.probability[known] == 1).all()
    given = pd.Series(found.label).notna().to_numpy()
    assert given[~known].mean() > 0.98 and (found.label[given] == truth[given]).mean() > 0.99
    assert found.record["n_labelled"] == 300 and found.record["labels"] == ["A", "B", "C"]


@pytest.mark.parametrize("apart", [0.4, 0.8, 2.0])
def test_probabilities_come_true(apart):
    latent, kind = blobs(3000, apart, seed=1)
    truth, known = np.array(["A", "B", "C"])[kind], np.random.default_rng(2).random(3000) < 0.5
    found = transfer_labels(latent, table(np.where(known, truth, None)), "type")
    rows = ~known & pd.Series(found.label).notna().to_numpy()
    right, p = found.label[rows] == truth[rows], found.probability[rows]
    bins = np.array_split(np.argsort(p), 8)
    assert np.mean([abs(right[b].mean() - p[b].mean()) for b in bins]) < 0.06
    checked = found.record["checked"][""]
    assert checked["ece"] < 0.05 and checked["brier"] < checked["brier_prior"]


def test_labels_that_are_chance_are_not_transferred():
    latent, _ = blobs(800, 5)
    rng = np.random.default_rng(3)
    labels = np.where(rng.random(800) < 0.5, rng.choice(["A", "B"], 800), None)
    found = transfer_labels(latent, table(labels), "type")
    unknown = pd.isna(pd.Series(labels)).to_numpy()
    assert pd.isna(pd.Series(found.label[unknown])).all() and np.isnan(found.probability[unknown]).all()
    assert found.record["n_unknown"] == {"at chance": int(unknown.sum())}
    assert "no better than the labels' frequencies" in found.record["notes"][0]


@pytest.mark.parametrize(("labels", "said"), [(["A"] * 40, "one label (A)"), (["A"], "one labelled cell")])
def test_one_label_or_one_labelled_cell_says_nothing(labels, said):
    latent, _ = blobs(100, 3)
    found = transfer_labels(latent, table(np.array([*labels, *[None] * (100 - len(labels))], dtype=object)), "type")
    assert pd.isna(pd.Series(found.label[len(labels) :])).all() and np.isnan(found.probability[len(labels) :]).all()
    assert said in found.record["notes"][0]


def test_no_label_out_of_support_nor_for_a_type_that_the_labels_lack():
    latent, kind = blobs(1200, 8, types=4, seed=4)
    truth, known = np.array(["A", "B", "C", "D"])[kind], np.arange(1200) % 3 == 0
    known &= truth != "D"
    outside = np.zeros(1200, bool)
    outside[np.flatnonzero(~known & (truth == "A"))[:20]] = True
    found = transfer_labels(latent, table(np.where(known, truth, None)), "type", outside=outside)
    unknown = pd.isna(pd.Series(found.label)).to_numpy()
    assert unknown[outside].all() and unknown[truth == "D"].mean() > 0.95
    assert unknown[(truth != "D") & ~outside].mean() < 0.05
    assert found.record["n_unknown"]["out of support"] == 20


def test_cells_that_share_no_modality_with_labels_need_pairs():
    latent, kind = blobs(1200, 5, seed=5)
    truth, group = np.array(["A", "B", "C"])[kind], np.arange(1200) % 3
    has = {"has_rna": group != 1, "has_atac": group != 0}
    labels = np.where(group == 0, truth, None)
    unpaired = np.isin(group, (0, 1))
    views = {
        "rna": np.where(has["has_rna"][:, None], latent, np.nan),
        "atac": np.where(has["has_atac"][:, None], latent, np.nan),
    }
    whole = table(labels, **has)
    found = transfer_labels(latent, whole, "type", views)
    assert (found.label[group == 1] == truth[group == 1]).mean() > 0.97, "pairs tell that ATAC cells can be labelled"
    # the same, but the two views of a pair have nothing to do with each other: labels of ATAC cells are chance
    rng = np.random.default_rng(6)
    shuffled = {"rna": views["rna"], "atac": latent[rng.permutation(1200)]}
    shuffled["atac"][~has["has_atac"]] = np.nan
    found = transfer_labels(latent, whole, "type", shuffled)
    assert pd.isna(pd.Series(found.label[group == 1])).all() and found.record["n_unknown"]["at chance"] == 400
    # no pairs at all: nothing tells
    some = {m: v[unpaired] for m, v in views.items()}
    found = transfer_labels(latent[unpaired], whole[unpaired], "type", some)
    assert pd.isna(pd.Series(found.label[group[unpaired] == 1])).all()
    assert found.record["n_unknown"] == {"not checked": 400} and "pairs would" in found.record["notes"][0]


def test_views_are_checked_on_pairs_kept_from_training():
    rng = np.random.default_rng(8)
    latent, kind = blobs(1500, 4, seed=8)
    truth, group = np.array(["A", "B", "C"])[kind], np.arange(1500) % 3
    held = rng.random(1500) < 0.3
    has = {"has_rna": group != 1, "has_atac": group != 0}
    # the ATAC view of pairs that were trained on is right, that of others is noise
    atac = np.where(held[:, None] | (group == 1)[:, None], latent[rng.permutation(1500)], latent)
    views = {"rna": latent, "atac": np.where(has["has_atac"][:, None], atac, np.nan)}
    whole = table(np.where(group == 1, None, truth), **has)
    blind = transfer_labels(latent, whole, "type", views).record["checked"]["atac"]
    found = transfer_labels(latent, whole, "type", views, held=held & (group == 2))
    assert blind["accuracy"] > 0.7 and found.record["checked"]["atac"]["accuracy"] < 0.5
    assert found.record["n_unknown"] == {"at chance": 500}


def test_labels_are_checked_between_batches_where_several_have_them():
    rng = np.random.default_rng(7)
    latent, kind = blobs(900, 5, seed=7)
    batch = np.arange(900) % 3
    # in each batch the types lie elsewhere: within a batch neighbours are right, between batches chance
    latent = latent + (rng.normal(size=(3, 4)) * 60)[batch]
    truth = np.array(["A", "B", "C"])[kind]
    found = transfer_labels(latent, table(np.where(batch < 2, truth, None), batch=batch.astype(str)), "type")
    fine = transfer_labels(
        latent, table(np.where(np.arange(900) % 2 == 0, truth, None), batch=np.repeat("x", 900)), "type"
    )
    assert found.record["checked"][""]["accuracy"] < fine.record["checked"][""]["accuracy"] - 0.2


def test_a_line_in_the_logit_recovers_probabilities():
    rng = np.random.default_rng(13)
    share = rng.uniform(0.2, 0.99, 20_000)
    true = 1 / (1 + np.exp(-(-0.5 + 0.6 * np.log(share / (1 - share)))))
    line = Line.fit(share, rng.random(20_000) < true)
    assert (line.level, line.slope) == (pytest.approx(-0.5, abs=0.05), pytest.approx(0.6, abs=0.05))
    p = line.probabilities(np.array([[0.5, 0.3, 0.2]]))
    assert p[0, 0] == pytest.approx(1 / (1 + np.exp(0.5)), abs=0.02)
    assert p.sum() == pytest.approx(1) and p[0, 1] / p[0, 2] == pytest.approx(1.5)


def test_thirty_right_labels_are_not_certainty():
    line = Line.fit(np.linspace(0.6, 0.9, 30), np.ones(30, bool))
    assert 0.9 < line.probabilities(np.array([[0.9, 0.1]])).max() < 0.995


def test_a_column_without_labels_is_refused_and_one_without_gaps_told():
    latent, kind = blobs(60, 3)
    with pytest.raises(InputError, match="no cell has a value"):
        transfer_labels(latent, table(np.array([None, "Unknown", "NA"] * 20, dtype=object)), "type")
    found = transfer_labels(latent, table(kind.astype(str)), "type")
    assert (found.probability == 1).all() and "no label was transferred" in found.record["notes"][0]
