"""From `multivi.h5mu`, the genome's sequence and motifs to `motifs.h5ad` and the table of groups that differ."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf.errors import option
from multivi_nf.export.normalise import log_normalised
from multivi_nf.export.peak_genes import parse_peaks
from multivi_nf.palette import natural
from multivi_nf.regulation import motifs as science
from multivi_nf.regulation.background import peak_properties
from multivi_nf.regulation.cells import groups_of
from multivi_nf.regulation.find_links import Embedded
from multivi_nf.regulation.links import FEWEST_UNITS
from multivi_nf.regulation.motif_files import Motif
from multivi_nf.regulation.possible import NotPossible, rows_of
from multivi_nf.regulation.sequence import peak_sequences, without_bases
from multivi_nf.regulation.units import centred

HELD = Path("share") / "multivi-nf" / "jaspar.meme"
"""Where `make motifs` and the images put JASPAR's motifs, below the environment."""
COLUMNS = (
    *("group", "motif", "name", "cells", "effect", "z", "p_background", "p_cells", "p", "fdr", "significant", "peaks"),
    *("genes", "rna_correlation", "rna_fdr"),
)


SHOWN = 3
"""Motifs of a group that the report shows."""
OF_REPORT = ("group", "motif", "name", "effect", "z", "fdr", "genes", "rna_correlation", "rna_fdr")


def held_motifs() -> Path:
    """Give the motifs that the environment holds; MULTIVI_NF_MOTIFS names others.

    Raises
    ------
    NotPossible
        There are none.
    """
    place = Path(os.environ.get("MULTIVI_NF_MOTIFS") or Path(sys.prefix) / HELD)
    if not place.is_file():
        raise NotPossible(
            "there are no motifs",
            "what to look for in the peaks is not known",
            f"give {option('motifs')} FILE (MEME or JASPAR format), or run `make motifs` once (the images hold "
            "JASPAR's)",
        )
    return place


def need_sequence(fasta: Path | None) -> Path:
    """Give the FASTA, or say that motifs need one."""
    if fasta is None:
        raise NotPossible(
            "the genome's sequence was not given",
            "motifs are looked for in the bases of the peaks",
            f"give {option('fasta')} FILE",
        )
    return fasta


@dataclass(frozen=True)
class Asked:
    """How motifs are asked for.

    Attributes
    ----------
    groups
        Column of obs.
    level
        FDR of `significant`.
    strata
        Column within which RNA is correlated; None: donor where there is one, else sample.
    style
        How chromosome names may differ.
    iterations
        Background sets.
    seed
        Of the background and of metacells.
    """

    groups: str = "cluster"
    level: float = 0.05
    strata: str | None = None
    style: str = "auto"
    iterations: int = science.ITERATIONS
    seed: int = 0


@dataclass
class MotifFacts:
    """Numbers to tell, and each group's first motifs for the report."""

    motifs: int
    motifs_given: int
    peaks: int
    cells: int
    groups: str
    significant: int
    matched_on: list[str]
    peaks_without_bases: int
    missing_chromosomes: list[str]
    table: list[dict[str, object]]
    rows: str
    told: str = ""


def find_motifs(
    embedded: Embedded, cells: ad.AnnData, fasta: Path, motifs: list[Motif], asked: Asked
) -> tuple[ad.AnnData, pd.DataFrame, MotifFacts]:
    """Scan the peaks, compute deviations, test groups, and set each factor's RNA beside its motif.

    Parameters
    ----------
    embedded
        Of :func:`multivi_nf.regulation.find_links.read_embedded`.
    cells
        Of :func:`multivi_nf.regulation.cells.read_cells`: obs, UMAP, colours.
    fasta
        The genome.
    motifs
        Of :func:`multivi_nf.regulation.motif_files.read_motifs`.
    asked
        Groups, level, strata, names, background, seed.

    Returns
    -------
    AnnData (n_cells, n_motifs) with `X` z, `layers["deviations"]`, a row of `var` a motif, most variable first; a table
    of :data:`COLUMNS`, best first; numbers to tell.

    Raises
    ------
    NotPossible
        No peak with counts and bases, or no motif in ten of them.
    """
    atac = embedded.atac
    peaks = parse_peaks(atac.var.index)
    total = np.asarray(atac.values.sum(axis=0)).ravel()
    sequences = peak_sequences(fasta, peaks, asked.style)
    usable = np.flatnonzero(sequences.known & (total > 0))
    if len(usable) == 0:
        raise NotPossible(
            "no peak has both counts and bases",
            "there is nothing to scan",
            f"give the peaks' genome ({option('fasta')})",
        )
    matches = science.scan([sequences.bases[k] for k in usable], motifs)
    held = np.asarray(matches.sum(axis=0)).ravel()
    kept = np.flatnonzero(held >= science.FEWEST_PEAKS)
    if len(kept) == 0:
        raise NotPossible(
            f"none of the {len(motifs)} motifs is in {science.FEWEST_PEAKS} peaks or more",
            "a deviation is a mean over the peaks that hold a motif",
            f"give motifs of this species ({option('motifs')}), or more peaks",
        )
    motifs, matches, counts = [motifs[k] for k in kept], matches[:, kept], atac.values[:, usable]
    properties, matched_on = peak_properties(total[usable], sequences.gc()[usable])
    background = science.background_sets(properties, asked.iterations, asked.seed)
    deviation, z = science.deviations(counts, matches, background)
    var = pd.DataFrame({"name": [one.name for one in motifs], "peaks": held[kept]}, index=[one.id for one in motifs])
    for part in (science.variability(z), _own(embedded, z, motifs, asked)):
        var = var.join(part.set_axis(var.index))
    obs = cells.obs.loc[atac.cells]
    table = _named(
        science.by_group(counts, matches, background, groups_of(obs, asked.groups), deviation), var, asked.level
    )
    order = np.lexsort((var.index, -var["variability"].fillna(-1)))
    result = ad.AnnData(z[:, order], obs=obs, var=var.iloc[order], layers={"deviations": deviation[:, order]})
    at = cells.obs_names.get_indexer(atac.cells)
    for key in cells.obsm:
        result.obsm[key] = np.asarray(cells.obsm[key], dtype=np.float32)[at]
    result.uns.update(cells.uns)
    result.uns["X_scale"] = "z of chromVAR; layers['deviations']: bias-corrected deviation"
    facts = MotifFacts(
        motifs=len(motifs),
        motifs_given=len(held),
        peaks=len(usable),
        cells=len(atac.cells),
        groups=asked.groups,
        significant=int(table["significant"].sum()),
        matched_on=matched_on,
        peaks_without_bases=int((~sequences.known).sum()),
        missing_chromosomes=list(sequences.missing[:20]),
        table=rows_of(shown_motifs(table)),
        rows=f"Up to {SHOWN} motifs more open in each {asked.groups}",
    )
    facts.told = _told(facts, asked.level)
    return result, table, facts


def shown_motifs(table: pd.DataFrame) -> pd.DataFrame:
    """Give each group's first significant motifs that are more accessible in it, for the report."""
    up = table[table["significant"] & (table["effect"] > 0)]
    first = up.groupby("group", sort=False, observed=True).head(SHOWN)
    order = sorted(range(len(first)), key=lambda k: natural(str(first["group"].iloc[k])))
    return first.iloc[order][list(OF_REPORT)]


def _told(facts: MotifFacts, level: float) -> str:
    """What was done, as a sentence."""
    few = facts.motifs_given - facts.motifs
    return (
        f"{facts.motifs:,} motifs in {facts.peaks:,} peaks, z of {facts.cells:,} cells; "
        f"{facts.significant:,} pairs of a motif and a {facts.groups} differ from background at FDR {level:g}."
        + (f" {few:,} motifs are in fewer than {science.FEWEST_PEAKS} peaks and left out." if few else "")
        + without_bases(facts.peaks_without_bases, facts.missing_chromosomes)
    )


def _own(embedded: Embedded, z: np.ndarray, motifs: list[Motif], asked: Asked) -> pd.DataFrame:
    """Correlation with the factors' own RNA over paired cells; nothing where there are too few."""
    paired, of = embedded.paired, embedded.rna
    if of is None or len(paired) < FEWEST_UNITS:
        n = len(motifs)
        nothing = {column: np.full(n, np.nan) for column in ("rna_correlation", "rna_p", "rna_fdr")}
        return pd.DataFrame({"genes": [""] * n} | nothing)
    units = embedded.units(paired, asked.strata, asked.seed)
    rows = embedded.atac.cells.get_indexer(paired)
    factors = {factor.upper() for motif in motifs for factor in motif.factors}
    symbol = (of.var["symbol"] if "symbol" in of.var else of.var.index.to_series()).astype(str).str.upper()
    wanted = np.flatnonzero(symbol.isin(factors).to_numpy())
    rna = log_normalised(units.summed(of.of(paired)), "rna")[:, wanted].toarray()
    own = units.mean(np.nan_to_num(z[rows].astype(np.float64)))
    return science.own_expression(
        centred(own, units.stratum), centred(rna.astype(np.float64), units.stratum), motifs, of.var.iloc[wanted]
    )


def _named(table: pd.DataFrame, var: pd.DataFrame, level: float) -> pd.DataFrame:
    """Names of motifs instead of numbers, what is known of each beside it, best first."""
    at = table["motif"].to_numpy()
    table = table.assign(motif=var.index.to_numpy()[at], name=var["name"].to_numpy()[at])
    for column in ("peaks", "genes", "rna_correlation", "rna_fdr"):
        table[column] = var[column].to_numpy()[at]
    table["significant"] = (table["fdr"] <= level).to_numpy()
    order = np.lexsort((table["motif"], table["group"].astype(str), -table["z"].abs().fillna(-1), table["p"].fillna(2)))
    return table.iloc[order].reset_index(drop=True)[list(COLUMNS)]
