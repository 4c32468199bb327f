import functools

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

from multivi_nf.errors import InputError
from multivi_nf.export.normalise import log_normalised
from multivi_nf.export.peak_genes import parse_peaks
from multivi_nf.regulation import links
from multivi_nf.regulation.background import peak_properties
from multivi_nf.regulation.link_tables import COLUMNS, bedpe, links_table
from multivi_nf.regulation.pairs import Surroundings, match_genes, near_pairs
from multivi_nf.regulation.units import Units, make_units
from multivi_nf.simulate import Options, simulated_mosaic


def peaks_at(*places):
    table = pd.DataFrame(places, columns=["chrom", "start", "end"])
    return table.set_axis([f"{c}:{a}-{b}" for c, a, b in places])


def sites_at(*places):
    return pd.DataFrame(places, columns=["gene", "chrom", "pos", "strand"])


# ------------------------------------------------------------------ genes


def test_genes_are_found_by_id_with_or_without_version_then_by_symbol():
    var = pd.DataFrame({"symbol": ["A", "B", "TWICE", "TWICE"]}, index=["ENSG1.4", "ENSG2", "ENSG3", "ENSG4"])
    places = pd.DataFrame(
        {
            "chrom": "chr1",
            "pos": [10, 20, 30, 40, 50],
            "strand": "+",
            "id": ["ENSG1", "", "ENSG3", "", "X"],
            "symbol": ["other", "B", "TWICE", "TWICE", "none"],
        }
    )
    found = match_genes(var, places)
    # a symbol of two genes tells neither; an id does
    assert found[["gene", "pos"]].to_numpy().tolist() == [[0, 10], [1, 20], [2, 30]]


def test_symbols_as_index_and_several_starts_of_a_gene():
    places = pd.DataFrame({"chrom": "chr1", "pos": [90, 10], "strand": "-", "symbol": ["A", "A"]})
    found = match_genes(pd.DataFrame(index=["A", "B"]), places)
    assert found[["gene", "pos"]].to_numpy().tolist() == [[0, 10], [0, 90]]


# ------------------------------------------------------------------ pairs


def test_pairs_reach_the_window_and_distances_read_along_the_gene():
    peaks = peaks_at(
        ("chr1", 0, 100), ("chr1", 1000, 1100), ("chr1", 1500, 1600), ("chr1", 2101, 2200), ("chr2", 1000, 1100)
    )
    found = near_pairs(sites_at((0, "chr1", 1050, "+"), (1, "chr1", 1100, "-")), peaks, window=1001)
    pairs = {(g, p): d for g, p, d in zip(found.gene, found.peak, found.distance)}
    assert pairs == {(0, 0): -951, (0, 1): 0, (0, 2): 450, (1, 0): 1001, (1, 1): 1, (1, 2): -400, (1, 3): -1001}


def test_of_several_starts_the_nearest_counts():
    found = near_pairs(sites_at((0, "chr1", 100, "+"), (0, "chr1", 900, "+")), peaks_at(("chr1", 700, 800)), 5000)
    assert found.distance.tolist() == [-101]


# ------------------------------------------------------------------ correlations


@pytest.mark.parametrize("density", [0.05, 0.6])
def test_correlations_are_those_of_deviations_from_the_stratum(density, monkeypatch):
    monkeypatch.setattr(links, "TILE", 3)
    rng = np.random.default_rng(0)
    stratum = np.repeat([0, 1, 2], [30, 20, 1])
    genes = rng.normal(size=(51, 7)) + stratum[:, None]
    peaks = sparse.random(51, 9, density, format="csr", random_state=1)
    found = np.concatenate([values for _, values in links.correlations(genes, peaks, stratum)])
    apart = [
        part - np.array([part[stratum == s].mean(axis=0) for s in range(3)])[stratum]
        for part in (genes, peaks.toarray())
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.nan_to_num((apart[0].T @ apart[1]) / np.outer(*(np.linalg.norm(part, axis=0) for part in apart)))
    assert np.allclose(found, expected, atol=1e-5)


def test_values_of_metacells_are_those_of_summed_counts(monkeypatch):
    monkeypatch.setattr(links, "BLOCK", 4)
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(0.5, (30, 11)))
    units = Units(pd.Index(range(30)), np.repeat(np.arange(10), 3), np.zeros(10, int))
    chosen = np.array([0, 2, 3, 5, 8, 10])
    expected = log_normalised(units.summed(counts), "atac").toarray()[:, chosen]
    assert np.allclose(links.peak_values(counts, units, chosen), expected, atol=1e-5)


def test_z_is_against_far_peaks_and_a_null_value_does_not_widen_its_own_row():
    others = np.array([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 5.0, 9.9]])
    far = np.append(np.ones(12, bool), False)[None]
    z, number, null = links._against(np.array([2.0]), others, far, nulls=12)
    own = others[0, :12]
    assert number[0] == 12 and z[0] == pytest.approx((2 - own.mean()) / own.std())
    rest = own[:11]
    assert null[-1] == pytest.approx((5 - rest.mean()) / rest.std(), rel=1e-4)  # 14, where with itself it were 3.2
    assert len(null) == 12


def test_p_is_the_share_of_the_null_as_far_out():
    p = links.tail_share(np.array([0.0, -3.0, 10.0, np.nan]), np.array([1.0, -2.0, 3.0, 4.0]))
    assert p[:3].tolist() == [1.0, 3 / 5, 1 / 5] and np.isnan(p[3])


# ------------------------------------------------------------------ known links


@functools.cache
def simulated(seed):
    options = Options(cells=2600, genes=400, peaks=4000, regulation=True, atac_fragments=4000.0, rna_counts=3000.0)
    mosaic, truth = simulated_mosaic(options.resized(seed=seed))
    rna, atac = mosaic["rna"], mosaic["atac"]
    cells = rna.obs_names.intersection(atac.obs_names)
    counts = sparse.csr_matrix(rna[cells].X), sparse.csr_matrix(atac[cells].layers["counts"])
    genes = truth.genes
    places = pd.DataFrame(
        {
            "chrom": genes["chrom"],
            "pos": genes["position"],
            "strand": genes["strand"],
            "symbol": genes["symbol"],
            "id": genes.index,
        }
    )
    var = rna.var.assign(symbol=genes["symbol"].to_numpy())
    return (
        counts,
        cells,
        mosaic.obs["donor"],
        var,
        places[places["chrom"] != "chrM"],
        parse_peaks(atac.var_names),
        truth,
    )


@functools.cache
def linked(seed, shuffled=False):
    (rna, atac), cells, donor, var, places, peaks, _ = simulated(seed)
    if shuffled:
        atac = atac[np.random.default_rng(9).permutation(len(cells))]
    sites = match_genes(var, places)
    pairs = near_pairs(sites, peaks)
    table, names = peak_properties(
        np.asarray(atac.sum(axis=0)).ravel(), None, (peaks["end"] - peaks["start"]).to_numpy()
    )
    assert names == ["accessibility"]
    units = make_units(cells, None, donor)
    return (
        pairs,
        sites,
        links.peak_gene_links(links.expressed(rna, units), atac, units, Surroundings(pairs, sites, peaks, table)),
    )


def truth_of(seed):
    """Whether each pair is true, whether it is planted."""
    pairs, _, _ = linked(seed)
    truth = simulated(seed)[-1].planted.links
    key = pairs.gene * 1_000_000 + pairs.peak
    of = truth["gene"].to_numpy() * 1_000_000 + truth["peak"].to_numpy()
    return np.isin(key, of), np.isin(key, of[(truth["kind"] == "planted").to_numpy()])


def observed_fdr(called, true):
    return (~true)[called].sum() / max(called.sum(), 1)


def test_planted_links_are_found_at_the_level_asked_for():
    found, believed, number = [], [], []
    for seed in (0, 1, 2):
        table = linked(seed)[2]
        true, planted = truth_of(seed)
        z = table["z"].to_numpy()
        scored = np.isfinite(z) & (planted | ~true)
        assert planted.sum() > 60 and roc_auc_score(planted[scored], z[scored]) >= 0.97
        called = (table["fdr"] <= 0.05).to_numpy()
        number.append(called.sum())
        found.append(observed_fdr(called, true))
        # z read as a normal deviate would not hold the level
        normal = stats.false_discovery_control(2 * stats.norm.sf(np.abs(np.nan_to_num(z)))) <= 0.05
        believed.append(observed_fdr(normal, true))
    assert min(number) >= 3 and sum(number) >= 40
    assert np.mean(found) <= 0.10 < np.mean(believed)


def test_nothing_is_called_between_cells_that_are_not_the_same():
    _, _, table = linked(0, shuffled=True)
    assert (table["fdr"] <= 0.1).sum() == 0


def test_tables_name_sign_and_order():
    _, _, _, var, _, peaks, _ = simulated(0)
    pairs, sites, scores = linked(0)
    scores = scores.assign(imputed_correlation=scores["correlation"] / 2, imputed_z=scores["z"] / 2)
    table = links_table(pairs, scores, var, peaks.index, 0.1)
    assert tuple(table.columns) == COLUMNS
    assert (table["fdr"].diff().dropna() >= 0).all() and table["significant"].sum() == (table["fdr"] <= 0.1).sum()
    assert (np.sign(table["z"]) == table["sign"].map({"+": 1, "-": -1})).all()
    assert np.allclose(table["imputed_z"], table["z"] / 2)
    written = bedpe(table, sites, var, peaks)
    assert len(written) == table["significant"].sum() > 0
    first, link = written.iloc[0], table.iloc[0]
    assert f"{first['#chrom1']}:{first.start1}-{first.end1}" == link.peak and first["name"] == link.symbol
    gap = max(0, first.start1 - first.start2, first.start2 - first.end1 + 1)
    assert gap == abs(link.distance) and first.end2 == first.start2 + 1


def test_imputed_genes_stand_in_a_column_of_their_own():
    (rna, atac), cells, donor, _, _, peaks, _ = simulated(0)
    pairs, sites, observed = linked(0)
    values = log_normalised(rna, "rna").toarray().astype(float)
    values[:, 3] = np.nan
    properties = peak_properties(np.asarray(atac.sum(axis=0)).ravel())[0]
    around = Surroundings(pairs, sites, peaks, properties)
    table = links.peak_gene_links(values, atac, make_units(cells, None, donor), around)
    assert table.loc[pairs.gene == 3, "z"].isna().all()
    both = table["z"].notna().to_numpy() & observed["z"].notna().to_numpy()
    assert np.allclose(table["z"][both], observed["z"][both], atol=1e-3)


def test_too_few_pairs_are_refused():
    (rna, atac), cells, donor, _, _, peaks, _ = simulated(0)
    pairs, sites, _ = linked(0)
    few = make_units(cells[:19], None, donor)
    with pytest.raises(InputError, match="there are 19 cells"):
        around = Surroundings(pairs, sites, peaks, np.zeros((len(peaks), 1)))
        links.peak_gene_links(links.expressed(rna[:19], few), atac[:19], few, around)
