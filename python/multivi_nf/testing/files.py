"""Small files as real tools write them, and as they arrive broken."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import io, sparse

GENES = [f"ENSG{n:011d}" for n in range(1, 31)]
SYMBOLS = [f"GENE{n}" for n in range(1, 31)]
PEAKS = [f"chr1:{1000 * n}-{1000 * n + 500}" for n in range(1, 21)]
PROTEINS = ["CD3", "CD4", "GENE1", "IgG1_isotype"]


def barcodes(n: int, start: int = 0, suffix: str = "-1") -> list[str]:
    """Distinct 16 nt barcodes."""
    return ["".join("ACGT"[(i + start) >> (2 * k) & 3] for k in range(12)) + "ACGT" + suffix for i in range(n)]


def counts(n_cells: int, n_features: int, seed: int = 0, mean: float = 2.0) -> sparse.csr_matrix:
    """Draw Poisson counts of cells x features, without structure."""
    return sparse.csr_matrix(np.random.default_rng(seed).poisson(mean, (n_cells, n_features)).astype(np.int32))


def features(modalities: str = "rna+atac+protein") -> pd.DataFrame:
    """Give the list of features of a file: id, name and type, as Cell Ranger names them."""
    rows = []
    if "rna" in modalities:
        rows += [(i, s, "Gene Expression") for i, s in zip(GENES, SYMBOLS)]
    if "atac" in modalities:
        rows += [(p, p, "Peaks") for p in PEAKS]
    if "protein" in modalities:
        rows += [(p, p, "Antibody Capture") for p in PROTEINS]
    return pd.DataFrame(rows, columns=["id", "name", "type"])


def write_10x(path: Path, matrix: sparse.csr_matrix, cells: list[str], table: pd.DataFrame, layout: str = "v3") -> Path:
    """Write counts as Cell Ranger's HDF5, of layout `v3` or `v2`."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if layout == "v3" else "GRCh38")
        group["barcodes"] = np.array(cells, dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices.astype(np.int64), matrix.indptr
        group["shape"] = np.array(matrix.shape[::-1], dtype=np.int32)
        if layout == "v3":
            for key, column in (("id", "id"), ("name", "name"), ("feature_type", "type")):
                group[f"features/{key}"] = table[column].to_numpy(dtype="S")
        else:
            group["genes"], group["gene_names"] = table["id"].to_numpy(dtype="S"), table["name"].to_numpy(dtype="S")
    return path


def write_mtx(
    folder: Path,
    matrix: sparse.csr_matrix,
    cells: list[str],
    table: pd.DataFrame,
    *,
    version: int = 3,
    packed: bool = True,
    prefix: str = "",
    transposed: bool = False,
) -> Path:
    """Write counts as a folder of matrix.mtx, barcodes.tsv and features.tsv (genes.tsv of version 2)."""
    folder.mkdir(parents=True)
    end = ".gz" if packed else ""

    def put(name: str, text: str) -> None:
        target = folder / f"{prefix}{name}{end}"
        target.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    columns = ["id", "name", "type"] if version == 3 else ["id", "name"]
    put("features.tsv" if version == 3 else "genes.tsv", table[columns].to_csv(sep="\t", header=False, index=False))
    put("barcodes.tsv", "".join(f"{cell}\n" for cell in cells))
    plain = folder / "tmp.mtx"
    io.mmwrite(plain, matrix if transposed else matrix.T, field="integer")
    put("matrix.mtx", plain.read_text())
    plain.unlink()
    return folder


def write_h5ad(path: Path, x: object, cells: list[str], names: list[str], **slots: Any) -> Path:
    """Write an h5ad of cells x names; `layers`, `obs` and `raw` are filled where given."""
    data = ad.AnnData(x, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=names))
    for key, value in slots.items():
        if key == "layers":
            data.layers.update(value)
        elif key == "obs":
            for column, values in value.items():
                data.obs[column] = values
        elif key == "raw":
            data.raw = ad.AnnData(value, var=pd.DataFrame(index=names))
    data.write_h5ad(path)
    return path
