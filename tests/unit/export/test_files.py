from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from multivi_nf.commands import exit_code
from multivi_nf.export.h5ad import single_modality, write_h5ad
from multivi_nf.export.modalities import fill_modalities, tidy
from multivi_nf.export.normalise import log_normalised
from multivi_nf.export.tables import cells_table, clusters_table
from multivi_nf.mosaic.read import _staying
from multivi_nf.palette import CATEGORIES, colour, colours_of

REPOSITORY = Path(__file__).parents[3]


def test_each_modality_stands_alone_after_reading(embedded, tmp_path):
    fill_modalities(embedded).write_h5mu(tmp_path / "m.h5mu")
    found = mudata.read_h5mu(tmp_path / "m.h5mu")
    for name in ("rna", "atac"):
        part, rows = found[name], found.obs_names.get_indexer(found[name].obs_names)
        assert part.obs["cluster"].tolist() == found.obs["cluster"].iloc[rows].tolist()
        np.testing.assert_array_equal(part.obsm["X_umap"], found.obsm["X_umap"][rows])
        np.testing.assert_array_equal(part.obsm["X_multivi"], found.obsm["X_multivi"][rows])
        assert np.isfinite(part.obsm[f"X_multivi_{name}"]).all()
        np.testing.assert_array_equal(
            part.obsp["connectivities"].toarray(), found.obsp["connectivities"][rows][:, rows].toarray()
        )
        assert part.uns["neighbors"]["connectivities_key"] == "connectivities"
        assert list(part.uns["cluster_colors"]) == list(CATEGORIES[:3])
    assert found["rna"].var["symbol"].tolist()[6:9] == ["G6", "G6", ""], "symbols stay as they came"
    assert found.obs["cell_type"].isna().sum() == 24 and "nan" not in found.obs["cell_type"].cat.categories


def test_scanpy_draws_what_a_modality_holds(embedded, tmp_path):
    import matplotlib
    import scanpy as sc
    from matplotlib.colors import to_hex

    matplotlib.use("Agg")
    fill_modalities(embedded).write_h5mu(tmp_path / "m.h5mu")
    found = mudata.read_h5mu(tmp_path / "m.h5mu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = sc.pl.umap(found["rna"], color="cluster", show=False, return_fig=True)
    drawn = {to_hex(c) for c in figure.axes[0].collections[0].get_facecolors()}
    assert drawn == set(CATEGORIES[:3])
    sc.tl.leiden(found["atac"], flavor="igraph", n_iterations=1, directed=False)  # finds the graph
    assert "leiden" in found["atac"].obs


def test_h5ad_of_one_modality(embedded, tmp_path):
    import scanpy as sc

    write_h5ad(fill_modalities(embedded), tmp_path)
    rna, atac = sc.read_h5ad(tmp_path / "rna.h5ad"), sc.read_h5ad(tmp_path / "atac.h5ad")
    assert rna.var_names[6:9].tolist() == ["G6", "G6-1", "ENSG008"] and rna.var_names.is_unique
    assert rna.var["gene_id"].tolist()[:2] == ["ENSG000", "ENSG001"]
    assert rna.raw is None and rna.layers["counts"].dtype.kind == "i" and rna.X.dtype == np.float32
    counts = rna.layers["counts"].toarray()
    np.testing.assert_allclose(rna.X.toarray(), np.log1p(counts / counts.sum(1, keepdims=True) * 1e4), rtol=1e-5)
    assert (atac.layers["counts"] != embedded["atac"].layers["counts"]).nnz == 0
    for data in (rna, atac):
        assert set(data.obsm) >= {"X_umap", "X_multivi"} and all(np.isfinite(v).all() for v in data.obsm.values())
        assert len(data.uns["modality_colors"]) == len(data.obs["modality"].cat.categories) == 2
        assert all(not isinstance(data.obs[c].iloc[0], str) or data.obs[c].dtype == "category" for c in data.obs)
    first = (tmp_path / "rna.h5ad").read_bytes()
    write_h5ad(embedded, tmp_path / "again")
    assert (tmp_path / "again" / "rna.h5ad").read_bytes() == first


@pytest.mark.parametrize("rows", [7, 2048])
def test_the_same_bytes_with_counts_in_the_file_and_in_memory(embedded, tmp_path, monkeypatch, rows):
    fill_modalities(embedded).write_h5mu(tmp_path / "m.h5mu")
    monkeypatch.setattr("multivi_nf.mosaic.read.read_tables", lambda path, counts: None)
    assert exit_code(["export", str(tmp_path / "m.h5mu"), "--output", str(tmp_path / "whole")]) == 0
    monkeypatch.undo()
    staying = []
    monkeypatch.setattr("multivi_nf.mosaic.rows.runs.__defaults__", (rows,))
    monkeypatch.setattr("multivi_nf.mosaic.read._staying", lambda group: staying.append(group) or _staying(group))
    assert exit_code(["export", str(tmp_path / "m.h5mu"), "--output", str(tmp_path / "runs")]) == 0
    assert len(staying) == 2, "counts of both modalities stay in the file"
    written = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    assert [p.name for p in written if p.suffix == ".h5ad"] == ["atac.h5ad", "rna.h5ad"] and len(written) > 6
    for path in written:
        assert (tmp_path / "runs" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), path


def test_columns_of_x_and_counts_stand_once_in_an_h5ad(embedded, tmp_path):
    write_h5ad(fill_modalities(embedded), tmp_path)
    with h5py.File(tmp_path / "rna.h5ad") as file:
        assert all(file["X"][part] == file["layers/counts"][part] for part in ("indices", "indptr"))


def test_normalisation_by_hand():
    counts = sparse.csr_matrix(np.array([[1, 3, 0], [0, 0, 0], [2, 2, 4]]))
    rna = log_normalised(counts, "rna").toarray()
    np.testing.assert_allclose(rna, np.log1p([[2500, 7500, 0], [0, 0, 0], [2500, 2500, 5000]]), rtol=1e-6)
    clr = log_normalised(counts, "protein").toarray()
    np.testing.assert_allclose(clr[0], np.log1p(np.array([1, 3, 0]) / 8 ** (1 / 3)), rtol=1e-6)


def test_no_category_is_called_nan():
    obs = pd.DataFrame(
        {
            "a": ["x", "nan", None],
            "b": pd.Categorical(["nan", "10", "9"]),
            "c": pd.Categorical([1, 2, None]),
            "d": [1.0, np.nan, 2],
        }
    )
    found = tidy(obs)
    assert found["a"].cat.categories.tolist() == ["x"] and found["a"].isna().tolist() == [False, True, True]
    assert found["b"].cat.categories.tolist() == ["9", "10"] and found["b"].isna().sum() == 1
    assert found["c"].cat.categories.tolist() == ["1", "2"]
    assert found["d"].dtype == float


def test_colours_are_one_each():
    many = colours_of([str(k) for k in range(200)])
    assert len(set(many.values())) == 200 and many["3"] == colour(3)
    assert colours_of(["atac", "rna"])["rna"] == colours_of(["rna", "rna+atac"])["rna"]


def test_the_command_writes_all_and_refuses_a_mosaic_without_map(embedded, tmp_path, capsys):
    from multivi_nf.commands import main

    embedded.write_h5mu(tmp_path / "m.h5mu")
    main(["export", str(tmp_path / "m.h5mu"), "--output", str(tmp_path / "out"), "--title", "x", "--h5ad", "false"])
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert found.pop(0) == ".multivi-nf.export.json"
    assert found == ["cells.tsv.gz", "clusters.tsv", "explorer.html", "markers/atac.tsv.gz", "markers/rna.tsv.gz"]
    del embedded.obsm["X_umap"]
    embedded.write_h5mu(tmp_path / "n.h5mu")
    with pytest.raises(SystemExit) as left:
        main(["export", str(tmp_path / "n.h5mu"), "--output", str(tmp_path / "none")])
    assert left.value.code == 2 and "X_umap" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_tables_of_cells_and_clusters(embedded):
    fill_modalities(embedded)
    cells = cells_table(embedded)
    assert cells["cell"].tolist() == embedded.obs_names.tolist()
    np.testing.assert_array_equal(cells[["umap_1", "umap_2"]].to_numpy(), embedded.obsm["X_umap"])
    assert {"latent_1", "latent_4", "cluster", "depth"} <= set(cells)
    clusters = clusters_table(embedded.obs)
    assert clusters["cells"].sum() == embedded.n_obs
    own = embedded.obs[(embedded.obs["sample"] == "s0") & (embedded.obs["modality"] == "rna")]
    row = clusters[(clusters["cluster"] == "1") & (clusters["sample"] == "s0") & (clusters["modality"] == "rna")].iloc[
        0
    ]
    assert row["cells"] == (own["cluster"] == "1").sum()
    assert row["share_of_sample"] == pytest.approx(row["cells"] / len(own))


def test_r_reads_it_into_seurat(embedded, tmp_path):
    """Where R with rhdf5 and Seurat is (Debian: r-bioc-rhdf5, r-cran-seurat; `make test-deploy` installs them)."""
    probe = 'quit(status = !all(sapply(c("rhdf5", "Seurat", "Matrix"), requireNamespace, quietly = TRUE)))'
    if shutil.which("Rscript") is None or subprocess.run(["Rscript", "-e", probe], capture_output=True).returncode:
        pytest.skip("no R with rhdf5 and Seurat here")
    n = embedded.n_obs
    embedded.obs["checked"] = pd.array(([True, False, None] * n)[:n], dtype="boolean")
    write_h5ad(fill_modalities(embedded), tmp_path)
    script = f"""source("{REPOSITORY}/assets/read_multivi.R")
    x <- read_multivi("rna.h5ad"); counts <- Seurat::GetAssayData(x, slot = "counts")
    cat(dim(counts), sum(counts), rownames(counts)[8], colnames(counts)[1], as.character(x$cluster[1]),
        dim(Seurat::Embeddings(x, "umap")), Seurat::Embeddings(x, "umap")[2, 1], sep = "\\n")
    cat("", class(x$checked), sum(x$checked, na.rm = TRUE), sum(is.na(x$checked)), class(x$has_rna), sum(x$has_rna), "")
    saveRDS(x, "x.rds")"""
    done = subprocess.run(["Rscript", "-e", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rna = ad.read_h5ad(tmp_path / "rna.h5ad")
    said = done.stdout.split()
    assert [int(v) for v in said[:3]] == [rna.n_vars, rna.n_obs, rna.layers["counts"].sum()]
    assert said[3:6] == [rna.var_names[7], rna.obs_names[0], str(rna.obs["cluster"].iloc[0])]
    assert [int(v) for v in said[6:8]] == [rna.n_obs, 2]
    assert float(said[8]) == pytest.approx(float(rna.obsm["X_umap"][1, 0]), rel=1e-4)
    checked = rna.obs["checked"]
    assert said[9:12] == ["logical", str(int(checked.sum())), str(int(checked.isna().sum()))], "missing stays missing"
    assert said[12:] == ["logical", str(int(rna.obs["has_rna"].sum()))]
    assert (tmp_path / "x.rds").stat().st_size > 1000
    assert single_modality(embedded, "rna").n_obs == rna.n_obs


def test_names_that_are_taken_are_given_another_one(embedded, tmp_path):
    embedded.obs["cell"], embedded.obs["umap_1"], embedded["rna"].var["gene_id"] = "mine", -7.0, "hgnc"
    fill_modalities(embedded)
    table = cells_table(embedded)
    assert table.columns.is_unique and table["cell"].tolist() == embedded.obs_names.tolist()
    assert set(table["cell_given"]) == {"mine"} and set(table["umap_1_given"]) == {-7.0}
    np.testing.assert_array_equal(table["umap_1"], embedded.obsm["X_umap"][:, 0])
    var = single_modality(embedded, "rna").var
    assert var["gene_id"].tolist() == embedded["rna"].var_names.tolist() and set(var["gene_id_given"]) == {"hgnc"}


def test_a_store_that_names_no_modality_is_refused(embedded, tmp_path, capsys):
    """It was left out without a word."""
    embedded.write_h5mu(tmp_path / "m.h5mu")
    (tmp_path / "imputed_rna.zarr").mkdir()
    words = [str(tmp_path / "m.h5mu"), str(tmp_path / "imputed_rna.zarr"), "--output", str(tmp_path / "out")]
    assert exit_code(["export", *words]) == 2
    assert "'imputed_rna' is no modality" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["nan", "inf"])
def test_a_budget_is_a_finite_number(tmp_path, capsys, size):
    assert exit_code(["export", str(tmp_path / "m.h5mu"), "--explorer-size", size, "--output", str(tmp_path)]) == 2
    assert "is not a finite number" in capsys.readouterr().err


def test_a_modality_of_strangers_is_refused_before_anything_is_written(embedded, tmp_path, capsys):
    """Someone added their own to multivi.h5mu; its name need not even be fit for a file."""
    embedded.mod["..\\else"] = embedded.mod["rna"].copy()
    embedded.write_h5mu(tmp_path / "m.h5mu")
    assert exit_code(["export", str(tmp_path / "m.h5mu"), "--output", str(tmp_path / "out")]) == 2
    assert "no step of multivi-nf writes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
