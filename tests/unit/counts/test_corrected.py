"""What tools that correct for ambient RNA write: CellBender as it is, SoupX's fractions refused with its remedy."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy import sparse

from multivi_nf.counts.read import read_counts
from multivi_nf.errors import InputError
from multivi_nf.testing.files import barcodes, counts, features, write_10x, write_h5ad

CELLS = barcodes(30)


def cellbender(path, version: int, matrix: sparse.csr_matrix):
    """Write the layout of CellBender 0.2 or 0.3: Cell Ranger's, with what it learned beside it."""
    write_10x(path, matrix, CELLS, features())
    n = matrix.shape[0]
    with h5py.File(path, "a") as file:
        file["matrix/features/genome"] = np.array(["GRCh38"] * matrix.shape[1], dtype="S")
        if version == 2:
            file["matrix/latent_cell_probability"] = np.linspace(0, 1, n)
            file["matrix/latent_gene_encoding"] = np.zeros((n, 5))
            file["matrix/ambient_expression"] = np.full(matrix.shape[1], 0.1)
            file["matrix/barcode_indices_for_latents"] = np.arange(n)
        else:
            file["droplet_latents/cell_probability"] = np.linspace(0, 1, n)
            file["droplet_latents/background_fraction"] = np.full(n, 0.1)
            file["global_latents/ambient_expression"] = np.full(matrix.shape[1], 0.1)
            file["metadata/barcodes_analyzed"] = np.array(CELLS, dtype="S")
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("modality", "columns"), [("rna", slice(0, 30)), ("protein", slice(50, 54))])
def test_cellbender_is_read_as_it_is(tmp_path, version, modality, columns):
    matrix = counts(30, 54)
    read = read_counts(cellbender(tmp_path / "out_filtered.h5", version, matrix), modality)
    assert read.obs_names.tolist() == CELLS
    assert (read.X.toarray() == matrix.toarray()[:, columns]).all()


def test_soupx_fractions_are_refused_and_its_remedy_is_taken(tmp_path):
    matrix = counts(30, 20)
    corrected = matrix.astype(np.float32) * 0.93
    path = write_h5ad(tmp_path / "soupx.h5ad", corrected, CELLS, [f"G{i}" for i in range(20)])
    with pytest.raises(InputError, match="not whole numbers") as caught:
        read_counts(path, "rna")
    assert "roundToInt=TRUE" in caught.value.remedy
    rounded = sparse.csr_matrix(np.floor(corrected.toarray() + np.random.default_rng(0).random(corrected.shape)))
    path = write_h5ad(tmp_path / "rounded.h5ad", rounded.astype(np.float32), CELLS, [f"G{i}" for i in range(20)])
    assert (read_counts(path, "rna").X.toarray() == rounded.toarray()).all()
