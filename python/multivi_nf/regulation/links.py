"""Peaks whose accessibility goes with the expression of a gene near them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.export.markers import fdr
from multivi_nf.export.normalise import log_normalised
from multivi_nf.regulation.background import matched_peaks
from multivi_nf.regulation.units import Units, centred

WINDOW = 250_000
"""bp to either side of a start site."""
FAR = 4
"""Background lies on another chromosome or this many windows away."""
BACKGROUND = 200
NULLS = 10
"""Background pairs a pair that give the distribution of z where nothing is linked."""
MOST_NULLS = 20_000_000
FEWEST_UNITS = 20
FEWEST_CELLS = 10
"""Cells with a count that a gene or a peak needs."""
TILE = 256
"""Genes at a time: 256 × 150,000 peaks are 150 MB."""
BLOCK = 10_000
"""Peaks at a time where counts become dense."""
COLUMNS = (
    "gene", "symbol", "peak", "distance", "correlation", "z", "p", "fdr", "sign", "significant", "background_peaks",
    "imputed_correlation", "imputed_z",
)  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    """Genes and peaks near one another.

    Attributes
    ----------
    gene, peak
        Column of the gene and of the peak in their matrices, sorted by gene.
    distance
        bp from the start site to the peak's nearest base; negative before it as the gene is read, 0 inside of the peak.
    """

    gene: np.ndarray
    peak: np.ndarray
    distance: np.ndarray


def match_genes(var: pd.DataFrame, places: pd.DataFrame) -> pd.DataFrame:
    """Find the start sites of measured genes: by id, else by symbol.

    Parameters
    ----------
    var
        Of `rna`: index of ids or symbols, `symbol` if there is one.
    places
        `chrom`, `pos`, `strand`, `symbol` and, where known, `id`.

    Returns
    -------
    `gene` (row of `var`), `chrom`, `pos`, `strand`; several rows for a gene with several starts. A symbol that several
    measured genes share and that no id tells apart is left out.
    """
    index = var.index.astype(str)
    symbol = (var["symbol"] if "symbol" in var else index.to_series()).astype(str).to_numpy()
    by_id = pd.Series(np.arange(len(var)), index=index.str.replace(r"\.\d+$", "", regex=True))
    by_id = by_id[~by_id.index.duplicated(keep=False)]
    by_symbol = pd.Series(np.arange(len(var)), index=symbol)
    by_symbol = by_symbol[~by_symbol.index.duplicated(keep=False)]
    found = by_symbol.reindex(places["symbol"].astype(str)).to_numpy(float)
    for column in ("symbol", "id"):
        if column in places:
            ids = places[column].astype(str).str.replace(r"\.\d+$", "", regex=True)
            own = by_id.reindex(ids).to_numpy(float)
            found = np.where(np.isfinite(own), own, found)
    table = places[["chrom", "pos", "strand"]].assign(gene=found)
    table = table[np.isfinite(found)].astype({"gene": int}).drop_duplicates()
    return table.sort_values(["gene", "chrom", "pos"], kind="stable").reset_index(drop=True)


def near_pairs(sites: pd.DataFrame, peaks: pd.DataFrame, window: int = WINDOW) -> Pairs:
    """Pair each start site with the peaks that touch the window around it.

    Parameters
    ----------
    sites
        Of :func:`match_genes`, with the peaks' names of chromosomes.
    peaks
        `chrom`, `start`, `end`, 0-based half-open.
    window
        bp to either side.

    Examples
    --------
    >>> import pandas as pd
    >>> sites = pd.DataFrame({"gene": [0], "chrom": ["chr1"], "pos": [2000], "strand": ["+"]})
    >>> peaks = pd.DataFrame({"chrom": ["chr1", "chr1", "chr2"], "start": [0, 1900, 0], "end": [500, 2400, 500]})
    >>> pairs = near_pairs(sites, peaks)
    >>> pairs.peak.tolist(), pairs.distance.tolist()  # one before the start site, one over it
    ([0, 1], [-1501, 0])
    """
    start, last = peaks["start"].to_numpy(), peaks["end"].to_numpy() - 1
    widest = int((last - start).max(initial=0))
    parts: list[pd.DataFrame] = []
    rows_of = peaks.groupby("chrom", sort=False).indices
    for site in sites.itertuples():
        rows = rows_of.get(site.chrom)
        if rows is None:
            continue
        order = rows_of[site.chrom] = rows[np.argsort(start[rows], kind="stable")]
        lo = np.searchsorted(start[order], site.pos - window - widest)
        hi = np.searchsorted(start[order], site.pos + window, side="right")
        here = order[lo:hi]
        gap = np.maximum(0, np.maximum(start[here] - site.pos, site.pos - last[here]))
        here, gap = here[gap <= window], gap[gap <= window]
        before = start[here] > site.pos if site.strand == "-" else last[here] < site.pos
        parts.append(pd.DataFrame({"gene": site.gene, "peak": here, "distance": np.where(before, -gap, gap)}))
    table = pd.concat(parts) if parts else pd.DataFrame({"gene": [], "peak": [], "distance": []}, dtype=int)
    # of several starts of a gene, the nearest
    table = table.iloc[np.argsort(table["distance"].abs().to_numpy(), kind="stable")].drop_duplicates(["gene", "peak"])
    table = table.sort_values(["gene", "peak"], kind="stable")
    return Pairs(*(table[column].to_numpy(np.int64) for column in ("gene", "peak", "distance")))


@dataclass
class Scores:
    """Of each pair: correlation, z against its background, number of background peaks; and z of background pairs."""

    correlation: np.ndarray
    z: np.ndarray
    background: np.ndarray
    null: np.ndarray


def peak_values(atac: sparse.csr_matrix, units: Units, chosen: np.ndarray) -> sparse.csr_matrix | np.ndarray:
    """Normalise counts of peaks over units: ln(1 + per 10,000 of the unit's total over all peaks).

    Returns
    -------
    (n_units, n_chosen) float32: sparse for cells, dense for metacells, which hardly have a zero; made a block of peaks
    at a time, so that nothing of float64 has that size.
    """
    if not units.metacells:
        return log_normalised(atac, "atac")[:, chosen]
    total = units.summed(sparse.csr_matrix(atac.sum(axis=1))).toarray().ravel()
    scale = np.divide(1e4, total, out=np.zeros_like(total), where=total > 0)[:, None]
    by_peak = sparse.csc_matrix(atac)
    values = np.empty((len(units.stratum), len(chosen)), dtype=np.float32)
    for start in range(0, len(chosen), BLOCK):
        block = chosen[start : start + BLOCK]
        values[:, start : start + BLOCK] = np.log1p(units.summed(by_peak[:, block]).toarray() * scale)
    return values


def correlations(
    genes: np.ndarray, peaks: sparse.csr_matrix | np.ndarray, stratum: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Correlate every gene with every peak within strata, a tile of genes at a time.

    Both are taken as deviations from their stratum's mean. A gene's sum of deviations is 0 in every stratum, so the
    product with the peaks' values is the same as with their deviations, and these are never made.

    Parameters
    ----------
    genes
        (n_units, n_genes) values.
    peaks
        (n_units, n_peaks) values, sparse or float32.
    stratum
        (n_units,) numbers.

    Yields
    ------
    Genes of the tile, and (tile, n_peaks) float32 correlations; 0 where a gene or peak does not vary.
    """
    member = sparse.csr_matrix((np.ones(len(stratum), np.float32), (stratum, np.arange(len(stratum)))))
    size = np.asarray(member.sum(axis=1), dtype=np.float64).reshape(-1, 1)
    if sparse.issparse(peaks):
        sums = np.asarray((member.astype(np.float64) @ peaks).todense())
        squares = np.asarray(peaks.multiply(peaks).sum(axis=0), dtype=np.float64).ravel()
        right = sparse.csr_matrix(peaks.T, dtype=np.float32)
    else:
        sums, squares, right = member @ peaks, np.einsum("ij,ij->j", peaks, peaks, dtype=np.float64), peaks
    squares = squares - (np.asarray(sums, dtype=np.float64) ** 2 / size).sum(axis=0)
    scale = np.where(squares > 1e-4, 1 / np.sqrt(np.maximum(squares, 1e-4)), 0).astype(np.float32)
    for first in range(0, genes.shape[1], TILE):
        tile = slice(first, min(first + TILE, genes.shape[1]))
        left = centred(genes[:, tile].astype(np.float64), stratum)
        norm = np.linalg.norm(left, axis=0)
        left = np.divide(left, norm, out=np.zeros_like(left), where=norm > 1e-9).astype(np.float32)
        product = np.ascontiguousarray((right @ left).T) if sparse.issparse(right) else left.T @ right
        product *= scale
        yield tile, product


def score_pairs(
    genes: np.ndarray,
    peaks: sparse.csr_matrix | np.ndarray,
    stratum: np.ndarray,
    pairs: Pairs,
    near: Callable[[int, np.ndarray], np.ndarray],
    alike: np.ndarray,
) -> Scores:
    """Compare each pair's correlation with that of the same gene and far peaks that are like the pair's peak.

    Parameters
    ----------
    genes, peaks, stratum
        See :func:`correlations`.
    pairs
        What is asked for.
    near
        (gene, peaks) → whether each is too near to be background.
    alike
        (n_peaks, n) of :func:`multivi_nf.regulation.background.matched_peaks`.
    """
    n = len(pairs.gene)
    correlation, z = (np.full(n, np.nan, dtype=np.float32) for _ in range(2))
    background, null = np.zeros(n, dtype=np.int32), []
    nulls = min(NULLS, max(1, MOST_NULLS // max(n, 1)))
    bounds = np.searchsorted(pairs.gene, np.arange(genes.shape[1] + 1))
    for tile, values in correlations(genes, peaks, stratum):
        for gene in range(tile.start, tile.stop):
            own = slice(bounds[gene], bounds[gene + 1])
            if own.start == own.stop:
                continue
            row, of_peak = values[gene - tile.start], pairs.peak[own]
            others = alike[of_peak]
            far = ~near(gene, others)
            correlation[own] = row[of_peak]
            z[own], background[own], drawn = _against(row[of_peak], row[others].astype(np.float64), far, nulls)
            null.append(drawn)
    return Scores(correlation, z, background, np.concatenate(null) if null else np.zeros(0, np.float32))


def _against(
    own: np.ndarray, others: np.ndarray, far: np.ndarray, nulls: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare: z of values against those beside them, numbers of these, z of some of these against the rest."""
    number = far.sum(axis=1)
    total = np.where(far, others, 0).sum(axis=1)
    squares = np.where(far, others**2, 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / number
        spread = np.sqrt(np.maximum(squares / number - mean**2, 0))
        z = np.where((number >= 10) & (spread > 0), (own - mean) / spread, np.nan)
        # each of the first few, against the others without it: it must not widen what it is compared with
        rest = (number - 1)[:, None]
        chosen = far & (np.cumsum(far, axis=1) <= nulls) & (number >= 11)[:, None]
        mean = (total[:, None] - others) / rest
        spread = np.sqrt(np.maximum((squares[:, None] - others**2) / rest - mean**2, 0))
        drawn = np.where(chosen & (spread > 0), (others - mean) / spread, np.nan)
    return z.astype(np.float32), number.astype(np.int32), drawn[np.isfinite(drawn)].astype(np.float32)


def tail_share(z: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of background pairs whose |z| is as large: p without a belief in the normal's tails; NaN stays."""
    ordered = np.sort(np.abs(null))
    above = len(ordered) - np.searchsorted(ordered, np.abs(z))
    return np.where(np.isfinite(z), (1 + above) / (1 + len(ordered)), np.nan)


def peak_gene_links(
    rna: sparse.csr_matrix | None,
    atac: sparse.csr_matrix,
    units: Units,
    pairs: Pairs,
    peaks: pd.DataFrame,
    sites: pd.DataFrame,
    properties: np.ndarray,
    *,
    window: int = WINDOW,
    imputed: np.ndarray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate genes and the peaks near them over paired cells, or over cells whose genes were imputed.

    The null of a pair is the correlation of the same gene with up to 200 peaks alike (`properties`) on another
    chromosome or over four windows away. z is the pair's distance from their mean in their standard deviations. Such z
    are not normal (a gene of a rare type goes with every peak of that type), so p is the share of background pairs, of
    all genes, whose z is at least as far from 0, and the FDR is Benjamini and Hochberg's.

    Parameters
    ----------
    rna
        (n_cells, n_genes) counts, cells of `units`; None with `imputed`.
    atac
        (n_cells, n_peaks) counts.
    units
        Cells or metacells, with strata.
    pairs
        Of :func:`near_pairs`.
    peaks
        `chrom`, `start`, `end`.
    sites
        Of :func:`match_genes`.
    properties
        Of :func:`multivi_nf.regulation.background.peak_properties`, of all peaks.
    window
        As of `pairs`.
    imputed
        (n_units, n_genes) mean ln(1 + imputed value), NaN where a gene was not imputed; then it stands for the genes.
    seed
        Of the background.

    Returns
    -------
    A row a pair, in the order of `pairs`: `correlation`, `z`, `p`, `fdr`, `background_peaks`; NaN where a gene or peak
    has counts in fewer than 10 cells or does not vary.

    Raises
    ------
    InputError
        Fewer than 20 cells or metacells, or too few peaks.

    Examples
    --------
    A gene, a peak that opens with it, and forty peaks of another chromosome that do not:

    >>> import numpy as np
    >>> import pandas as pd
    >>> from scipy import sparse
    >>> from multivi_nf.regulation import make_units, near_pairs, peak_properties
    >>> rng = np.random.default_rng(0)
    >>> state = rng.random(300)
    >>> rna = sparse.csr_matrix(rng.poisson(8 * state)[:, None])
    >>> opening = np.where(np.arange(41) == 0, state[:, None], 0.5)
    >>> atac = sparse.csr_matrix((rng.random((300, 41)) < opening).astype(int))
    >>> start = np.arange(41) * 5000
    >>> peaks = pd.DataFrame({"chrom": ["chr1"] + ["chr2"] * 40, "start": start, "end": start + 500})
    >>> sites = pd.DataFrame({"gene": [0], "chrom": ["chr1"], "pos": [2000], "strand": ["+"]})
    >>> cells = pd.Index([f"s:{i}" for i in range(300)])
    >>> units = make_units(cells, None, pd.Series("s", index=cells))
    >>> alike, _ = peak_properties(np.asarray(atac.sum(axis=0)).ravel())
    >>> links = peak_gene_links(rna, atac, units, near_pairs(sites, peaks), peaks, sites, alike)
    >>> bool(links["z"].iloc[0] > 4)
    True
    """
    if len(units.stratum) < FEWEST_UNITS:
        raise InputError(
            f"there are {len(units.stratum)} cells with both RNA and ATAC",
            "no correlation can be told from chance",
            f"give samples with {FEWEST_UNITS} paired cells or more",
        )
    seen = np.asarray((atac > 0).sum(axis=0)).ravel() >= FEWEST_CELLS
    if imputed is None:
        expressed = np.asarray((rna > 0).sum(axis=0)).ravel() >= FEWEST_CELLS
        genes = log_normalised(units.summed(rna), "rna").toarray()
    else:
        expressed = np.isfinite(imputed).all(axis=0)
        genes = np.where(expressed, imputed, 0).astype(np.float32)
    kept_peaks = np.flatnonzero(seen)
    values = peak_values(atac, units, kept_peaks)
    place = np.full(len(peaks), -1)
    place[kept_peaks] = np.arange(len(kept_peaks))
    asked = np.flatnonzero(expressed[pairs.gene] & (place[pairs.peak] >= 0))
    few = Pairs(pairs.gene[asked], place[pairs.peak[asked]], pairs.distance[asked])
    near = _near(sites, peaks.iloc[kept_peaks], FAR * window)
    alike = matched_peaks(properties[kept_peaks], BACKGROUND, seed)
    scores = score_pairs(genes, values, units.stratum, few, near, alike)
    table = pd.DataFrame(
        np.nan, index=range(len(pairs.gene)), columns=["correlation", "z", "p", "fdr", "background_peaks"]
    )
    p = tail_share(scores.z, scores.null)
    for column, found in zip(table, (scores.correlation, scores.z, p, fdr(p), scores.background)):
        table.iloc[asked, table.columns.get_loc(column)] = np.where(np.isfinite(scores.z), found, np.nan)
    return table


def _near(sites: pd.DataFrame, peaks: pd.DataFrame, reach: int) -> Callable[[int, np.ndarray], np.ndarray]:
    code, names = pd.factorize(peaks["chrom"])
    middle = ((peaks["start"] + peaks["end"]) // 2).to_numpy()
    chrom = names.get_indexer(sites["chrom"])
    of_gene = {
        gene: (chrom[rows], sites["pos"].to_numpy()[rows]) for gene, rows in sites.groupby("gene").indices.items()
    }

    def near(gene: int, others: np.ndarray) -> np.ndarray:
        found = np.zeros(others.shape, dtype=bool)
        for at, position in zip(*of_gene[gene]):
            found |= (code[others] == at) & (np.abs(middle[others] - position) <= reach)
        return found

    return near


def links_table(
    pairs: Pairs, scores: pd.DataFrame, var: pd.DataFrame, peaks: pd.Index, level: float, imputed: pd.DataFrame | None
) -> pd.DataFrame:
    """Name genes and peaks and put the best first.

    Returns
    -------
    :data:`COLUMNS`; pairs that neither could be measured nor imputed are left out.
    """
    symbol = (var["symbol"] if "symbol" in var else var.index.to_series()).astype(str).to_numpy()
    table = pd.DataFrame(
        {
            "gene": var.index.astype(str).to_numpy()[pairs.gene], "symbol": symbol[pairs.gene],
            "peak": peaks.astype(str).to_numpy()[pairs.peak], "distance": pairs.distance,
        }
    )  # fmt: skip
    for column in scores:
        table[column] = scores[column].to_numpy()
    table["sign"] = np.select([table["z"] > 0, table["z"] < 0], ["+", "-"], "")
    table["significant"] = (table["fdr"] <= level).to_numpy()
    for column in ("correlation", "z"):
        table[f"imputed_{column}"] = np.nan if imputed is None else imputed[column].to_numpy()
    table = table[np.isfinite(table["z"]) | np.isfinite(table["imputed_z"])]
    table["background_peaks"] = table["background_peaks"].fillna(0).astype(int)
    strength = table["z"].abs().fillna(-1)
    order = np.lexsort((table["peak"], table["gene"], -strength, table["p"].fillna(2), table["fdr"].fillna(2)))
    return table.iloc[order].reset_index(drop=True)[list(COLUMNS)]


def bedpe(links: pd.DataFrame, sites: pd.DataFrame, var: pd.DataFrame, peaks: pd.DataFrame) -> pd.DataFrame:
    """Give the significant links as BEDPE: the peak, the gene's start site nearest to it, name, z, strands.

    Returns
    -------
    `#chrom1`, `start1`, `end1` (peak), `chrom2`, `start2`, `end2` (start site, 1 bp), `name` (symbol), `score` (z),
    `strand1` (.), `strand2` (the gene's), `correlation`, `fdr`.
    """
    own = links[links["significant"]]
    places = peaks.loc[own["peak"]]
    gene = pd.Index(var.index.astype(str)).get_indexer(own["gene"])
    best = []
    of_gene = {gene: (rows["pos"].to_numpy(), rows["strand"].to_numpy()) for gene, rows in sites.groupby("gene")}
    for row, start, end in zip(gene, places["start"], places["end"]):
        position, strand = of_gene[row]
        k = int(np.argmin(np.maximum(0, np.maximum(start - position, position - end + 1))))
        best.append((int(position[k]), strand[k]))
    position = np.array([at for at, _ in best], dtype=np.int64)
    return pd.DataFrame(
        {
            "#chrom1": places["chrom"].to_numpy(), "start1": places["start"].to_numpy(),
            "end1": places["end"].to_numpy(), "chrom2": places["chrom"].to_numpy(), "start2": position,
            "end2": position + 1, "name": own["symbol"].to_numpy(), "score": own["z"].to_numpy(), "strand1": ".",
            "strand2": [strand for _, strand in best], "correlation": own["correlation"].to_numpy(),
            "fdr": own["fdr"].to_numpy(),
        }
    )  # fmt: skip
