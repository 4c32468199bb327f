"""The cells of a finished embedding, the groups they form, and their barcodes in the fragments files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import InputError, option
from multivi_nf.export.peak_genes import parse_peaks
from multivi_nf.inputs.barcodes import BarcodeMap, read_barcode_map
from multivi_nf.inputs.chromosomes import harmonise
from multivi_nf.inputs.genome import Genome
from multivi_nf.inputs.labels import label_text
from multivi_nf.io.hdf5 import reading_hdf5
from multivi_nf.palette import natural
from multivi_nf.regulation.possible import NotPossible


@dataclass(frozen=True)
class Source:
    """One sample's fragments.

    Attributes
    ----------
    sample
        As its cells' names begin: `sample:barcode`.
    fragments
        The file.
    mapping
        ATAC barcode → RNA barcode, where the cells are named by the latter.

    Examples
    --------
    >>> Source("pbmc_1", Path("atac_fragments.tsv.gz")).fragments.name
    'atac_fragments.tsv.gz'
    """

    sample: str
    fragments: Path
    mapping: BarcodeMap | None = None


def read_sources(fragments: Sequence[tuple[str, Path]], maps: Sequence[tuple[str, Path]] = ()) -> list[Source]:
    """Pair samples' fragments with their barcode maps.

    Raises
    ------
    InputError
        A map of a sample without fragments, a sample named twice, or a map that cannot be read.
    """
    names = [name for name, _ in fragments]
    strange = [name for name, _ in maps if name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if strange or twice:
        raise InputError(
            f"{option('barcode_map')} names {strange[0]!r}, which has no {option('fragments')}"
            if strange
            else f"{twice[0]!r} comes twice",
            "which cells a file's barcodes mean could not be known",
            f"give {option('fragments')} SAMPLE=FILE once a sample, and {option('barcode_map')} SAMPLE=FILE for some "
            "of these",
        )
    mapped = {name: read_barcode_map(path) for name, path in maps}
    return [Source(name, path, mapped.get(name)) for name, path in fragments]


def read_cells(path: Path, modality: str = "atac") -> ad.AnnData:
    """Read obs, maps and colours of the cells with a modality; no count is read.

    Parameters
    ----------
    path
        `multivi.h5mu`, as EMBED writes it.
    modality
        Whose cells.

    Returns
    -------
    AnnData (n_cells, 0) with `obs`, `obsm`, and of `uns` the colours.

    Raises
    ------
    NotPossible
        No cell has the modality.
    """
    with reading_hdf5(path) as file:
        if f"mod/{modality}" not in file:
            raise NotPossible(
                f"no sample brings {modality}",
                "there is no accessibility to look at" if modality == "atac" else f"there is no {modality}",
                "add samples with fragments or an atac matrix",
            )
        group = file[f"mod/{modality}"]
        obs = ad.io.read_elem(group["obs"])
        kept: dict[str, dict[str, np.ndarray]] = {"obsm": {}, "uns": {}}
        for name, wanted in (("obsm", lambda key: key == "X_umap"), ("uns", lambda key: key.endswith("_colors"))):
            for key in group.get(name, {}):
                if wanted(key):
                    kept[name][key] = ad.io.read_elem(group[name][key])
    return ad.AnnData(obs=obs, var=pd.DataFrame(index=pd.Index([], dtype=str)), obsm=kept["obsm"], uns=kept["uns"])


def groups_of(obs: pd.DataFrame, column: str) -> pd.Series:
    """Group of each cell, as text; missing where the cell has none.

    Raises
    ------
    NotPossible
        There is no such column, or none of these cells has a value in it.
    """
    if column not in obs:
        known = [name for name in obs if 1 < obs[name].nunique() <= 200 and obs[name].dtype.kind not in "f"]
        raise NotPossible(
            f"{option('groups')} {column}: there is no such column in obs ({', '.join(map(str, known[:12]))}, ...)",
            "whose cells belong together is not known",
            "name a column of the samplesheet, of a sample's `cells` table or of multivi.h5mu, such as cluster",
        )
    found = label_text(obs[column]).rename(column)
    if found.notna().sum() == 0:
        raise NotPossible(
            f"{option('groups')} {column}: none of the {len(obs)} cells with accessibility has a value in it",
            "there would be no group",
            "name a column that these cells have, such as cluster",
        )
    return found


def group_names(groups: pd.Series) -> list[str]:
    """Names of the groups in natural order."""
    return sorted(groups.dropna().unique(), key=natural)


def file_name(group: str) -> str:
    """Give a group's name as it may stand in a file's: other signs than A-Z a-z 0-9 . _ - become _, with a digest."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", group)
    if group and plain == group and not group.startswith(".") and len(group) <= 100:
        return group
    return f"{plain.lstrip('.')[:80]}-{hashlib.md5(group.encode(), usedforsecurity=False).hexdigest()[:8]}"


def rows_of(names: pd.Index, source: Source) -> tuple[np.ndarray, list[str]]:
    """Find the cells of one sample and their barcodes in its fragments file.

    Returns
    -------
    Positions in `names`, and as many barcodes.
    """
    prefix = f"{source.sample}:"
    rows = np.flatnonzero(names.str.startswith(prefix))
    barcodes = [name.removeprefix(prefix) for name in names[rows]]
    return rows, barcodes if source.mapping is None else _in_file(barcodes, source.mapping)


def _in_file(barcodes: list[str], mapping: BarcodeMap) -> list[str]:
    """Undo :func:`multivi_nf.inputs.barcodes.translate`: names outside the map stay, less a prefix given there."""
    inverse = mapping.inverse()
    found = []
    for name in barcodes:
        own = inverse.rna(name)
        bare = name.removeprefix("atac_")
        found.append(own if own is not None else bare if inverse.rna(bare) is not None else name)
    return found


def matched(names: pd.Index, sources: Sequence[Source]) -> list[tuple[Source, np.ndarray, list[str]]]:
    """Give each source its cells; sources none of whose cells was kept are left out.

    Raises
    ------
    NotPossible
        No fragments, or none of a cell.
    """
    if not sources:
        raise NotPossible(
            "no sample brings fragments",
            "where in the genome a cell was cut is in the fragments alone",
            "give the samples' fragments.tsv.gz in the column `fragments`",
        )
    found = [(source, *rows_of(names, source)) for source in sources]
    if not any(len(rows) for _, rows, _ in found):
        raise NotPossible(
            f"none of the {len(names)} cells belongs to a sample with fragments "
            f"({', '.join(source.sample for source in sources[:3])})",
            "their fragments cannot be found",
            "name samples as the cells' names begin (sample:barcode)",
        )
    return [entry for entry in found if len(entry[1])]


def covered(names: pd.Index, sources: Sequence[Source]) -> bool:
    """Tell whether every cell belongs to a sample with fragments."""
    return sum(len(rows_of(names, source)[0]) for source in sources) == len(names) > 0


def read_peak_counts(path: Path, genome: Genome) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Read the counts of peaks of an embedding, and where the peaks lie in the genome's names of chromosomes.

    Returns
    -------
    CSR (n_cells, n_peaks); `chrom`, `start`, `end`: peaks elsewhere keep their own chromosome's name.
    """
    with reading_hdf5(path) as file:
        group = file["mod/atac"]
        counts = ad.io.read_elem(group["layers/counts"] if "layers/counts" in group else group["X"])
        names = ad.io.read_elem(group["var"]).index
    peaks = parse_peaks(names)
    mapping = harmonise(peaks["chrom"].unique(), genome.chrom_sizes, genome.style)
    if not mapping:
        raise NotPossible(
            f"peaks ({', '.join(map(str, names[:3]))}, ...) lie on no chromosome of the genome",
            "genes near them are not known",
            f"give the assembly of the peaks by {option('genome')} or {option('chrom_sizes', shell='--chrom_sizes')}; "
            "peaks are named chrom:start-end",
        )
    return sparse.csr_matrix(counts), peaks.assign(chrom=peaks["chrom"].map(lambda name: mapping.get(name, name)))
