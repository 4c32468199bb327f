"""The mosaic in memory is the one on disk."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from multivi_nf.simulate import PRESETS, simulate, simulated_mosaic


def test_memory_and_files_hold_the_same_counts(tmp_path):
    options = PRESETS["test"].resized(fragments=False)
    simulate(options, tmp_path / "m")
    mosaic, truth = simulated_mosaic(options)
    assert list(mosaic.mod) == ["rna", "atac", "protein"]
    for sample, modality, file in (
        ("rna_1", "rna", "filtered_feature_bc_matrix.h5"),
        ("atac_1", "atac", "filtered_peak_bc_matrix.h5"),
        ("cite_1", "protein", "filtered_feature_bc_matrix.h5"),
    ):
        with h5py.File(tmp_path / "m" / sample / file) as h5:
            m = h5["matrix"]
            counts = sp.csc_matrix((m["data"][:], m["indices"][:], m["indptr"][:]), shape=m["shape"][:]).T.tocsr()
            names = pd.Index(np.char.decode(m["features/id"][:]))
            cells = f"{sample}:" + pd.Index(np.char.decode(m["barcodes"][:]))
        part = mosaic[modality][cells]
        ours = part.layers["counts"] if modality == "atac" else part.X
        assert (ours != counts[:, names.get_indexer(part.var_names)]).nnz == 0
    assert set(mosaic["atac"].X.data) == {1}
    assert not mosaic["protein"].var_names.str.startswith("IgG").any()
    assert set(mosaic.obs["modality"]) == {"rna+atac", "rna", "atac", "rna+protein"}
    assert (mosaic.obs["type"] == truth.cells.loc[mosaic.obs_names, "cell_type"]).all()
    assert truth.expression(mosaic.obs_names[:5]).shape == (5, options.genes)
    assert truth.protein(mosaic.obs_names[:5]).shape == (5, options.proteins)
