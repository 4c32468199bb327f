"""From `multivi.h5mu` and an annotation to the table of peak-gene links."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import Damaged, option
from multivi_nf.export.markers import imputed_runs
from multivi_nf.export.peak_genes import parse_peaks
from multivi_nf.inputs.chromosomes import harmonise
from multivi_nf.inputs.genome import BUILT_IN, start_sites
from multivi_nf.io.hdf5 import reading_hdf5
from multivi_nf.io.limits import DAMAGED, opened
from multivi_nf.regulation import links
from multivi_nf.regulation.background import peak_properties
from multivi_nf.regulation.link_tables import COLUMNS, bedpe, links_table
from multivi_nf.regulation.pairs import WINDOW, Surroundings, match_genes, near_pairs
from multivi_nf.regulation.possible import NotPossible, rows_of
from multivi_nf.regulation.sequence import peak_sequences, without_bases
from multivi_nf.regulation.units import Units, make_units

ROWS = 50_000
"""Rows of a table of links read at a time."""
NAMES = ("gene", "symbol", "peak")
"""Columns of names: a gene may be called NA, or 7157."""
SHOWN = 50
"""Links that the report shows."""
OF_REPORT = ("gene", "symbol", "peak", "distance", "correlation", "z", "fdr", "imputed_correlation")


@dataclass
class Counts:
    """Counts of one modality: CSR (n_cells, n), names of its cells, its `var`."""

    values: sparse.csr_matrix
    cells: pd.Index
    var: pd.DataFrame

    def of(self, cells: pd.Index) -> sparse.csr_matrix:
        """Counts of some of the cells, in that order."""
        return self.values[self.cells.get_indexer(cells)]


@dataclass
class Embedded:
    """What relations are computed from: counts of RNA (None where not measured) and ATAC, obs, joint latent space."""

    obs: pd.DataFrame
    latent: np.ndarray | None
    rna: Counts | None
    atac: Counts

    @property
    def paired(self) -> pd.Index:
        """Cells with both, in the order of ATAC's."""
        return self.atac.cells[self.atac.cells.isin(self.rna.cells)] if self.rna is not None else self.atac.cells[:0]

    def units(self, cells: pd.Index, strata: str | None, seed: int) -> Units:
        """Cells or metacells of these cells, within `strata`: a column; None: donor where there is one, else sample."""
        column = strata or next((name for name in ("donor", "sample") if name in self.obs), None)
        if column is not None and column not in self.obs:
            known = ", ".join(map(str, self.obs.columns[:12]))
            raise NotPossible(
                f"{option('strata')} {column}: no such column in obs ({known}, ...)",
                "what differs between donors must not count as a relation within them",
                "name a column of the samplesheet, or leave it out",
            )
        of_cell = self.obs[column] if column else pd.Series("", index=self.obs.index)
        latent = None if self.latent is None else self.latent[self.obs.index.get_indexer(cells)]
        return make_units(cells, latent, of_cell.loc[cells], seed)


def read_embedded(path: Path) -> Embedded:
    """Read counts, obs and latent space of `multivi.h5mu`; nothing else of it.

    Raises
    ------
    NotPossible
        No cell has ATAC.
    """
    with reading_hdf5(path) as file:
        if "mod/atac" not in file:
            raise NotPossible(
                "no sample brings atac",
                "there is no accessibility to look at",
                "add samples with fragments or an atac matrix",
            )
        obs = ad.io.read_elem(file["obs"])
        latent = np.asarray(ad.io.read_elem(file["obsm/X_multivi"])) if "obsm/X_multivi" in file else None
        found = {name: _counts(file[f"mod/{name}"]) for name in ("rna", "atac") if f"mod/{name}" in file}
    return Embedded(obs, latent, found.get("rna"), found["atac"])


def _counts(group: h5py.Group) -> Counts:
    values = sparse.csr_matrix(ad.io.read_elem(group["layers/counts"] if "layers/counts" in group else group["X"]))
    return Counts(
        values.astype(np.int32, copy=False), ad.io.read_elem(group["obs"]).index, ad.io.read_elem(group["var"])
    )


def gene_places(name: str | None, gtf: Path | None, tss: Path | None) -> pd.DataFrame:
    """Read where genes start: `chrom`, `pos` (0-based), `strand`, `symbol` and, but for a BED, `id`.

    Raises
    ------
    NotPossible
        There is no annotation.
    """
    sites = start_sites(name, tss, gtf, coding=False)
    if sites is None:
        raise NotPossible(
            "there is no annotation of genes",
            "which peaks lie near a gene is not known",
            f"give {option('gtf')} GTF, {option('tss')} BED, or {option('genome')} {', '.join(BUILT_IN)}",
        )
    return sites


def read_called(path: Path) -> pd.DataFrame:
    """Read the significant rows of `links.tsv.gz`, which stand first; of millions of pairs the others are not read.

    Raises
    ------
    InputError
        Not there, damaged, or another table.
    """
    parts: list[pd.DataFrame] = []
    try:
        with opened(path) as handle:
            for part in pd.read_csv(handle, sep="\t", chunksize=ROWS, converters=dict.fromkeys(NAMES, str)):
                parts.append(part[part["significant"].astype(bool)])
                if len(parts[-1]) < len(part):
                    break
        return pd.concat(parts)[list(COLUMNS)]
    except (*DAMAGED, ValueError, KeyError) as error:
        raise Damaged(
            path,
            f"is no table of links ({type(error).__name__}: {error})",
            "which peak belongs to which gene is read from it",
            "give links.tsv.gz as `multivi-nf links` writes it",
        ) from error


@dataclass(frozen=True)
class Asked:
    """How links are asked for.

    Attributes
    ----------
    window
        bp to either side of a start site.
    level
        FDR of `significant`.
    strata
        Column of obs within which is correlated; None: donor where there is one, else sample.
    style
        How chromosome names may differ.
    seed
        Of metacells and background.
    """

    window: int = WINDOW
    level: float = 0.05
    strata: str | None = None
    style: str = "auto"
    seed: int = 0


@dataclass
class LinkFacts:
    """Numbers to tell, and the first links for the report."""

    genes: int
    pairs: int
    links: int
    cells: int
    units: int
    cells_imputed: int
    matched_on: list[str]
    peaks_without_bases: int
    missing_chromosomes: list[str]
    table: list[dict[str, object]]
    rows: str = "The first significant links"
    told: str = ""


def find_links(
    embedded: Embedded, places: pd.DataFrame, asked: Asked, *, fasta: Path | None = None, imputed: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, LinkFacts]:
    """Link peaks to the genes near them; see :func:`multivi_nf.regulation.links.peak_gene_links`.

    Parameters
    ----------
    embedded
        Of :func:`read_embedded`.
    places
        Of :func:`gene_places`.
    asked
        Window, level, strata, names, seed.
    fasta
        The genome, for the peaks' GC; without it background peaks are matched on accessibility and width only.
    imputed
        Store `rna.zarr` of `impute`. Its values of the cells with ATAC and without RNA, against their measured peaks,
        make the columns `imputed_*`, which nothing else depends on.

    Returns
    -------
    Links (:data:`multivi_nf.regulation.link_tables.COLUMNS`), the significant ones as BEDPE, and numbers to tell.

    Raises
    ------
    NotPossible
        No RNA, no peak near a gene, or neither paired cells enough nor imputed ones.
    """
    if embedded.rna is None:
        raise NotPossible(
            "no sample brings rna",
            "links are relations of peaks and genes",
            "add samples with rna, best of the same cells",
        )
    peaks, var = parse_peaks(embedded.atac.var.index), embedded.rna.var
    mapping = harmonise(places["chrom"].unique(), peaks["chrom"].unique(), asked.style)
    places = places[places["chrom"].isin(mapping)].assign(chrom=lambda table: table["chrom"].map(mapping))
    sites = match_genes(var, places)
    pairs = near_pairs(sites, peaks, asked.window)
    if len(pairs.gene) == 0:
        raise NotPossible(
            f"no peak lies within {asked.window:,} bp of a measured gene ({len(sites)} start sites of measured genes "
            "known)",
            "there is nothing to correlate",
            f"give the annotation ({option('genome')}, {option('gtf')}, {option('tss')}) of the peaks' assembly; genes "
            "are matched by id, else symbol",
        )
    sequences = peak_sequences(fasta, peaks, asked.style) if fasta is not None else None
    properties, matched_on = peak_properties(
        np.asarray(embedded.atac.values.sum(axis=0)).ravel(),
        None if sequences is None else sequences.gc(),
        (peaks["end"] - peaks["start"]).to_numpy(),
    )
    around = Surroundings(pairs, sites, peaks, properties, asked.window)
    scores, units = _measured(embedded, embedded.rna, around, asked)
    guessed, guessed_units = _guessed(embedded, embedded.rna, imputed, around, asked)
    if guessed is not None and scores is None:
        scores = pd.DataFrame(np.nan, index=guessed.index, columns=guessed.columns)
    if scores is None:
        raise NotPossible(
            f"{len(embedded.paired)} cells have both RNA and ATAC, and no RNA was imputed for cells with ATAC alone",
            f"no correlation can be told from chance in fewer than {links.FEWEST_UNITS} cells",
            "add samples measured in both (multiome), or impute RNA (--impute rna)",
        )
    for column in ("correlation", "z"):
        scores[f"imputed_{column}"] = np.nan if guessed is None else guessed[column]
    table = links_table(pairs, scores, var, peaks.index, asked.level)
    facts = LinkFacts(
        genes=int(len(np.unique(pairs.gene))),
        pairs=len(table),
        links=int(table["significant"].sum()),
        cells=0 if units is None else len(units.cells),
        units=0 if units is None else len(units.stratum),
        cells_imputed=0 if guessed_units is None else len(guessed_units.cells),
        matched_on=matched_on,
        peaks_without_bases=0 if sequences is None else int((~sequences.known).sum()),
        missing_chromosomes=[] if sequences is None else list(sequences.missing[:20]),
        table=rows_of(table.loc[table["significant"], list(OF_REPORT)].head(SHOWN)),
    )
    facts.told = _told(facts, asked)
    return table, bedpe(table, sites, var, peaks), facts


def _told(facts: LinkFacts, asked: Asked) -> str:
    """What was done, as a sentence."""
    units = f" in {facts.units:,} metacells" if facts.units < facts.cells else ""
    over = f"over {facts.cells:,} paired cells{units}" if facts.cells else "no cell has both, so imputed ones only"
    gc = "" if "GC" in facts.matched_on else f" (GC needs {option('fasta')})"
    return (
        f"{facts.links:,} links at FDR {asked.level:g} among {facts.pairs:,} pairs of a gene and a peak within "
        f"{asked.window:,} bp, {over}; background peaks are alike in {' and '.join(facts.matched_on)}{gc}."
        + without_bases(facts.peaks_without_bases, facts.missing_chromosomes)
    )


def _measured(
    embedded: Embedded, rna: Counts, around: Surroundings, asked: Asked
) -> tuple[pd.DataFrame | None, Units | None]:
    cells = embedded.paired
    if len(cells) < links.FEWEST_UNITS:
        return None, None
    units = embedded.units(cells, asked.strata, asked.seed)
    genes = links.expressed(rna.of(cells), units)
    return links.peak_gene_links(genes, embedded.atac.of(cells), units, around, seed=asked.seed), units


def _guessed(
    embedded: Embedded, rna: Counts, store: Path | None, around: Surroundings, asked: Asked
) -> tuple[pd.DataFrame | None, Units | None]:
    """Scores of imputed genes and measured peaks over the cells with ATAC and without RNA."""
    if store is None:
        return None, None
    names = rna.var.index
    columns, runs = imputed_runs(store, names)
    alone = embedded.atac.cells[~embedded.atac.cells.isin(rna.cells)]
    there = pd.Index(np.concatenate([np.asarray(cells[~measured]) for cells, measured, _ in runs()]))
    cells = alone[alone.isin(there)]
    if len(cells) < links.FEWEST_UNITS or len(columns) == 0:
        return None, None
    units = embedded.units(cells, asked.strata, asked.seed)
    total = np.zeros((len(units.stratum), len(columns)))
    for found, _, values in runs():
        at = cells.get_indexer(found)
        np.add.at(total, units.unit[at[at >= 0]], np.log1p(values[at >= 0]))
    genes = np.full((len(units.stratum), len(names)), np.nan, dtype=np.float32)
    genes[:, columns] = total / np.bincount(units.unit)[:, None]
    return links.peak_gene_links(genes, embedded.atac.of(cells), units, around, seed=asked.seed), units
