"""The files for other tools, opened by those tools, each in an environment of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
import venv
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests.conftest import skip_or_fail
from tools import setup

from multivi_nf.export.h5ad import write_h5ad
from multivi_nf.export.modalities import fill_modalities
from multivi_nf.imputation.store import Store, gather
from multivi_nf.report import write_report
from multivi_nf.testing.mosaics import embedded_mosaic
from multivi_nf.testing.results import make_results

pytestmark = pytest.mark.deploy
REPOSITORY = Path(__file__).resolve().parents[2]


def environment(folder: Path, *packages: str) -> Path:
    """`bin` of a new environment with packages from PyPI, put there by what `make setup` installs with."""
    tools = setup.bootstrap() / "bin" / "python"
    venv.create(folder, symlinks=True)
    command = [tools, "-m", "uv", "pip", "install", "-q", "--python", folder / "bin" / "python", *packages]
    lent = setup.installer_environment([tools, "-m", "pip"])
    done = subprocess.run(command, env=lent, capture_output=True, text=True, check=False)
    if done.returncode:
        skip_or_fail(f"uv pip install {' '.join(packages)}: {done.stderr[-500:]}")
    return folder / "bin"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """h5ad/ and rna.zarr of a mosaic of 120 cells."""
    folder = tmp_path_factory.mktemp("files")
    mosaic = fill_modalities(embedded_mosaic())
    mosaic.write_h5mu(folder / "multivi.h5mu")
    write_h5ad(mosaic, folder / "h5ad")
    obs = pd.DataFrame({"measured": mosaic.obs["has_rna"].to_numpy(bool)}, index=mosaic.obs_names)
    uns = {"calibrated": True, "multivi_nf": json.dumps({"modality": "rna", "first_cell": 0})}
    store = Store(folder / "part.zarr", ad.AnnData(obs=obs, var=pd.DataFrame(index=["g0", "g1"]), uns=uns), ["X", "sd"])
    values = np.arange(240, dtype=np.float32).reshape(120, 2)
    store.write(slice(0, 120), X=values, sd=values)
    gather([folder / "part.zarr"], folder / "rna.zarr", folder / "multivi.h5mu")
    return folder


READ = """import sys, anndata, numpy
x = anndata.read_zarr(sys.argv[1]); total = float(numpy.asarray(x.X[:]).sum())
print(x.shape, total, x.obs["cluster"].dtype, x.obsm["X_umap"].shape)
y = anndata.read_h5ad(sys.argv[2]); print(y.shape, int(y.layers["counts"].sum()), y.raw)"""


@pytest.mark.parametrize(
    "packages", [("anndata==0.10.9", "zarr<3", "numpy<2", "scipy<1.14"), ("anndata==0.11.4", "zarr<3")]
)
def test_older_anndata(files, tmp_path, packages):
    python = environment(tmp_path / "venv", *packages) / "python"
    arguments = [python, "-c", READ, files / "rna.zarr", files / "h5ad" / "rna.h5ad"]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == f"(120, 2) {float(np.arange(240).sum())} category (120, 2)"
    rna = ad.read_h5ad(files / "h5ad" / "rna.h5ad")
    assert said[1] == f"{rna.shape} {rna.layers['counts'].sum()} None"


def test_cellxgene_serves_it(files, tmp_path):
    program = environment(tmp_path / "venv", "cellxgene==1.3.0", "setuptools<81") / "cellxgene"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rna = ad.read_h5ad(files / "h5ad" / "rna.h5ad")
    command = [program, "launch", files / "h5ad" / "rna.h5ad", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/api/v0.2"
        deadline = time.monotonic() + 300
        while True:
            assert server.poll() is None, "cellxgene left"
            try:
                schema = json.load(urllib.request.urlopen(f"{address}/schema"))["schema"]
                break
            except OSError:
                assert time.monotonic() < deadline, "cellxgene does not answer"
                time.sleep(0.2)
        assert schema["dataframe"]["nObs"] == rna.n_obs and schema["dataframe"]["nVar"] == rna.n_vars
        columns = {column["name"]: column for column in schema["annotations"]["obs"]["columns"]}
        assert columns["cluster"]["categories"] == ["0", "1", "2"]
        assert {layout["name"] for layout in schema["layout"]["obs"]} >= {"umap"}
        colours = json.load(urllib.request.urlopen(f"{address}/colors"))
        assert list(colours["cluster"].values()) == list(rna.uns["cluster_colors"])
    finally:
        server.terminate()
        server.wait(120)


def test_seurat_in_r(files, tmp_path):
    probe = 'quit(status = !all(sapply(c("rhdf5", "Seurat", "Matrix"), requireNamespace, quietly = TRUE)))'
    if shutil.which("Rscript") is None or subprocess.run(["Rscript", "-e", probe], capture_output=True).returncode:
        skip_or_fail("no R with rhdf5 and Seurat (Debian: apt-get install r-bioc-rhdf5 r-cran-seurat)")
    script = f"""source("{REPOSITORY}/assets/read_multivi.R"); x <- read_multivi("{files}/h5ad/rna.h5ad")
    cat(dim(x), sum(Seurat::GetAssayData(x, slot = "counts")), Seurat::Reductions(x))
    cat("", as.character(x$cluster[[1]]), ncol(x), class(x)); saveRDS(x, "x.rds")"""
    done = subprocess.run(["Rscript", "-e", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rna = ad.read_h5ad(files / "h5ad" / "rna.h5ad")
    counts = str(rna.layers["counts"].sum())
    assert done.stdout.split() == [
        str(rna.n_vars),
        str(rna.n_obs),
        counts,
        "umap",
        "multivi",
        str(rna.obs["cluster"].iloc[0]),
        str(rna.n_obs),
        "Seurat",
    ]
    assert (tmp_path / "x.rds").stat().st_size > 1000


def test_multiqc_draws_the_tables(tmp_path):
    program = environment(tmp_path / "venv", "multiqc==1.35") / "multiqc"
    results = make_results(tmp_path / "results")
    write_report(results, tmp_path / "report.html")
    command = [program, tmp_path / "multiqc", "--no-version-check", "-o", tmp_path / "page"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = tmp_path / "page" / "multiqc_data"
    cells = pd.read_csv(data / "multiqc_multivi_nf_qc.txt", sep="\t", index_col=0)
    assert cells.loc["s1 rna", "cells"] == 40
    loss = pd.read_csv(data / "multiqc_multivi_nf_loss.txt", sep="\t", index_col=0)
    assert loss.index.tolist() == ["train loss", "validation loss"] and loss.shape[1] == 10
    assert (data / "multiqc_multivi_nf_verdict.txt").is_file()
