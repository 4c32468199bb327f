"""Read what a run left under `--outdir` into one object; what is absent stays absent and the page says so."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from multivi_nf.errors import Damaged, InputError
from multivi_nf.export.markers import array_of
from multivi_nf.io.hdf5 import reading, reading_hdf5
from multivi_nf.io.limits import check_columns, object_in, read_bytes, read_object, read_tsv
from multivi_nf.io.stores import check_store, open_store
from multivi_nf.modalities import MODALITIES
from multivi_nf.mosaic.read import embedded
from multivi_nf.mosaic.rows import chosen, rows_by_rows
from multivi_nf.report import facts

QC_ROWS = 20_000
"""Barcodes drawn from a QC table for its histogram; the counts in the tables are of all of them."""
NAMES = ("target", "feature", "symbol")
"""Columns of a contrast that are names: a group or a gene may be called NA, or 7157."""
CONTRAST_COLUMNS = ("feature", "effect", "probability", "significant")
CONTROLS = ("measure", "result", "short_run", "chance", "control", "better", "cells")
CONTRAST_NUMBERS = (
    "mean_target mean_reference effect effect_lower effect_upper log2_fold_change delta probability fdr replicate_p "
    "replicate_fdr significant n_target n_reference replicates_target replicates_reference bayes_factor"
).split()


@dataclass
class SampleQC:
    """One modality of one sample: numbers by rule, and every barcode's values."""

    sample: str
    modality: str
    summary: facts.Summary
    barcodes: pd.DataFrame


class Imputed:
    """A store of IMPUTE; what is asked for is read once.

    Attributes
    ----------
    path
        The store.
    """

    def __init__(self, path: Path) -> None:
        check_store(path)
        self.path = path

    @functools.cached_property
    def obs(self) -> pd.DataFrame:
        """One row a cell (`measured`, `out_of_support`)."""
        return self._read("obs")

    @functools.cached_property
    def var(self) -> pd.DataFrame:
        """One row a feature."""
        return self._read("var")

    def means(self, features: list[str]) -> pd.DataFrame:
        """Posterior means of those of the features that are here (columns), of all cells; reads their chunks only."""
        found = [(feature, int(k)) for feature, k in zip(features, self.var.index.get_indexer(features)) if k >= 0]
        order = sorted(found, key=lambda item: item[1])
        with reading(self.path):
            stored = array_of(self.path)
            values = {feature: np.asarray(stored[:, k], dtype=np.float32) for feature, k in order}
        return pd.DataFrame({feature: values[feature] for feature, _ in found}, index=self.obs.index)

    def _read(self, part: str) -> pd.DataFrame:
        with reading(self.path):
            return ad.io.read_elem(open_store(self.path)[part])


@dataclass
class Results:
    """Everything the page draws from.

    Attributes
    ----------
    cells
        `obs` of `multivi.h5mu`, one row a cell.
    umap, latent, latent_variance
        (n_cells, 2), (n_cells, n_latent) arrays in the order of `cells`.
    features
        Modality to number of modelled features.
    views
        Modality to (n_cells, n_latent) means of its own view, NaN where it was not measured.
    modality_of, nearest_genes
        Feature to its modality; peak to the gene that starts nearest, where genes are known.
    made
        `started` and `user` of the run (`pipeline_info/run.json`).
    regulation
        What each part of `--regulation` made, or why it could not (`regulation/<part>.json`).
    """

    outdir: Path
    cells: pd.DataFrame
    umap: np.ndarray
    latent: np.ndarray
    latent_variance: np.ndarray
    features: dict[str, int]
    mosaic_notes: facts.Mosaic
    views: dict[str, np.ndarray] = field(default_factory=dict)
    qc: list[SampleQC] = field(default_factory=list)
    fragments: dict[str, facts.Fragments] = field(default_factory=dict)
    checks: dict[str, facts.Check] = field(default_factory=dict)
    history: pd.DataFrame | None = None
    model: facts.Model | None = None
    split: pd.DataFrame | None = None
    calibration: facts.Calibration | None = None
    contrasts: dict[str, pd.DataFrame] = field(default_factory=dict)
    imputed: dict[str, Imputed] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)
    made: dict[str, object] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    resources: pd.DataFrame | None = None
    evaluation: dict[str, object] = field(default_factory=dict)
    controls: pd.DataFrame | None = None
    modality_of: dict[str, str] = field(default_factory=dict)
    nearest_genes: dict[str, str] = field(default_factory=dict)
    regulation: list[facts.Part] = field(default_factory=list)

    def has(self, modality: str) -> np.ndarray:
        """(n_cells,) bool: whether the modality was measured."""
        return self.cells[f"has_{modality}"].astype(bool).to_numpy()

    def words(self, column: str) -> np.ndarray:
        """(n_cells,) a column of the cells as text; "" where there is no such column."""
        return self.cells[column].astype(str).to_numpy() if column in self.cells else np.full(len(self.cells), "")

    def counts(self, modality: str, rows: np.ndarray) -> sp.csr_matrix:
        """Counts of some cells, all of which have the modality."""
        return read_counts(self.outdir / "multivi.h5mu", modality, self.cells.index[rows])


def read_results(outdir: Path) -> Results:
    """Read a run's results.

    Parameters
    ----------
    outdir
        A folder laid out as `--outdir` is: `multivi.h5mu`, `model/`, `qc/`, `imputed/`, `differential/`,
        `pipeline_info/` (see docs/output.md).

    Raises
    ------
    InputError
        `multivi.h5mu` is not there: a page without cells would say nothing.
    """
    path = outdir / "multivi.h5mu"
    if not path.is_file():
        raise InputError(
            f"{path} is not there",
            "the report draws the embedding that EMBED wrote into it",
            "give the --outdir of a finished run, or run `multivi-nf embed MOSAIC MODEL --output multivi.h5mu` first",
        )
    with embedded(path) as mosaic:
        results = Results(
            outdir=outdir,
            cells=mosaic.obs.copy(),
            umap=np.asarray(mosaic.obsm["X_umap"]),
            latent=np.asarray(mosaic.obsm["X_multivi"]),
            latent_variance=np.asarray(mosaic.obsm["X_multivi_variance"]),
            features={name: mosaic.mod[name].n_vars for name in MODALITIES if name in mosaic.mod},
            mosaic_notes=facts.shown(facts.Mosaic, _notes(mosaic.uns.get("multivi_nf"))),
            views={m: np.asarray(mosaic.obsm[f"X_multivi_{m}"]) for m in MODALITIES if f"X_multivi_{m}" in mosaic.obsm},
        )
        for name in reversed(list(results.features)):  # of a name in two modalities, the first stands
            results.modality_of |= dict.fromkeys(mosaic.mod[name].var_names.astype(str), name)
        peaks = mosaic.mod["atac"].var if "atac" in mosaic.mod else pd.DataFrame()
        if "nearest_gene" in peaks:
            results.nearest_genes = dict(zip(peaks.index.astype(str), peaks["nearest_gene"].astype(str)))
    results.qc = _read_qc(outdir / "qc")
    results.fragments = {
        path.parent.name: facts.shown(facts.Fragments, read_object(path))
        for path in sorted(outdir.glob("qc/*/fragments.json"))
    }
    results.checks = {
        path.name.removesuffix(".preflight.json"): facts.shown(facts.Check, read_object(path))
        for path in sorted(outdir.glob("qc/**/*.preflight.json"))
    }
    _read_model(results, outdir / "model")
    for table in sorted((outdir / "differential").glob("*.tsv.gz")):
        results.contrasts[table.name.removesuffix(".tsv.gz")] = read_contrast(table)
    results.imputed = {path.stem: Imputed(path) for path in sorted((outdir / "imputed").glob("*.zarr"))}
    results.regulation = [
        facts.shown(facts.Part, read_object(path)) for path in sorted((outdir / "regulation").glob("*.json"))
    ]
    if (outdir / "controls.tsv").is_file():
        results.controls = read_tsv(outdir / "controls.tsv")
        check_columns(results.controls, outdir / "controls.tsv", CONTROLS)
    _read_pipeline_info(results, outdir)
    return results


def read_counts(path: Path, modality: str, cells: pd.Index) -> sp.csr_matrix:
    """Counts of some cells of a modality of an h5mu; nothing else of the file is read, but the modality's names."""
    with reading_hdf5(path) as file:
        group = file["mod"][modality]
        names = pd.Index(ad.io.read_elem(group["obs"][group["obs"].attrs["_index"]])).astype(str)
        place = names.get_indexer(cells)
        if (place < 0).any():
            raise ValueError(f"cells that obs says have {modality} are not in mod/{modality}")
        return chosen(rows_by_rows(ad.io.sparse_dataset(group["X"])), place)


def read_contrast(path: Path) -> pd.DataFrame:
    """Read one table of DIFFERENTIAL and check that it is one."""
    table = read_tsv(path, converters=dict.fromkeys(NAMES, str))
    missing = [column for column in CONTRAST_COLUMNS if column not in table]
    if missing:
        raise Damaged(
            path,
            f"has no column {', '.join(missing)}",
            "the page shows each contrast's effects and evidence",
            "give tables that `multivi-nf differential` wrote",
        )
    check_columns(table, path, numbers=CONTRAST_NUMBERS)
    if "symbol" in table:
        table["symbol"] = table["symbol"].where(~table["symbol"].isin(["", "nan"]), table["feature"])
    return table


def _notes(value: object) -> dict[str, object]:
    if isinstance(value, str):
        return object_in(value, "uns['multivi_nf'] of multivi.h5mu")
    if isinstance(value, dict):
        return {k: object_in(v, f"uns[{k!r}]") if isinstance(v, str) and v[:1] == "{" else v for k, v in value.items()}
    return {}


def _read_qc(folder: Path) -> list[SampleQC]:
    found = []
    for sample in sorted(p for p in folder.glob("*") if p.is_dir()):
        for modality in MODALITIES:
            summary, table = sample / f"{modality}.json", sample / f"{modality}.tsv.gz"
            if summary.is_file():
                barcodes = read_tsv(table, low_memory=False) if table.is_file() else pd.DataFrame()
                check_columns(barcodes, table, ("removed_by",) if len(barcodes.columns) else ())
                if len(barcodes) > QC_ROWS:
                    barcodes = barcodes.sample(QC_ROWS, random_state=0).sort_index()
                told = facts.shown(facts.Summary, read_object(summary))
                found.append(SampleQC(sample.name, modality, told, barcodes))
    return found


def _read_model(results: Results, folder: Path) -> None:
    if (folder / "history.tsv").is_file():
        results.history = read_tsv(folder / "history.tsv")
        losses = ("epoch", "train_loss", "validation_loss")
        check_columns(results.history, folder / "history.tsv", losses, results.history.columns)
    if (folder / "config.json").is_file():
        results.model = facts.shown(facts.Model, read_object(folder / "config.json"))
    if (folder / "split.tsv").is_file():
        results.split = read_tsv(folder / "split.tsv")
        check_columns(results.split, folder / "split.tsv", ("cell", "split"))
    if (folder / "calibration.json").is_file():
        results.calibration = facts.shown(facts.Calibration, read_object(folder / "calibration.json"))


def _read_pipeline_info(results: Results, outdir: Path) -> None:
    info = outdir / "pipeline_info"
    if (info / "params.json").is_file():
        results.parameters = read_object(info / "params.json")
    if (info / "run.json").is_file():
        results.made = read_object(info / "run.json")
    versions = info / "software_versions.yml"
    if versions.is_file():
        results.versions = read_versions(read_bytes(versions).decode(errors="replace"))
    evaluation = outdir / "evaluation.json"
    if evaluation.is_file():
        results.evaluation = read_object(evaluation)
    costs = [
        read_object(path) | {"task": path.name.removesuffix(".resources.json")}
        for path in sorted(outdir.glob("**/*.resources.json"))
    ]
    if costs:
        results.resources = pd.DataFrame(costs)


def read_versions(text: str) -> dict[str, dict[str, str]]:
    """Read nf-core's two-level `software_versions.yml` (process, tool: version)."""
    versions: dict[str, dict[str, str]] = {}
    process = ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] not in " \t":
            process = line.strip().removesuffix(":").strip("\"'")
            versions.setdefault(process, {})
        else:
            name, _, value = line.partition(":")
            versions[process][name.strip().strip("\"'")] = value.strip().strip("\"'")
    return versions
