"""The cells × peaks matrix as AnnData."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.fragments.count import scan
from multivi_nf.inputs.genome import Genome
from multivi_nf.io.hdf5 import check_hdf5


def peak_names(peaks: pd.DataFrame) -> list[str]:
    """Names `chrom:start-end` of peaks, in their order."""
    return [f"{c}:{s}-{e}" for c, s, e in zip(peaks["chrom"], peaks["start"], peaks["end"])]


def read_matrix(path: str | Path) -> ad.AnnData:
    """Read a matrix that `multivi-nf count-peaks` wrote.

    Raises
    ------
    InputError
        Another file, or a damaged one.
    """
    check_hdf5(Path(path))
    matrix = ad.read_h5ad(path)
    try:
        matrix.X.check_format(full_check=True)  # anndata puts a sparse matrix together without a look
        places = matrix.var[["chrom", "start", "end"]]
        whole = all(np.issubdtype(places[name].to_numpy().dtype, np.integer) for name in ("start", "end"))
        whole = whole and np.issubdtype(matrix.X.dtype, np.integer) and not (matrix.X.data < 0).any()
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        whole = False
    if not whole:
        raise InputError(
            f"{path} does not hold counts in peaks as count-peaks writes them",
            "cells would be judged by something else",
            "run count-peaks again, and give its output",
        )
    return matrix


def count_peaks(
    path: str | Path, peaks: pd.DataFrame, barcodes: Sequence[str], genome: Genome, *, strategy: str = "fragment"
) -> ad.AnnData:
    """Count the fragments of cells in peaks.

    Parameters
    ----------
    path
        Fragments file.
    peaks
        Columns `chrom`, `start`, `end`; their order is the order of the columns.
    barcodes
        The cells; their order is the order of the rows. Those without fragments get empty rows.
    genome
        Chromosome sizes and the mitochondrial chromosome.
    strategy
        See :func:`multivi_nf.fragments.count.scan`.

    Returns
    -------
    `X` CSR int32; `obs` `atac_n_fragments`, `atac_n_fragments_in_peaks`, `atac_frip`; `var` `chrom`, `start`, `end`;
    `uns["counting_strategy"]`, `uns["multivi_nf"]`.

    Raises
    ------
    InputError
        None of the barcodes has a fragment, or anything that :func:`multivi_nf.fragments.count.scan` refuses.
    """
    if len(barcodes) == 0:
        raise InputError("the list of cells is empty", "there is nothing to count", "give at least one barcode")
    found = scan(
        path,
        genome,
        barcodes=barcodes,
        only_these=True,
        peaks=peaks,
        strategy=strategy,
        quality=False,
    )
    empty = found.table["n_fragments"].to_numpy() == 0
    if empty.all():
        raise InputError(
            f"none of the {len(barcodes)} barcodes ({', '.join(barcodes[:3])}, ...) has a fragment in {path}",
            "the matrix would be empty",
            "give the barcodes as in column 4 of the fragments file; `barcode_map` translates RNA barcodes",
        )
    obs = pd.DataFrame(
        {
            "atac_n_fragments": found.table["n_fragments"],
            "atac_n_fragments_in_peaks": found.table["n_in_peaks"],
            "atac_frip": found.table["frip"],
        }
    )
    obs.index = pd.Index(list(barcodes), dtype=object)
    var = pd.DataFrame(
        {"chrom": peaks["chrom"].to_numpy(), "start": peaks["start"].to_numpy(), "end": peaks["end"].to_numpy()},
        index=pd.Index(peak_names(peaks), dtype=object),
    )
    settings = {
        "counting_strategy": strategy,
        "cells_without_fragments": int(empty.sum()),
        "fragments_left_out": found.facts.left_out,
        "peaks_past_the_end": found.peaks_outside,
        "renamed_chromosomes": {"fragments": found.facts.renamed, "peaks": found.renamed_peaks},
    }
    uns = {"counting_strategy": strategy, "multivi_nf": json.dumps(settings)}
    return ad.AnnData(found.matrix, obs=obs, var=var, uns=uns)
