"""Ambient RNA: the share told is the one put in, what is taken out is soup, and counts stay whole."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from multivi_nf.qc.ambient import HIGH, estimate_ambient, remove_ambient, told
from multivi_nf.qc.rna import RnaRules, qc_rna
from multivi_nf.simulate.cells import draw_cells
from multivi_nf.simulate.counts import rna_counts
from multivi_nf.simulate.design import Options
from multivi_nf.simulate.world import build_world

TYPES, OWN = 5, 60  # each type has OWN genes that no other has


def made(share: float, n: int = 600, genes: int = 1000, types: int = TYPES, seed: int = 0, depth: float = 2000):
    """Counts of cells with genes of their own and a known share of soup: (counts, own counts, type of each cell)."""
    rng = np.random.default_rng(seed)
    mean = np.tile(rng.gamma(0.5, 1, genes), (types, 1))
    for k in range(types):
        mean[np.arange(types) != k, k * OWN : (k + 1) * OWN] = 0
    mean /= mean.sum(1, keepdims=True)
    label = rng.integers(0, types, n)
    library = rng.lognormal(np.log(depth), 0.4, n)[:, None]
    own = rng.poisson(mean[label] * (1 - share) * library)
    soup = (mean[label] * library).sum(0)
    counts = own + rng.poisson(soup / soup.sum() * share * library)
    return sparse.csr_matrix(counts.astype(np.int32)), own, label


def absent(label: np.ndarray, genes: int) -> np.ndarray:
    """Cell × gene: whether the cell's type does not have the gene, so that any count of it is ambient."""
    block = np.arange(genes) // OWN
    return (block[None] < TYPES) & (block[None] != label[:, None])


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3])
def test_the_share_is_the_one_put_in(share):
    counts, _, _ = made(share)
    found = estimate_ambient(counts, 0)
    assert found.is_estimate
    assert found.share == pytest.approx(share, rel=0.25)
    assert found.lower < found.share < found.upper
    assert found.upper - found.lower < 0.4 * share + 0.02
    note, warnings = told(found, "s")
    assert note.startswith("ambient RNA: about") and bool(warnings) == (found.share > HIGH)


@pytest.mark.parametrize("share", [0.5, 0.6])
def test_a_high_share_is_told_where_absent_genes_pile_up_at_it(share):
    found = estimate_ambient(made(share, depth=4000)[0], 0)
    assert found.is_estimate and found.share == pytest.approx(share, abs=0.05)


def test_no_soup_at_all_is_a_small_bound():
    found = estimate_ambient(made(0.0)[0], 0)
    assert found.share < 0.01 and told(found, "s")[1] == []


@pytest.mark.parametrize("seed", [0, 2])
def test_types_that_express_the_same_genes_more_or_less_give_a_bound(seed):
    """An organ of like cells: the least of ratios that thin out is no share, whether or not it is below a third."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(2.0, 1, 1000) * np.exp(rng.normal(0, 0.3, (4, 1000)))
    mean /= mean.sum(1, keepdims=True)
    counts = rng.poisson(mean[rng.integers(0, 4, 800)] * 3000)
    found = estimate_ambient(sparse.csr_matrix(counts.astype(np.int32)), seed)
    assert 0.2 < found.share <= 0.4, "a share at which the pile-up of a high share is not asked for"
    assert not found.is_estimate and told(found, "s")[1] == []


@pytest.mark.parametrize("seed", range(3))
def test_cells_that_are_alike_give_no_estimate(seed):
    """Negative control: without a gene that is absent from some cells the share cannot be known, and is not claimed."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.5, 1, 500)
    counts = rng.poisson(mean / mean.sum() * 2000, (300, 500))
    found = estimate_ambient(sparse.csr_matrix(counts.astype(np.int32)), seed)
    assert not found.is_estimate and told(found, "s")[1] == []


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_what_is_taken_out_is_soup(share):
    counts, own, label = made(share)
    found = estimate_ambient(counts, 0)
    kept = remove_ambient(counts, found, 0)
    assert kept.dtype == counts.dtype and kept.shape == counts.shape
    before, after = counts.toarray(), kept.toarray()
    assert (after >= 0).all() and (after <= before).all() and (after.sum(1) > 0).all()
    assert 1 - after.sum() / before.sum() == pytest.approx(found.share, abs=0.01)
    off = absent(label, counts.shape[1])
    assert after[off].sum() < 0.25 * before[off].sum()  # counts that no cell of the type can have
    assert np.minimum(after, own).sum() > (1 - share) * own.sum()  # and more of its own stays than of all counts


def test_removal_is_seeded():
    counts, _, _ = made(0.1)
    found = estimate_ambient(counts, 3)
    assert (remove_ambient(counts, found, 3) != remove_ambient(counts, found, 3)).nnz == 0
    assert (remove_ambient(counts, found, 3) != remove_ambient(counts, found, 4)).nnz > 0


@pytest.fixture(scope="module")
def simulated():
    """One RNA sample of the simulator: counts, its cells (with their ambient share), and its true expression."""
    options = Options(cells=2400, genes=1500, proteins=20, fragments=False, seed=1)
    world = build_world(options)
    group = next(g for g in draw_cells(options) if g.sample.name == "rna_1")
    counts = rna_counts(np.random.default_rng(5), world, group)
    own = world.rna.proportions(group.states[: len(group.cells)], np.full(len(group.cells), group.site))
    return counts, group.cells, own / own.sum(1, keepdims=True)


def soup_left(counts, cells, own, soup) -> float:
    """Least squares of each type's profile on its true one and the soup: the weight of the soup."""
    above, below = 0.0, 0.0
    fit = ~(cells["doublet"] | cells["dying"]).to_numpy()
    for kind in cells["cell_type"].unique():
        rows = (cells["cell_type"] == kind).to_numpy() & fit
        total = counts[rows].sum()
        profile, true = np.asarray(counts[rows].sum(0)).ravel() / total, own[rows].mean(0)
        weight = total / (true + 0.1 * soup)
        above += (weight * (profile - true) * (soup - true)).sum()
        below += (weight * (soup - true) ** 2).sum()
    return above / below


def test_on_the_simulators_known_soup(simulated):
    """All its genes are expressed a little everywhere, so the share is bounded, not claimed; at the known share the
    soup goes."""
    counts, cells, own = simulated
    true = float((cells["ambient"] * cells["rna_library"]).sum() / cells["rna_library"].sum())
    found = estimate_ambient(counts, 0)
    assert not found.is_estimate and found.share > true
    before = soup_left(counts, cells, own, found.soup)
    assert before == pytest.approx(true, abs=0.025)
    after = soup_left(remove_ambient(counts, replace(found, share=true), 0), cells, own, found.soup)
    assert abs(after) < 0.5 * before


def checked(counts: sparse.csr_matrix, **options):
    genes = [f"ENSG{i:011d}" for i in range(counts.shape[1])]
    names = [f"c{i}" for i in range(counts.shape[0])]
    data = ad.AnnData(counts.copy(), pd.DataFrame(index=names), pd.DataFrame({"symbol": genes}, index=genes))
    data.uns["notes"] = []
    return qc_rna(data, "s", RnaRules(**options))


def test_qc_tells_and_takes_out_on_request():
    counts, _, _ = made(0.3)
    plain, soup = checked(counts), checked(counts, ambient="soup")
    facts = plain.summary.ambient
    assert facts.kind == "estimate" and facts.share == pytest.approx(0.3, rel=0.25)
    assert any("ambient" in warning and "--ambient soup" in warning for warning in plain.summary.warnings)
    assert "rna_n_ambient" not in plain.cells.obs
    assert (plain.cells.X != counts[plain.cells.obs_names.str[1:].astype(int)]).nnz == 0
    lost = soup.cells.obs["rna_n_ambient"].to_numpy()
    assert plain.cells.X.sum() - soup.cells.X.sum() == lost.sum() == soup.summary.ambient.removed
    assert lost.sum() / plain.cells.X.sum() == pytest.approx(facts.share, abs=0.01)
    assert soup.cells.obs["rna_n_counts"].equals(plain.cells.obs["rna_n_counts"])


def test_a_bound_alone_takes_nothing_out_and_the_remedy_works(simulated):
    counts = simulated[0]
    left = checked(counts, ambient="soup")
    assert "rna_n_ambient" not in left.cells.obs
    assert "took nothing out" in left.summary.warnings[-1] and "--ambient_share" in left.summary.warnings[-1]
    given = checked(counts, ambient="soup", ambient_share=0.06)
    assert given.cells.obs["rna_n_ambient"].sum() / given.cells.obs["rna_n_counts"].sum() == pytest.approx(
        0.06, abs=0.01
    )


@pytest.mark.parametrize("genes", [1, 5, 30, 70])
@pytest.mark.parametrize("cells", [1, 2, 3, 10, 30, 49, 60])
def test_small_samples_are_told_about_not_crashed_on(cells, genes):
    rng = np.random.default_rng(cells * genes)
    counts = sparse.csr_matrix(rng.poisson(2.0, (cells, genes)).astype(np.int32))
    found = estimate_ambient(counts, 0)
    note, warnings = told(found, "s")
    assert "ambient" in note and warnings == []
    assert not found.is_estimate
    remove_ambient(counts, replace(found, share=0.1), 0)
