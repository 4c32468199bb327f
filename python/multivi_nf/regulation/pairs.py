"""Genes and the peaks near them: which start sites belong to measured genes, which peaks lie beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

WINDOW = 250_000
"""bp to either side of a start site."""
FAR = 4
"""Background lies on another chromosome or this many windows away."""


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


@dataclass(frozen=True)
class Surroundings:
    """Where genes start and peaks lie, and which are asked for.

    Attributes
    ----------
    pairs
        Of :func:`near_pairs`.
    sites
        Of :func:`match_genes`.
    peaks
        `chrom`, `start`, `end`.
    properties
        Of :func:`multivi_nf.regulation.background.peak_properties`, of all peaks.
    window
        As of `pairs`.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from multivi_nf.regulation import near_pairs, peak_properties
    >>> sites = pd.DataFrame({"gene": [0], "chrom": ["chr1"], "pos": [2000], "strand": ["+"]})
    >>> peaks = pd.DataFrame({"chrom": ["chr1", "chr2"], "start": [0, 0], "end": [500, 500]})
    >>> alike, _ = peak_properties(np.array([30, 40]))
    >>> around = Surroundings(near_pairs(sites, peaks), sites, peaks, alike)
    >>> around.near(np.array([0, 1]))(0, np.array([0, 1])).tolist()  # too near to be background, and not
    [True, False]
    """

    pairs: Pairs
    sites: pd.DataFrame
    peaks: pd.DataFrame
    properties: np.ndarray
    window: int = WINDOW

    def near(self, chosen: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
        """(gene, some of the chosen peaks) → whether each lies within four windows of a start of the gene."""
        peaks, reach = self.peaks.iloc[chosen], FAR * self.window
        code, names = pd.factorize(peaks["chrom"])
        middle = ((peaks["start"] + peaks["end"]) // 2).to_numpy()
        chrom = names.get_indexer(self.sites["chrom"])
        sites = self.sites
        of_gene = {
            gene: (chrom[rows], sites["pos"].to_numpy()[rows]) for gene, rows in sites.groupby("gene").indices.items()
        }

        def near(gene: int, others: np.ndarray) -> np.ndarray:
            found = np.zeros(others.shape, dtype=bool)
            for at, position in zip(*of_gene[gene]):
                found |= (code[others] == at) & (np.abs(middle[others] - position) <= reach)
            return found

        return near
