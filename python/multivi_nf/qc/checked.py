"""One modality of one sample after QC: how cells are cut, and the tables and summary that tell what was removed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf import __version__
from multivi_nf.counts.given import given_name
from multivi_nf.io.files import written_whole
from multivi_nf.io.records import as_json, write_record
from multivi_nf.io.tables import write_table
from multivi_nf.qc.doublets import Doublets
from multivi_nf.qc.rules import Rule, Verdict, table_of
from multivi_nf.qc.summary import Flagged, Step, Summary

_TOLD = ("sample", "modality", "version", "parameters", "counting_strategy", "notes")
"""Of the summary: what the kept cells carry along."""


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
    summary: Summary


def per_cell(counts: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Counts and detected features of every cell."""
    total = np.asarray(counts.X.sum(axis=1, dtype=np.int64)).ravel()
    return total, np.diff(counts.X.indptr).astype(np.int64)


def finish(
    counts: ad.AnnData, values: dict[str, np.ndarray], verdict: Verdict, step: Step, doublets: Doublets | None = None
) -> Checked:
    """Cut the cells, put values into `obs` and the table, and gather the summary."""
    kept, modality = verdict.kept, step.modality
    table = table_of(values, counts.obs_names)
    notes = [*counts.uns.get("notes", ()), *verdict.notes]
    if doublets is not None:
        score, flag = np.full(len(kept), np.nan), np.zeros(len(kept), dtype=bool)
        score[kept], flag[kept] = doublets.score, doublets.flag
        table[f"{modality}_doublet_score"], table[f"{modality}_doublet"] = score, flag
        if doublets.note:
            notes.append(f"doublets {doublets.note}")
    cells = counts[kept].copy()
    own = [c for c in cells.obs if str(c) in table or str(c).startswith((f"{modality}_",))]  # of count-peaks
    cells.obs = cells.obs.drop(columns=own).rename(columns=given_name).join(table[kept])
    cells.obs.index.name = None
    table["removed_by"] = verdict.removed_by
    strategy = str(counts.uns.get("counting_strategy", "as in the matrix given")) if modality == "atac" else None
    summary = Summary(
        sample=step.sample,
        modality=modality,
        version=__version__,
        parameters={key: value for key, value in step.parameters.items() if value is not None},
        counting_strategy=strategy,
        cells_in=len(kept),
        cells_out=int(kept.sum()),
        features=counts.n_vars,
        rules=verdict.rules,
        medians={name: float(np.nanmedian(v[kept])) for name, v in values.items() if np.isfinite(v[kept]).any()},
        warnings=[*counts.uns.get("warnings", ()), *verdict.warnings],
        notes=notes,
        doublets=None if doublets is None else _flagged(doublets),
    )
    told = {name: value for name, value in as_json(summary).items() if name in _TOLD}
    # the mosaic tells cells that failed from cells that were not measured by these
    failed = counts.obs_names[~kept].to_numpy(str)
    cells.uns = {"multivi_nf": json.dumps(told, sort_keys=True), "failed": failed}
    return Checked(cells, table, summary)


def _flagged(doublets: Doublets) -> Flagged:
    threshold, share = (None if np.isnan(value) else value for value in (doublets.threshold, doublets.share))
    return Flagged(int(doublets.flag.sum()), threshold, doublets.note, share)


def used(rules: list[Rule]) -> list[Rule]:
    """Leave out floors of 0 and ceilings of infinity; rules that are off for a reason stay, to be told."""
    return [rule for rule in rules if rule.threshold not in (0.0, np.inf)]


def write_checked(checked: Checked, output: Path, folder: Path) -> None:
    """Write the kept cells and the QC folder (`<modality>.tsv.gz`, `<modality>.json`), the same bytes every time."""
    modality = checked.summary.modality
    folder.mkdir(parents=True, exist_ok=True)
    table = checked.table.copy()
    for column in table.select_dtypes(bool).columns:
        table[column] = table[column].astype(int)
    write_table(table, folder / f"{modality}.tsv.gz", index=True, gaps="NA")
    write_record(checked.summary, folder / f"{modality}.json")
    with written_whole(output) as temporary:
        checked.cells.write_h5ad(temporary, compression="gzip", compression_opts=1)
