"""What can be known of one sample's files in seconds; problems are collected, not raised."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd

from multivi_nf.counts.features import species_of
from multivi_nf.counts.given import add_tables, given_name, tidy
from multivi_nf.counts.h5ad import modalities_of
from multivi_nf.counts.hashtags import one_tag, read_hashtags, tag_names
from multivi_nf.counts.read import read_counts
from multivi_nf.errors import InputError
from multivi_nf.fragments.cells import to_atac
from multivi_nf.inputs.barcodes import (
    BarcodeMap,
    Overlap,
    fragment_barcodes,
    meeting,
    overlap,
    overlap_problem,
    read_barcode_map,
    read_barcodes,
    translate,
)
from multivi_nf.inputs.cell_table import read_cell_table
from multivi_nf.inputs.genome import Genome, read_bed
from multivi_nf.inputs.labels import label_text
from multivi_nf.io.limits import LARGEST_TABLE
from multivi_nf.io.machine import is_passing
from multivi_nf.modalities import MODALITIES

MOST_VALUES = 1000
"""An annotation column with more different values than this is no grouping and is not listed."""


def pack(names: Sequence[str]) -> str:
    """Compress a list of names to text, so that a report of a few hundred thousand peaks stays small."""
    return base64.b64encode(zlib.compress(json.dumps(list(names)).encode(), 6)).decode()


def unpack(text: str) -> list[str]:
    """Read what :func:`pack` gave.

    Raises
    ------
    InputError
        It is damaged, or unpacks without end.
    """
    packer = zlib.decompressobj()
    try:
        raw = packer.decompress(base64.b64decode(text, validate=True), LARGEST_TABLE)
        names = json.loads(raw) if packer.eof else None
    except (ValueError, RecursionError, TypeError, zlib.error):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"the packed names {str(text)[:30]!r} ... of a sample's check are damaged",
            "what samples have in common cannot be told",
            "run the check of each sample (`multivi-nf preflight`) again",
        )
    return names


class _Findings:
    """Problems, warnings and notes of one sample; each problem names sample and column."""

    def __init__(self, sample: str) -> None:
        self.sample = sample
        self.problems: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def problem(self, column: str, error: InputError) -> None:
        if len(error.args) == 1 and error.args[0].count("ERROR: ") > 1:  # several in one: each is listed
            for block in error.args[0].split("\n\n"):
                what, why, remedy = (line.split(": ", 1)[1] for line in block.splitlines()[:3])
                self.problems.append(
                    {"what": f"sample {self.sample!r}, {column}: {what}", "why": why, "remedy": remedy}
                )
            return
        what = f"sample {self.sample!r}, {column}: {error.what}"
        self.problems.append({"what": what, "why": error.why, "remedy": error.remedy})

    def attempt(self, column: str, action: Callable[[], Any]) -> Any:
        """Do something; a refusal becomes a problem and None. A disk that fails is no problem of the file."""
        try:
            return action()
        except InputError as error:
            if is_passing(error):
                raise
            self.problem(column, error)
            return None


def check_sample(
    sample: str,
    files: dict[str, Path | None],
    genome: Callable[[], Genome],
    chrom_style: str = "auto",
    all_peaks: Path | None = None,
    naming: dict[str, str] | None = None,
    hto_features: str = "",
) -> dict[str, Any]:
    """Check all files of one sample.

    Parameters
    ----------
    sample
        Its name.
    files
        Column of the samplesheet → file, or None.
    genome
        Gives the genome; called only where coordinates are read.
    chrom_style
        See :func:`multivi_nf.inputs.genome.harmonise`.
    all_peaks
        Peaks of the whole run, if known.
    naming
        `batch_column`, `sample_column` → the column of the cells' own annotation that they name.
    hto_features
        Names of hashtags, where the samplesheet names those.

    Returns
    -------
    JSON: `sample`, `problems` (`what`, `why`, `remedy`), `warnings`, `notes`, `modalities` (numbers, packed names),
    `h5mu` (modalities that are read from it), `annotations` (columns of the cells' own annotation and their values),
    `batches`, `samples` (values of the columns that `naming` names), `overlap` (barcodes shared by modalities),
    `fragments`.
    """
    found = _Findings(sample)
    mapping = cells = None
    if files.get("barcode_map"):
        mapping = found.attempt("barcode_map", lambda: read_barcode_map(files["barcode_map"]))
    if files.get("barcodes"):
        cells = found.attempt("barcodes", lambda: read_barcodes(files["barcodes"]))
    held = _held(found, files)
    matrices: dict[str, ad.AnnData] = {}
    for modality in MODALITIES:
        path = files["h5mu"] if modality in held else files.get(modality)
        if path is None or (files.get("barcodes") and cells is None):
            continue
        if modality == "atac" and files.get("fragments"):
            found.notes.append("the row has fragments and an atac matrix: the fragments are counted, the matrix is not")
        listed = to_atac(cells, mapping)[0] if modality == "atac" and cells is not None else cells
        counts = found.attempt(modality, lambda p=path, m=modality, b=listed: read_counts(p, m, b))
        if counts is not None:
            matrices[modality] = counts
            found.attempt("cells", lambda c=counts, m=modality: _with_tables(c, files, sample, mapping, m))
            found.notes += counts.uns["notes"]
            found.warnings += counts.uns["warnings"]
            _aggregated(found, modality, counts)
    tables = [matrix.obs for matrix in matrices.values()] or _tables(found, files)
    groups = {column: _named(found, column, name, tables) for column, name in (naming or {}).items()}
    donors = _hashtags(found, files, cells, matrices, hto_features)
    overlaps = _overlaps(found, matrices, mapping, bool(files.get("fragments")))
    known: dict[str, Any] = {}
    peaks = found.attempt("peaks", lambda: read_bed(files["peaks"])) if files.get("peaks") else None
    if files.get("fragments"):
        known, row = _fragments(found, files, genome, chrom_style, peaks, all_peaks, matrices, cells, mapping)
        overlaps += [row] if row is not None else []
    return {
        "sample": sample,
        "problems": found.problems,
        "warnings": found.warnings,
        "notes": found.notes,
        "modalities": {modality: _facts(modality, counts) for modality, counts in matrices.items()},
        "h5mu": held,
        "annotations": {**donors, **_annotations(tables)},
        "batches": groups.get("batch_column", []),
        "samples": groups.get("sample_column", []),
        "overlap": [asdict(row) for row in overlaps],
        "fragments": known,
    }


def _hashtags(
    found: _Findings,
    files: dict[str, Path | None],
    cells: list[str] | None,
    matrices: dict[str, ad.AnnData],
    names: str,
) -> dict[str, list[str]]:
    """Look for the sample's hashtags; the columns of `obs` that they will give, and their values."""
    path = files.get("hto") or ((files.get("protein") or files.get("rna") or files.get("h5mu")) if names else None)
    if path is None:
        return {}
    listed = cells
    if listed is None and matrices:
        listed = next(iter(matrices.values())).obs_names.tolist()
    tags = found.attempt("hto", lambda: read_hashtags(path, listed, tag_names(names)))
    if tags is None:
        return {}
    if tags.n_vars < 2:
        found.problem("hto", one_tag(found.sample, tags.var_names.tolist()))
    found.notes.append(f"hashtags: {', '.join(tags.var_names[:12])}")
    return {"hashtag": tags.var_names.tolist(), "donor": tags.var_names.tolist(),
            "hashtag_class": ["singlet", "doublet", "negative"]}  # fmt: skip


def _aggregated(found: _Findings, modality: str, counts: ad.AnnData) -> None:
    """Tell a run that was aggregated from several wells: their cells are one sample here."""
    suffixes = counts.obs_names.str.extract(r"-(\d+)$")[0].dropna().unique()
    if len(suffixes) > 1 and len(suffixes) < 100:
        found.warnings.append(
            f"{modality}: barcodes end in {len(suffixes)} different suffixes (-{suffixes[0]}, -{suffixes[1]}, ..): the "
            "wells of an aggregated run are taken as one sample; doublets and outliers are better found by well (one "
            "row each, its cells in the column barcodes)"
        )


def _facts(modality: str, counts: ad.AnnData) -> dict[str, Any]:
    names, symbols = counts.var_names.tolist(), counts.var["symbol"].astype(str).tolist()
    facts = {"cells": counts.n_obs, "features": counts.n_vars, "names": pack(names), "examples": names[:3]}
    if modality == "rna":
        facts |= {"symbols": pack(symbols), "species": species_of(names) or species_of(symbols)}
    if modality == "protein":
        facts["isotype_controls"] = counts.var_names[counts.var["isotype"]].tolist()
    return facts


def _held(found: _Findings, files: dict[str, Path | None]) -> list[str]:
    """Modalities that the sample's h5mu gives: those that no other column names."""
    if not files.get("h5mu"):
        return []
    inside = found.attempt("h5mu", lambda: modalities_of(Path(files["h5mu"]))) or []
    taken = [m for m in inside if not files.get(m) and not (m == "atac" and files.get("fragments"))]
    if inside and not taken:
        found.problem(
            "h5mu",
            InputError(
                f"{files['h5mu']} holds {', '.join(inside)}, each of which another column of the row names",
                "nothing would be read from it",
                "leave h5mu empty, or the columns of the modalities that it should give",
            ),
        )
    return taken


def _with_tables(
    counts: ad.AnnData, files: dict[str, Path | None], sample: str, mapping: BarcodeMap | None, modality: str
) -> None:
    add_tables(counts, [files.get("barcodes"), files.get("cells")], sample, mapping if modality == "atac" else None)


def _tables(found: _Findings, files: dict[str, Path | None]) -> list[pd.DataFrame]:
    """What per-cell tables say, of a sample whose cells are known from fragments only."""
    read = [
        found.attempt(column, lambda path=files[column]: read_cell_table(Path(path)))
        for column in ("barcodes", "cells")
        if files.get(column)
    ]
    return [tidy(table.columns, "table")[0] for table in read if table is not None]


def _named(found: _Findings, column: str, name: str, tables: list[pd.DataFrame]) -> list[str]:
    """Values of the column that the samplesheet names; a column that is not there, or empty, is a problem."""
    holders = [table for table in tables if given_name(name) in table]
    values = [value for table in holders for value in label_text(table[given_name(name)]).dropna().unique()]
    if values:
        without = max(int(label_text(table[given_name(name)]).isna().sum()) for table in holders)
        if without:
            found.warnings.append(
                f"{without} cells have no value in {name!r}, which {column} names: they keep the row's own "
                f"{column.removesuffix('_column')}"
            )
        return list(dict.fromkeys(values))
    there = list(dict.fromkeys(str(c) for table in tables for c in table.columns))
    found.problem(
        column,
        InputError(
            f"{name!r} is {'empty in all cells' if holders else 'no column of its cells'} (there are "
            f"{', '.join(there[:20]) or 'none'})",
            f"which cell belongs to which {column.removesuffix('_column')} cannot be known",
            "name one of these columns, or add it to the table in the column cells",
        ),
    )
    return []


def _annotations(tables: list[pd.DataFrame]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for obs in tables:
        for column in map(str, obs.columns):
            values = label_text(obs[column]).dropna().unique().tolist()
            if len(values) <= MOST_VALUES:
                columns[column] = list(dict.fromkeys([*columns.get(column, []), *values]))
    return columns


def _overlaps(
    found: _Findings, matrices: dict[str, ad.AnnData], mapping: BarcodeMap | None, has_fragments: bool
) -> list[Overlap]:
    """Compare the barcodes of every two matrices of the sample."""
    rows = []
    for left, right in (("atac", "rna"), ("protein", "rna"), ("atac", "protein")):
        if left not in matrices or right not in matrices or (left == "atac" and has_fragments):
            continue
        own, others = matrices[left].obs_names.tolist(), matrices[right].obs_names.tolist()
        if left == "atac" and mapping is not None:
            translated = found.attempt("barcode_map", lambda names=own: translate(names, mapping)[0])
            own = own if translated is None else translated
        met = meeting(own, others)
        if met is not None:
            first = next(iter(met[0]))
            found.warnings.append(
                f"{left} barcodes meet those of {right} without {met[1]} ({first} is {met[0][first]}): they are "
                "taken as the same cells"
            )
            own = [met[0].get(name, name) for name in own]
        row = overlap(own, others, (left, right))
        rows.append(row)
    together = any(row.shared for row in rows)
    for row in rows:
        problem = overlap_problem(found.sample, row)
        if problem is None:
            continue
        # two modalities may have been measured in different cells, as long as a third one joins them
        if (row.shared == 0 and not together) or row.transformed_fraction >= 0.5:
            found.problem(row.left, problem)
        else:
            found.warnings.append(f"{problem.what}: {problem.why}. {problem.remedy}")
    return rows


def _fragments(
    found: _Findings,
    files: dict[str, Path | None],
    genome: Callable[[], Genome],
    chrom_style: str,
    peaks: pd.DataFrame | None,
    all_peaks: Path | None,
    matrices: dict[str, ad.AnnData],
    cells: list[str] | None,
    mapping: BarcodeMap | None,
) -> tuple[dict[str, Any], Overlap | None]:
    """Check the fragments against genome, peaks and cells; also the room on disk for what is made of them."""
    from multivi_nf.fragments.checks import preflight

    path = files["fragments"]
    assembly = found.attempt("fragments", genome)
    if assembly is None:
        return {}, None
    if peaks is None and all_peaks is not None and not files.get("peaks"):
        with contextlib.suppress(InputError):  # CHECK_INPUTS reads --peaks too and refuses it, once for all samples
            peaks = read_bed(all_peaks)
    if peaks is None and "atac" in matrices:
        peaks = matrices["atac"].var[["chrom", "start", "end"]]
    listed: list[str] = []
    if cells is not None:
        listed = to_atac(cells, mapping)[0]
    elif "rna" in matrices:
        listed = fragment_barcodes(matrices["rna"].obs_names, mapping)
        if mapping is not None and len(listed) < matrices["rna"].n_obs / 2:
            found.warnings.append(
                f"the barcode map knows {len(listed)} of {matrices['rna'].n_obs} RNA barcodes: columns exchanged?"
            )
    problems, warnings, facts = preflight(path, assembly, peaks, barcodes=listed, chrom_style=chrom_style)
    for problem in problems:
        found.problem("fragments", problem)
    found.warnings += warnings
    free, size = shutil.disk_usage(Path.cwd()).free, path.stat().st_size if path.is_file() else 0
    if free < 2 * size + 2**30:
        found.warnings.append(
            f"{free / 2**30:.1f} GB are free here and the fragments take {size / 2**30:.1f} GB: the disk may fill up"
        )
    row = None
    if listed and "listed_found" in facts:
        n, shared = len(listed), facts["listed_found"]
        name = "barcodes" if cells is not None else "rna"
        row = Overlap("fragments", name, facts.get("barcodes", 0), n, shared, shared / n, None, shared / n)
    return facts, row
