"""What can be known of one sample's files in seconds; problems are collected, not raised."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from multivi_nf.inputs.genome import Genome
from multivi_nf.inputs.intervals import read_bed
from multivi_nf.inputs.labels import label_text
from multivi_nf.inputs.samplesheet import Sample
from multivi_nf.modalities import MODALITIES, Modality
from multivi_nf.preflight.checked import CheckedSample, GeneMatrix, Matrix, ProteinMatrix, pack

MOST_VALUES = 1000
"""An annotation column with more different values than this is no grouping and is not listed."""


def check_sample(row: Sample, genome: Callable[[], Genome], all_peaks: Path | None = None) -> CheckedSample:
    """Check all files of one sample.

    Parameters
    ----------
    row
        The sample: its files and what the samplesheet says of them.
    genome
        Gives the genome; called only where coordinates are read.
    all_peaks
        Peaks of the whole run, if known.
    """
    return _Look(row, genome, all_peaks).result()


class _Look:
    """One sample's files, read one after the other; what is found of them goes into `found`."""

    def __init__(self, row: Sample, genome: Callable[[], Genome], all_peaks: Path | None) -> None:
        self.row, self.genome, self.all_peaks = row, genome, all_peaks
        self.files = {column: Path(path) for column, path in row.files.items() if path}
        self.found = CheckedSample(row.sample)
        self.mapping: BarcodeMap | None = None
        self.cells: list[str] | None = None
        self.matrices: dict[str, ad.AnnData] = {}

    def result(self) -> CheckedSample:
        """Look at all of it."""
        found, files = self.found, self.files
        if "barcode_map" in files:
            self.mapping = found.attempt("barcode_map", partial(read_barcode_map, files["barcode_map"]))
        if "barcodes" in files:
            self.cells = found.attempt("barcodes", partial(read_barcodes, files["barcodes"]))
        found.h5mu = self._held()
        for modality in MODALITIES:
            path = files["h5mu"] if modality in found.h5mu else files.get(modality)
            if path is not None and not ("barcodes" in files and self.cells is None):
                self._read(modality, path)
        tables = [matrix.obs for matrix in self.matrices.values()] or self._tables()
        named = {column: self._named(column, name, tables) for column, name in self.row.naming.items()}
        found.batches, found.samples = named.get("batch_column", []), named.get("sample_column", [])
        found.annotations = {**self._hashtags(), **_annotations(tables)}
        found.overlap = self._overlaps()
        peaks = found.attempt("peaks", partial(read_bed, files["peaks"])) if "peaks" in files else None
        if "fragments" in files:
            self._fragments(files["fragments"], peaks)
        for modality, counts in self.matrices.items():
            setattr(found.modalities, modality, _facts(modality, counts))
        return found

    def _read(self, modality: str, path: Path) -> None:
        found, listed, mapping = self.found, self.cells, self.mapping if modality == "atac" else None
        if modality == "atac" and "fragments" in self.files:
            found.notes.append("the row has fragments and an atac matrix: the fragments are counted, the matrix is not")
        if modality == "atac" and listed is not None:
            listed = to_atac(listed, mapping)[0]
        counts = found.attempt(modality, partial(read_counts, path, modality, listed))
        if counts is None:
            return
        self.matrices[modality] = counts
        tables = [self.files.get("barcodes"), self.files.get("cells")]
        found.attempt("cells", partial(add_tables, counts, tables, self.row.sample, mapping))
        found.notes += counts.uns["notes"]
        found.warnings += [*counts.uns["warnings"], *_aggregated(modality, counts)]

    def _hashtags(self) -> dict[str, list[str]]:
        """Look for the sample's hashtags; the columns of `obs` that they will give, and their values."""
        files, names = self.files, self.row.hto_features
        path = files.get("hto") or ((files.get("protein") or files.get("rna") or files.get("h5mu")) if names else None)
        if path is None:
            return {}
        listed = self.cells
        if listed is None and self.matrices:
            listed = next(iter(self.matrices.values())).obs_names.tolist()
        tags = self.found.attempt("hto", partial(read_hashtags, path, listed, tag_names(names)))
        if tags is None:
            return {}
        own = tags.var_names.tolist()
        if len(own) < 2:
            self.found.problem("hto", one_tag(self.row.sample, own))
        self.found.notes.append(f"hashtags: {', '.join(own[:12])}")
        return {"hashtag": own, "donor": own, "hashtag_class": ["singlet", "doublet", "negative"]}

    def _held(self) -> list[Modality]:
        """Modalities that the sample's h5mu gives: those that no other column names."""
        files = self.files
        if "h5mu" not in files:
            return []
        inside = self.found.attempt("h5mu", partial(modalities_of, files["h5mu"])) or []
        taken = [m for m in inside if m not in files and not (m == "atac" and "fragments" in files)]
        if inside and not taken:
            self.found.problem(
                "h5mu",
                InputError(
                    f"{files['h5mu']} holds {', '.join(inside)}, each of which another column of the row names",
                    "nothing would be read from it",
                    "leave h5mu empty, or the columns of the modalities that it should give",
                ),
            )
        return taken

    def _tables(self) -> list[pd.DataFrame]:
        """What per-cell tables say, of a sample whose cells are known from fragments only."""
        columns = [column for column in ("barcodes", "cells") if column in self.files]
        read = [self.found.attempt(column, partial(read_cell_table, self.files[column])) for column in columns]
        return [tidy(table.columns, "table")[0] for table in read if table is not None]

    def _named(self, column: str, name: str, tables: list[pd.DataFrame]) -> list[str]:
        """Values of the column that the samplesheet names; a column that is not there, or empty, is a problem."""
        holders = [table for table in tables if given_name(name) in table]
        values = [value for table in holders for value in label_text(table[given_name(name)]).dropna().unique()]
        what = column.removesuffix("_column")
        if values:
            without = max(int(label_text(table[given_name(name)]).isna().sum()) for table in holders)
            if without:
                self.found.warnings.append(
                    f"{without} cells have no value in {name!r}, which {column} names: they keep the row's own {what}"
                )
            return list(dict.fromkeys(values))
        there = list(dict.fromkeys(str(c) for table in tables for c in table.columns))
        self.found.problem(
            column,
            InputError(
                f"{name!r} is {'empty in all cells' if holders else 'no column of its cells'} (there are "
                f"{', '.join(there[:20]) or 'none'})",
                f"which cell belongs to which {what} cannot be known",
                "name one of these columns, or add it to the table in the column cells",
            ),
        )
        return []

    def _overlaps(self) -> list[Overlap]:
        """Compare the barcodes of every two matrices of the sample."""
        pairs = [
            (left, right)
            for left, right in (("atac", "rna"), ("protein", "rna"), ("atac", "protein"))
            if {left, right} <= self.matrices.keys() and not (left == "atac" and "fragments" in self.files)
        ]
        rows = [self._overlap(left, right) for left, right in pairs]
        together = any(row.shared for row in rows)
        for row in rows:
            problem = overlap_problem(self.row.sample, row)
            if problem is None:
                continue
            # two modalities may have been measured in different cells, as long as a third one joins them
            if (row.shared == 0 and not together) or row.transformed_fraction >= 0.5:
                self.found.problem(row.left, problem)
            else:
                self.found.warnings.append(f"{problem.what}: {problem.why}. {problem.remedy}")
        return rows

    def _overlap(self, left: str, right: str) -> Overlap:
        own, others = self.matrices[left].obs_names.tolist(), self.matrices[right].obs_names.tolist()
        if left == "atac" and self.mapping is not None:
            translated = self.found.attempt("barcode_map", partial(translate, own, self.mapping))
            own = own if translated is None else translated[0]
        met = meeting(own, others)
        if met is not None:
            first = next(iter(met[0]))
            self.found.warnings.append(
                f"{left} barcodes meet those of {right} without {met[1]} ({first} is {met[0][first]}): they are "
                "taken as the same cells"
            )
            own = [met[0].get(name, name) for name in own]
        return overlap(own, others, (left, right))

    def _fragments(self, path: Path, peaks: pd.DataFrame | None) -> None:
        """Check the fragments against genome, peaks and cells; also the room on disk for what is made of them."""
        from multivi_nf.fragments.checks import preflight

        found = self.found
        genome = found.attempt("fragments", self.genome)
        if genome is None:
            return
        if peaks is None and self.all_peaks is not None and "peaks" not in self.files:
            with contextlib.suppress(InputError):  # CHECK_INPUTS reads --peaks too and refuses it, once for all samples
                peaks = read_bed(self.all_peaks)
        if peaks is None and "atac" in self.matrices:
            peaks = self.matrices["atac"].var[["chrom", "start", "end"]]
        listed: list[str] = []
        if self.cells is not None:
            listed = to_atac(self.cells, self.mapping)[0]
        elif "rna" in self.matrices:
            rna = self.matrices["rna"]
            listed = fragment_barcodes(rna.obs_names, self.mapping)
            if self.mapping is not None and len(listed) < rna.n_obs / 2:
                found.warnings.append(
                    f"the barcode map knows {len(listed)} of {rna.n_obs} RNA barcodes: columns exchanged?"
                )
        problems, warnings, facts = preflight(path, genome, peaks, barcodes=listed)
        for problem in problems:
            found.problem("fragments", problem)
        found.warnings += warnings
        found.fragments = facts
        free, size = shutil.disk_usage(Path.cwd()).free, path.stat().st_size if path.is_file() else 0
        if free < 2 * size + 2**30:
            found.warnings.append(
                f"{free / 2**30:.1f} GB are free here and the fragments take {size / 2**30:.1f} GB: the disk may fill "
                "up"
            )
        if listed and facts.listed_found is not None:
            share = facts.listed_found / len(listed)
            name = "barcodes" if self.cells is not None else "rna"
            found.overlap.append(
                Overlap("fragments", name, facts.barcodes or 0, len(listed), facts.listed_found, share, None, share)
            )


def _aggregated(modality: str, counts: ad.AnnData) -> list[str]:
    """Tell a run that was aggregated from several wells: their cells are one sample here."""
    suffixes = counts.obs_names.str.extract(r"-(\d+)$")[0].dropna().unique()
    if not 1 < len(suffixes) < 100:
        return []
    return [
        f"{modality}: barcodes end in {len(suffixes)} different suffixes (-{suffixes[0]}, -{suffixes[1]}, ..): the "
        "wells of an aggregated run are taken as one sample; doublets and outliers are better found by well (one row "
        "each, its cells in the column barcodes)"
    ]


def _facts(modality: str, counts: ad.AnnData) -> Matrix:
    names, symbols = counts.var_names.tolist(), counts.var["symbol"].astype(str).tolist()
    numbers = (counts.n_obs, counts.n_vars, pack(names), names[:3])
    if modality == "rna":
        return GeneMatrix(*numbers, pack(symbols), species_of(names) or species_of(symbols))
    if modality == "protein":
        return ProteinMatrix(*numbers, counts.var_names[counts.var["isotype"]].tolist())
    return Matrix(*numbers)


def _annotations(tables: list[pd.DataFrame]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for obs in tables:
        for column in map(str, obs.columns):
            values = label_text(obs[column]).dropna().unique().tolist()
            if len(values) <= MOST_VALUES:
                columns[column] = list(dict.fromkeys([*columns.get(column, []), *values]))
    return columns
