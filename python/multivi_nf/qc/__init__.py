"""Which cells stay, per sample and modality, and why the others do not; doublets are flagged, never removed here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf import __version__
from multivi_nf.barcodes import BarcodeMap, translate
from multivi_nf.errors import InputError
from multivi_nf.files import write_table, written_whole
from multivi_nf.fragments.cells import overlap_p_values
from multivi_nf.qc.doublets import Doublets, score_atac, score_rna
from multivi_nf.qc.rules import Rule, Verdict, at_least, at_most, judge, table_of, within_mads
from multivi_nf.samplesheet import RESERVED, RESERVED_PREFIXES

__all__ = ["Checked", "qc_atac", "qc_protein", "qc_rna", "write_checked"]

MITO = re.compile(r"^MT[-:.]", re.IGNORECASE)
MITO_IDS = {
    *(
        f"ENSG{n:011d}"
        for n in (
            198695,
            198712,
            198727,
            198763,
            198786,
            198804,
            198840,
            198886,
            198888,
            198899,
            198938,
            212907,
            228253,
        )
    ),
    *(
        f"ENSMUSG{n:011d}"
        for n in (64341, 64345, 64351, 64354, 64356, 64357, 64358, 64360, 64363, 64367, 64368, 64370, 65947)
    ),
}
"""Ensembl ids of the 13 mitochondrial proteins of human and mouse, for matrices that have no symbols."""

HARMLESS_MITO = 5.0
"""Mitochondrial percentage below which a cell is never removed for standing out (best practices name 5 to 8 %)."""

CALLED_MIN_FRAGMENTS = 1000
CALLED_MIN_TSSE = 4.0


@dataclass
class Checked:
    """One modality of one sample after QC.

    Attributes
    ----------
    cells
        Kept cells; QC values in `obs`, prefixed by the modality.
    table
        Every barcode, its values and `removed_by`.
    summary
        What goes into `<modality>.json`.
    """

    cells: ad.AnnData
    table: pd.DataFrame
    summary: dict = field(default_factory=dict)


def _per_cell(counts: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    total = np.asarray(counts.X.sum(axis=1, dtype=np.int64)).ravel()
    return total, np.diff(counts.X.indptr).astype(np.int64)


def _finish(
    counts: ad.AnnData,
    values: dict[str, np.ndarray],
    verdict: Verdict,
    doublets: Doublets | None,
    sample: str,
    modality: str,
    parameters: dict,
    notes: Sequence[str] = (),
) -> Checked:
    """Cut the cells, put values into `obs` and the table, and gather the summary."""
    kept = verdict.kept
    table = table_of(values, counts.obs_names)
    notes = [*counts.uns.get("notes", ()), *notes]
    if doublets is not None:
        score, flag = np.full(len(kept), np.nan), np.zeros(len(kept), dtype=bool)
        score[kept], flag[kept] = doublets.score, doublets.flag
        table[f"{modality}_doublet_score"], table[f"{modality}_doublet"] = score, flag
        if doublets.note:
            notes.append(f"doublets {doublets.note}")
    cells = counts[kept].copy()
    foreign = [c for c in cells.obs if not (str(c) in RESERVED or str(c).startswith(RESERVED_PREFIXES))]
    foreign = [c for c in foreign if c not in ("sample", "batch")]
    cells.obs = cells.obs[foreign].join(table[kept])
    cells.obs.index.name = None
    parameters = {key: value for key, value in parameters.items() if value is not None}
    facts = {"sample": sample, "modality": modality, "version": __version__, "parameters": parameters}
    strategy = counts.uns.get("counting_strategy")
    if modality == "atac":
        facts["counting_strategy"] = str(strategy) if strategy is not None else "as in the matrix given"
    cells.uns = {"multivi_nf": json.dumps(facts | {"notes": notes}, sort_keys=True)}
    table["removed_by"] = verdict.removed_by
    medians = {name: float(np.nanmedian(v[kept])) for name, v in values.items() if np.isfinite(v[kept]).any()}
    summary = facts | {
        "cells_in": len(kept),
        "cells_out": int(kept.sum()),
        "features": counts.n_vars,
        "rules": verdict.rules,
        "medians": medians,
        "warnings": verdict.warnings,
        "notes": notes,
    }
    if doublets is not None:
        threshold = None if np.isnan(doublets.threshold) else doublets.threshold
        summary["doublets"] = {"flagged": int(doublets.flag.sum()), "threshold": threshold, "note": doublets.note}
    return Checked(cells, table, summary)


def qc_rna(
    counts: ad.AnnData,
    sample: str,
    *,
    min_genes: int = 0,
    min_counts: int = 0,
    max_mito: float | None = None,
    mad: float = 5.0,
    seed: int = 0,
) -> Checked:
    """Filter the RNA cells of one sample and score doublets.

    Parameters
    ----------
    counts
        Of :func:`multivi_nf.counts.read_counts`.
    min_genes, min_counts
        Floors; 0 is off.
    max_mito
        Largest percentage of counts of mitochondrial genes (symbols `MT-*`, `mt-*`, or their Ensembl ids); None is off.
    mad
        Cells this many median absolute deviations from the sample's median of log counts, log genes, or above that of
        the mitochondrial percentage are removed; 0 is off.

    Returns
    -------
    Cells with `rna_n_counts`, `rna_n_genes`, `rna_pct_mito` (NaN where no mitochondrial gene is among the features),
    `rna_doublet_score`, `rna_doublet`.
    """
    total, genes = _per_cell(counts)
    mito = np.array([MITO.match(symbol) is not None for symbol in counts.var["symbol"].astype(str)])
    mito |= counts.var_names.isin(MITO_IDS)
    percent = np.full(len(total), np.nan)
    if mito.any():
        of_mito = np.asarray(counts.X[:, np.flatnonzero(mito)].sum(axis=1, dtype=np.int64)).ravel()
        percent = np.divide(100.0 * of_mito, total, out=np.zeros(len(total)), where=total > 0)
    elif max_mito is not None:
        raise InputError(
            f"sample {sample!r}: no gene is named MT-* or mt-*, but --rna_max_mito is {max_mito:g}",
            "the mitochondrial percentage is not available, so the rule would pass every cell",
            "leave --rna_max_mito out, or give a matrix with mitochondrial genes",
        )
    rules = [
        at_least("rna_min_genes", "rna_n_genes", genes, min_genes),
        at_least("rna_min_counts", "rna_n_counts", total, min_counts),
        at_most("rna_max_mito", "rna_pct_mito", percent, np.inf if max_mito is None else max_mito),
        within_mads("rna_counts_mad", "rna_n_counts", total, mad, log=True),
        within_mads("rna_genes_mad", "rna_n_genes", genes, mad, log=True),
        within_mads("rna_mito_mad", "rna_pct_mito", percent, mad, lower=False, at_least_upper=HARMLESS_MITO),
    ]
    verdict = judge(_used(rules), sample, "rna")
    values = {"rna_n_counts": total, "rna_n_genes": genes, "rna_pct_mito": percent}
    doublets = score_rna(counts.X[verdict.kept], seed)
    parameters = {"min_genes": min_genes, "min_counts": min_counts, "max_mito": max_mito, "mad": mad, "seed": seed}
    return _finish(counts, values, verdict, doublets, sample, "rna", parameters)


def _used(rules: list[Rule]) -> list[Rule]:
    """Leave out floors of 0 and ceilings of infinity; rules that are off for a reason stay, to be told."""
    return [rule for rule in rules if rule.threshold not in (0.0, np.inf)]


def qc_protein(counts: ad.AnnData, sample: str, *, mad: float = 5.0) -> Checked:
    """Filter the protein cells of one sample.

    Cells without any count are empty; cells far above the median in total counts are aggregates of antibodies, and so
    are those far above it in isotype controls, which nothing on a cell should bind. Isotype controls are marked in
    `var["isotype"]` and left out of `protein_n_counts` and, later, of the model.

    Parameters
    ----------
    counts
        Of :func:`multivi_nf.counts.read_counts`.
    mad
        As for RNA; 0 is off.
    """
    isotype = counts.var["isotype"].to_numpy(bool)
    if isotype.all():
        raise InputError(
            f"sample {sample!r}: all {len(isotype)} proteins are isotype controls ({', '.join(counts.var_names[:3])})",
            "controls measure background, and nothing would be left to model",
            "give the matrix with the antibodies themselves",
        )
    real = counts.X[:, np.flatnonzero(~isotype)]
    total = np.asarray(real.sum(axis=1, dtype=np.int64)).ravel()
    proteins = np.diff(real.indptr).astype(np.int64)
    control = np.full(len(total), np.nan)
    if isotype.any():
        control = np.asarray(counts.X[:, np.flatnonzero(isotype)].sum(axis=1)).ravel().astype(float)
    rules = [
        at_least("protein_empty", "protein_n_counts", total, 1),
        within_mads("protein_counts_mad", "protein_n_counts", total, mad, log=True),
        within_mads(
            "protein_isotype_mad", "protein_isotype_counts", control, mad, log=True, lower=False, at_least_upper=10
        ),
    ]
    values = {"protein_n_counts": total, "protein_n_proteins": proteins, "protein_isotype_counts": control}
    verdict = judge(rules, sample, "protein")
    notes = (
        [f"isotype controls, left out of the model: {', '.join(counts.var_names[isotype])}"] if isotype.any() else []
    )
    return _finish(counts, values, verdict, None, sample, "protein", {"mad": mad}, notes)


def qc_atac(
    counts: ad.AnnData,
    sample: str,
    *,
    fragments_qc: Path | None = None,
    barcode_map: BarcodeMap | None = None,
    min_fragments: int | None = None,
    min_tsse: float | None = None,
    min_frip: float = 0.0,
    max_blacklist: float | None = None,
    seed: int = 0,
) -> Checked:
    """Apply every ATAC threshold to one sample, score doublets and translate barcodes.

    Parameters
    ----------
    counts
        Of `count-peaks`, or a matrix of :func:`multivi_nf.counts.read_counts`.
    fragments_qc
        Folder of `qc-fragments`, if the counts come from fragments.
    barcode_map
        ATAC → RNA barcodes; the cells carry the RNA barcode afterwards.
    min_fragments
        None: 1,000 where barcodes were called from raw fragments, else 0. Matrices without fragments are judged by
        their counts in peaks.
    min_tsse
        None: 4 where barcodes were called and start sites are known, else off.
    min_frip, max_blacklist
        Fractions; 0 and None are off.
    """
    table, called = _fragment_values(counts, fragments_qc)
    total, peaks = _per_cell(counts)
    values: dict[str, np.ndarray] = {}
    values["atac_n_fragments"] = (
        table["atac_n_fragments"] if "atac_n_fragments" in table else np.full(len(total), np.nan)
    )
    values |= {"atac_n_counts": total, "atac_n_peaks": peaks} | table
    notes = []
    quantity = "atac_n_fragments" if np.isfinite(values["atac_n_fragments"]).any() else "atac_n_counts"
    if min_fragments and quantity == "atac_n_counts":
        notes.append("no fragments were given: --atac_min_fragments is compared with counts in peaks")
    least = (CALLED_MIN_FRAGMENTS if called else 0) if min_fragments is None else min_fragments
    rules = [at_least("atac_min_fragments", quantity, values[quantity], least)]
    for name, column, bound, default, rule, needs in (
        ("atac_min_tsse", "atac_tsse", min_tsse, CALLED_MIN_TSSE if called else 0.0, at_least, "--tss or --gtf"),
        ("atac_min_frip", "atac_frip", min_frip or None, 0.0, at_least, "fragments"),
        ("atac_max_blacklist", "atac_blacklist_fraction", max_blacklist, np.inf, at_most, "--blacklist"),
    ):
        known = column in values and np.isfinite(values[column]).any()
        if bound and not known:
            if fragments_qc is None:
                notes.append(f"no fragments were given: {name} is not available and was not applied")
                continue
            raise InputError(
                f"sample {sample!r}: --{name} is {bound:g}, but {column} is not available",
                "the rule would pass every cell",
                f"give {needs}, or leave --{name} out",
            )
        if known:
            rules.append(rule(name, column, values[column], default if bound is None else bound))
    verdict = judge(_used(rules) or rules[:1], sample, "atac")
    if "atac_n_overlap_loci" in values:
        chance = np.full(len(total), np.nan)
        chance[verdict.kept] = overlap_p_values(values["atac_n_overlap_loci"][verdict.kept])
        values["atac_amulet_p"] = chance
    doublets = score_atac(counts.X[verdict.kept], seed)
    parameters = {
        "min_fragments": least,
        "min_tsse": min_tsse,
        "min_frip": min_frip,
        "max_blacklist": max_blacklist,
        "cells_called": called,
        "seed": seed,
    }
    if barcode_map is not None:
        names, outside = translate(counts.obs_names.tolist(), barcode_map)
        counts = counts.copy()
        counts.obs_names = pd.Index(names, dtype=object)
        if outside:
            notes.append(f"{outside} of {len(names)} ATAC barcodes are not in the barcode map; they stay unpaired")
    return _finish(counts, values, verdict, doublets, sample, "atac", parameters, notes)


_FRAGMENT_COLUMNS = {
    "tsse": "atac_tsse",
    "nucleosome_signal": "atac_nucleosome_signal",
    "blacklist_fraction": "atac_blacklist_fraction",
    "duplicate_fraction": "atac_duplicate_fraction",
    "mito_fraction": "atac_mito_fraction",
    "n_tss": "atac_n_tss",
    "n_flank": "atac_n_flank",
    "n_overlap_loci": "atac_n_overlap_loci",
}


def _fragment_values(counts: ad.AnnData, folder: Path | None) -> tuple[dict[str, np.ndarray], bool]:
    """Values of `count-peaks` and `qc-fragments` per cell, and whether cells were called from raw fragments."""
    own = ("atac_n_fragments", "atac_n_fragments_in_peaks", "atac_frip")
    values = {name: counts.obs[name].to_numpy(float) for name in own if name in counts.obs}
    if folder is None:
        return values, False
    folder = Path(folder)
    for name in ("fragments.tsv.gz", "fragments.json"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} lacks {name}",
                "the quality of the fragments is not known",
                "give the folder that qc-fragments wrote",
            )
    table = pd.read_csv(
        folder / "fragments.tsv.gz", sep="\t", index_col=0, dtype={0: str}, na_values="NA", keep_default_na=False
    )
    table.index = table.index.astype(str)
    absent = counts.obs_names.difference(table.index)
    if len(absent):
        raise InputError(
            f"{folder}: {len(absent)} of {counts.n_obs} counted barcodes are not in its table, e.g. {absent[0]!r}",
            "counts and quality belong to different files",
            "give the folder that qc-fragments wrote for the same fragments",
        )
    table = table.loc[counts.obs_names]
    for column, name in _FRAGMENT_COLUMNS.items():
        if column in table:
            numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
            if np.isfinite(numbers).any():
                values[name] = numbers
    summary = json.loads((folder / "fragments.json").read_text())
    return values, summary.get("call", {}).get("method", "list") != "list"


def write_checked(checked: Checked, output: Path, folder: Path) -> None:
    """Write the kept cells and the QC folder (`<modality>.tsv.gz`, `<modality>.json`), the same bytes every time."""
    modality = checked.summary["modality"]
    folder.mkdir(parents=True, exist_ok=True)
    table = checked.table.copy()
    for column in table.select_dtypes(bool).columns:
        table[column] = table[column].astype(int)
    with written_whole(folder / f"{modality}.tsv.gz") as temporary:
        write_table(temporary, table)
    with written_whole(folder / f"{modality}.json") as temporary:
        temporary.write_text(json.dumps(checked.summary, indent=1) + "\n")
    with written_whole(output) as temporary:
        checked.cells.write_h5ad(temporary, compression="gzip", compression_opts=1)
