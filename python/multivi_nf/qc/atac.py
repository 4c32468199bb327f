"""ATAC: which cells stay by fragments, enrichment at start sites, reads in peaks and blacklist."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.fragments.cells import overlap_p_values
from multivi_nf.fragments.summary import CalledBy
from multivi_nf.inputs.barcodes import BarcodeMap, translate
from multivi_nf.io.limits import read_object, read_tsv
from multivi_nf.io.records import from_json
from multivi_nf.qc.checked import Checked, finish, per_cell, used
from multivi_nf.qc.doublets import score_atac
from multivi_nf.qc.rules import Rule, at_least, at_most, judge
from multivi_nf.qc.summary import Step

CALLED_MIN_FRAGMENTS = 1000
CALLED_MIN_TSSE = 4.0


@dataclass(frozen=True)
class AtacRules:
    """How the chromatin of a sample is judged.

    Attributes
    ----------
    min_fragments
        None: 1,000 where barcodes were called from raw fragments, else 0. Matrices without fragments are judged by
        their counts in peaks.
    min_tsse
        None: 4 where barcodes were called and start sites are known, else off.
    min_frip, max_blacklist
        Fractions; 0 and None are off.
    seed
        Of the doublets.
    """

    min_fragments: int | None = None
    min_tsse: float | None = None
    min_frip: float = 0.0
    max_blacklist: float | None = None
    seed: int = 0

    def parameters(self, called: bool) -> dict[str, object]:
        """The bounds that hold where barcodes were called from raw fragments, or not."""
        given = asdict(self)
        seed = given.pop("seed")
        return given | {"min_fragments": self.least(called), "cells_called": called, "seed": seed}

    def least(self, called: bool) -> int:
        """The floor of fragments."""
        return (CALLED_MIN_FRAGMENTS if called else 0) if self.min_fragments is None else self.min_fragments


def qc_atac(
    counts: ad.AnnData,
    sample: str,
    rules: AtacRules | None = None,
    *,
    fragments_qc: Path | None = None,
    barcode_map: BarcodeMap | None = None,
) -> Checked:
    """Apply every ATAC threshold to one sample, score doublets and translate barcodes.

    Parameters
    ----------
    counts
        Of `count-peaks`, or a matrix of :func:`multivi_nf.counts.read.read_counts`.
    sample
        Its name.
    rules
        By default :class:`AtacRules` as they are.
    fragments_qc
        Folder of `qc-fragments`, if the counts come from fragments.
    barcode_map
        ATAC → RNA barcodes; the cells carry the RNA barcode afterwards.
    """
    rules = rules or AtacRules()
    table, called = _fragment_values(counts, fragments_qc)
    total, peaks = per_cell(counts)
    missing = np.full(len(total), np.nan)
    values = {"atac_n_fragments": missing, "atac_n_counts": total, "atac_n_peaks": peaks} | table
    applied, notes = _rules(values, sample, rules, called=called, from_fragments=fragments_qc is not None)
    verdict = judge(used(applied) or applied[:1], sample, "atac")
    verdict.notes += notes
    if "atac_n_overlap_loci" in values:
        chance = np.full(len(total), np.nan)
        chance[verdict.kept] = overlap_p_values(values["atac_n_overlap_loci"][verdict.kept])
        values["atac_amulet_p"] = chance
    doublets = score_atac(counts.X[verdict.kept], rules.seed)
    if barcode_map is not None:
        names, outside = translate(counts.obs_names.tolist(), barcode_map)
        counts = counts.copy()
        counts.obs_names = pd.Index(names, dtype=object)
        told = f"{outside} of {len(names)} ATAC barcodes are not in the barcode map; they stay unpaired"
        verdict.notes += [told] if outside else []
    return finish(counts, values, verdict, Step(sample, "atac", rules.parameters(called)), doublets)


def _rules(
    values: dict[str, np.ndarray], sample: str, rules: AtacRules, *, called: bool, from_fragments: bool
) -> tuple[list[Rule], list[str]]:
    """The rules whose quantities are known, and notes on those whose are not.

    Raises
    ------
    InputError
        A rule was asked for, and its quantity is not known though fragments were given.
    """
    notes = []
    quantity = "atac_n_fragments" if np.isfinite(values["atac_n_fragments"]).any() else "atac_n_counts"
    if rules.min_fragments and quantity == "atac_n_counts":
        notes.append("no fragments were given: --atac_min_fragments is compared with counts in peaks")
    applied = [at_least("atac_min_fragments", quantity, values[quantity], rules.least(called))]
    for name, column, bound, default, rule, needs in (
        ("atac_min_tsse", "atac_tsse", rules.min_tsse, CALLED_MIN_TSSE if called else 0.0, at_least, "--tss or --gtf"),
        ("atac_min_frip", "atac_frip", rules.min_frip or None, 0.0, at_least, "fragments"),
        ("atac_max_blacklist", "atac_blacklist_fraction", rules.max_blacklist, np.inf, at_most, "--blacklist"),
    ):
        known = column in values and np.isfinite(values[column]).any()
        if bound and not known:
            if not from_fragments:
                notes.append(f"no fragments were given: {name} is not available and was not applied")
                continue
            raise InputError(
                f"sample {sample!r}: --{name} is {bound:g}, but {column} is not available",
                "the rule would pass every cell",
                f"give {needs} (--genome hg38, hg19 and mm10 bring theirs), or leave --{name} out",
            )
        if known:
            applied.append(rule(name, column, values[column], default if bound is None else bound))
    return applied, notes


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
    table = read_tsv(folder / "fragments.tsv.gz", index_col=0, dtype={0: str}, na_values="NA", keep_default_na=False)
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
    call = from_json(CalledBy, read_object(folder / "fragments.json").get("call"), folder / "fragments.json")
    return values, call.method != "list"
