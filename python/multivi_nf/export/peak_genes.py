"""The gene that starts nearest to each peak."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from multivi_nf.inputs.chromosomes import harmonise
from multivi_nf.inputs.genome import start_sites

if TYPE_CHECKING:
    from mudata import MuData

UPSTREAM, DOWNSTREAM = 2_000, 500
"""A promoter: from so many bp before a start site to so many behind it, along the gene."""


def gene_starts(
    name: str | None = None, tss: str | Path | None = None, gtf: str | Path | None = None
) -> pd.DataFrame | None:
    """Read where genes start: from BED (name in column 4), else GTF or GFF3, else what the package knows.

    Returns
    -------
    `chrom`, `pos` (0-based), `strand`, `symbol`, sorted; None where nothing is known. Protein-coding genes where the
    annotation tells them.

    Raises
    ------
    InputError
        A file that cannot be read.
    """
    sites = start_sites(name, tss, gtf)
    if sites is None:
        return None
    sites = sites[["chrom", "pos", "strand", "symbol"]]
    sites = sites[~sites["symbol"].isin(["", "."])].drop_duplicates()
    return sites.sort_values(["chrom", "pos", "symbol"], kind="stable").reset_index(drop=True) if len(sites) else None


def parse_peaks(names: pd.Index) -> pd.DataFrame:
    """Split `chrom:start-end` (0-based, half-open); a name that is none has start -1."""
    rows = [re.fullmatch(r"(.+)[:_-](\d+)[-_](\d+)", str(name)) for name in names]
    parts = [(m[1], int(m[2]), int(m[3])) if m else ("", -1, -1) for m in rows]
    return pd.DataFrame(parts, columns=["chrom", "start", "end"], index=names)


def nearest_genes(peaks: pd.DataFrame, sites: pd.DataFrame, style: str = "auto") -> pd.DataFrame:
    """Find the start site nearest to each peak.

    Parameters
    ----------
    peaks
        `chrom`, `start`, `end`, 0-based half-open.
    sites
        As of :func:`gene_starts`.
    style
        How chromosome names may differ; see :func:`multivi_nf.inputs.chromosomes.harmonise`.

    Returns
    -------
    Index of `peaks`. `nearest_gene`: symbol ("" on a chromosome without genes). `distance_to_tss`: bp from the start
    site to the peak's nearest base, 0 inside of the peak, negative before the start site as the gene is read, NaN
    without a gene. `in_promoter`: the peak overlaps 2,000 bp before to 500 bp behind a start site, of any gene.
    """
    mapping = harmonise(sites["chrom"].unique(), peaks["chrom"].unique(), style)
    symbol = np.full(len(peaks), "", dtype=object)
    distance = np.full(len(peaks), np.nan)
    promoter = np.zeros(len(peaks), dtype=bool)
    on = sites["chrom"].map(mapping)
    for chrom, rows in peaks.groupby("chrom", sort=False).indices.items():
        here = sites[(on == chrom).to_numpy()]
        if here.empty:
            continue
        start, last = peaks["start"].to_numpy()[rows], peaks["end"].to_numpy()[rows] - 1
        position, minus = here["pos"].to_numpy(), (here["strand"] == "-").to_numpy()
        # the nearest site is the first at or behind the peak's start, or the one before it
        behind = np.searchsorted(position, start)
        before = np.clip(behind - 1, 0, len(position) - 1)
        behind = np.clip(behind, 0, len(position) - 1)
        # where several start at one place, the first by name
        before = np.searchsorted(position, position[before])
        gaps = [np.maximum(0, np.maximum(start - position[k], position[k] - last)) for k in (before, behind)]
        k = np.where(gaps[1] <= gaps[0], behind, before)
        gap = np.minimum(*gaps)
        before_start = np.where(minus[k], start > position[k], last < position[k])
        symbol[rows] = here["symbol"].to_numpy()[k]
        distance[rows] = np.where(before_start, -gap, gap)
        first = np.where(minus, position - DOWNSTREAM, position - UPSTREAM)
        final = np.where(minus, position + UPSTREAM, position + DOWNSTREAM)
        # windows that end before the peak's first base, and those that begin behind its last, do not touch it
        touching = (
            len(position)
            - np.searchsorted(np.sort(final), start)
            - (len(position) - np.searchsorted(np.sort(first), last, side="right"))
        )
        promoter[rows] = touching > 0
    return pd.DataFrame(
        {"nearest_gene": symbol, "distance_to_tss": distance, "in_promoter": promoter}, index=peaks.index
    )


def annotate_peaks(mosaic: MuData, sites: pd.DataFrame | None, style: str = "auto") -> int:
    """Add the three columns to the peaks of a mosaic, in place; returns how many peaks got a gene."""
    if sites is None or "atac" not in mosaic.mod:
        return 0
    var = mosaic.mod["atac"].var
    found = nearest_genes(parse_peaks(var.index), sites, style)
    if not (found["nearest_gene"] != "").any():
        return 0
    for column in found:
        var[column] = found[column]
    return int((found["nearest_gene"] != "").sum())
