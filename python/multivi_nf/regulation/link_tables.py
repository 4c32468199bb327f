"""Links as tables: named and best first, and as BEDPE for genome browsers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from multivi_nf.regulation.pairs import Pairs

COLUMNS = (
    *("gene", "symbol", "peak", "distance", "correlation", "z", "p", "fdr", "sign", "significant", "background_peaks"),
    *("imputed_correlation", "imputed_z"),
)


def links_table(pairs: Pairs, scores: pd.DataFrame, var: pd.DataFrame, peaks: pd.Index, level: float) -> pd.DataFrame:
    """Name genes and peaks and put the best first.

    Parameters
    ----------
    scores
        A row a pair: of :func:`multivi_nf.regulation.links.peak_gene_links`, and `imputed_correlation`, `imputed_z`.

    Returns
    -------
    :data:`COLUMNS`; pairs that neither could be measured nor imputed are left out.
    """
    symbol = (var["symbol"] if "symbol" in var else var.index.to_series()).astype(str).to_numpy()
    table = scores.reset_index(drop=True).assign(
        gene=var.index.astype(str).to_numpy()[pairs.gene],
        symbol=symbol[pairs.gene],
        peak=peaks.astype(str).to_numpy()[pairs.peak],
        distance=pairs.distance,
    )
    table["sign"] = np.select([table["z"] > 0, table["z"] < 0], ["+", "-"], "")
    table["significant"] = (table["fdr"] <= level).to_numpy()
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
    chrom, start, end = (places[name].to_numpy() for name in ("chrom", "start", "end"))
    symbol, score, correlation, fdr = (own[name].to_numpy() for name in ("symbol", "z", "correlation", "fdr"))
    pair = {"#chrom1": chrom, "start1": start, "end1": end, "chrom2": chrom, "start2": position, "end2": position + 1}
    pair |= {"name": symbol, "score": score, "strand1": ".", "strand2": [strand for _, strand in best]}
    return pd.DataFrame(pair | {"correlation": correlation, "fdr": fdr})
