"""Default QC keeps at least 80 % of every real set's cells."""

from __future__ import annotations

import pytest

from multivi_nf.counts.read import read_counts
from multivi_nf.qc.atac import qc_atac
from multivi_nf.qc.protein import qc_protein
from multivi_nf.qc.rna import qc_rna

SETS = [
    ("snare_mouse_cortex_dev/rna.h5ad", qc_rna),
    ("snare_mouse_cortex_dev/atac.h5ad", qc_atac),
    ("myeloma_multiome_mosaic/rna.h5ad", qc_rna),
    ("myeloma_multiome_mosaic/atac.h5ad", qc_atac),
    ("bmmc_neurips_mini/multiome_rna.h5ad", qc_rna),
    ("bmmc_neurips_mini/multiome_atac.h5ad", qc_atac),
    ("bmmc_neurips_mini/cite_rna.h5ad", qc_rna),
    ("bmmc_neurips_mini/cite_protein.h5ad", qc_protein),
    ("pbmc1k_citeseq_10x/filtered_feature_bc_matrix.h5", qc_rna),
    ("pbmc1k_citeseq_10x/filtered_feature_bc_matrix.h5", qc_protein),
    ("pbmc_citeseq_mosaic_mini/rna.h5ad", qc_rna),
    ("pbmc_citeseq_mosaic_mini/protein.h5ad", qc_protein),
    ("fragments_pbsmall_hg19/rna_unpaired.h5ad", qc_rna),
    ("fragments_pbsmall_hg19/expected_peaks_fragment_overlap.h5", qc_atac),
]


@pytest.mark.parametrize(("name", "step"), SETS, ids=[f"{name}-{step.__name__}" for name, step in SETS])
def test_default_qc_keeps_the_cells(shared_data, monkeypatch, name, step):
    # which cells stay does not depend on doublets, whose scores take most of the time
    monkeypatch.setattr("multivi_nf.qc.doublets.LEAST_CELLS", 10**9)
    folder, file = name.split("/")
    modality = step.__name__.removeprefix("qc_")
    summary = step(read_counts(shared_data(folder) / file, modality), "s").summary
    assert summary.cells_out >= 0.8 * summary.cells_in
    assert summary.warnings == []
