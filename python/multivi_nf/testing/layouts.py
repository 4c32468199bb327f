"""Files in the layouts of many tools, small and with known counts: one maker a layout."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import io, sparse

from multivi_nf.testing.files import GENES, PEAKS, SYMBOLS, barcodes, counts

CELLS = barcodes(24)
PROTEINS = ["CD3", "CD4", "CD19"]
RNA, ATAC, PROTEIN = counts(24, 30, 1), counts(24, 20, 2), counts(24, 3, 3)
BY_MODALITY = {"rna": (GENES, RNA), "atac": (PEAKS, ATAC), "protein": (PROTEINS, PROTEIN)}
JOINT = sparse.hstack([RNA, ATAC, PROTEIN]).tocsr()


def joint_h5ad(path: Path, types: tuple[str, str, str], column: str = "feature_types") -> Path:
    """One h5ad with all three modalities; what a column is stands in `column`."""
    var = pd.DataFrame(
        {column: [types[0]] * 30 + [types[1]] * 20 + [types[2]] * 3, "gene_ids": [*GENES, *PEAKS, *PROTEINS]},
        index=[*SYMBOLS, *PEAKS, *PROTEINS],
    )
    ad.AnnData(JOINT.astype(np.float32), obs=pd.DataFrame(index=CELLS), var=var).write_h5ad(path)
    return path


def joint_10x(path: Path, types: tuple[str, str, str], more: tuple[str, ...] = ()) -> Path:
    """The same as Cell Ranger writes it, with one further feature of each type in `more`."""
    extra = counts(24, len(more), 4) if more else sparse.csr_matrix((24, 0), dtype=np.int32)
    matrix = sparse.hstack([JOINT, extra]).tocsr()
    names = [*GENES, *PEAKS, *PROTEINS, *(f"more{i}" for i in range(len(more)))]
    kinds = [types[0]] * 30 + [types[1]] * 20 + [types[2]] * 3 + list(more)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(CELLS, dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices.astype(np.int64), matrix.indptr
        group["shape"] = np.array(matrix.shape[::-1], dtype=np.int32)
        for key, values in (("id", names), ("name", names), ("feature_type", kinds)):
            group[f"features/{key}"] = np.array(values, dtype="S")
    return path


def mtx(
    folder: Path, matrix: sparse.spmatrix, files: dict[str, str], name: str, *, cells_in_rows: bool = False
) -> Path:
    """A matrix called `name` with lists beside it (file name → text); `.gz` names are packed."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "tmp.mtx"
    io.mmwrite(plain, matrix if cells_in_rows else matrix.T, field="integer")
    texts = files | {name: plain.read_text()}
    plain.unlink()
    for file, text in texts.items():
        raw = text.encode()
        (folder / file).write_bytes(gzip.compress(raw) if file.endswith(".gz") else raw)
    return folder


def lines(values: list[str]) -> str:
    """One value a line."""
    return "".join(f"{value}\n" for value in values)


def genes_tsv(types: bool = True) -> str:
    """The text of features.tsv, with the types of features or without."""
    return lines(["\t".join([i, s, *(["Gene Expression"] if types else [])]) for i, s in zip(GENES, SYMBOLS)])


def star_solo(folder: Path) -> Path:
    """STARsolo: a matrix of unique reads, and one of all that is asked for by its name."""
    files = {"features.tsv": genes_tsv(), "barcodes.tsv": lines(CELLS)}
    mtx(folder, RNA * 2, files, "matrix.mtx")
    mtx(folder, RNA, {}, "UniqueAndMult-Uniform.mtx")
    return folder / "UniqueAndMult-Uniform.mtx"


def kallisto(folder: Path) -> Path:
    """kb-python: cells in rows, lists named after the matrix."""
    files = {"cells_x_genes.genes.txt": lines(GENES), "cells_x_genes.barcodes.txt": lines(CELLS)}
    return mtx(folder, RNA, files, "cells_x_genes.mtx", cells_in_rows=True)


def kallisto_named(folder: Path) -> Path:
    """kb-python with the genes' names in a list of their own."""
    files = {
        "cells_x_genes.genes.txt": lines(GENES),
        "cells_x_genes.genes.names.txt": lines(SYMBOLS),
        "cells_x_genes.barcodes.txt": lines(CELLS),
    }
    return mtx(folder, RNA, files, "cells_x_genes.mtx", cells_in_rows=True) / "cells_x_genes.mtx"


def alevin_fry(folder: Path) -> Path:
    """alevin-fry: lists of rows and columns beside a matrix of cells in rows."""
    files = {"quants_mat_rows.txt": lines(CELLS), "quants_mat_cols.txt": lines(GENES)}
    mtx(folder / "alevin", RNA, files, "quants_mat.mtx", cells_in_rows=True)
    return folder


def alevin_fry_usa(folder: Path) -> Path:
    """Spliced, unspliced and ambiguous counts apart; spliced holds them all, the others nothing but one."""
    one = sparse.csr_matrix((np.ones(24, np.int32), (np.arange(24), np.zeros(24, int))), shape=(24, 30))
    names = [*GENES, *(f"{g}-U" for g in GENES), *(f"{g}-A" for g in GENES)]
    files = {"quants_mat_rows.txt": lines(CELLS), "quants_mat_cols.txt": lines(names)}
    whole = sparse.hstack([RNA - one.multiply(RNA > 0), one.multiply(RNA > 0), one * 0])
    return mtx(folder, whole.tocsr(), files, "quants_mat.mtx", cells_in_rows=True)


def parse(folder: Path) -> Path:
    """Parse Biosciences: tables with headings instead of lists."""
    features = "gene_id,gene_name,genome\n" + lines([f"{i},{s},hg38" for i, s in zip(GENES, SYMBOLS)])
    cells = "bc_wells,sample_well\n" + lines([f"{c},A{i % 4}" for i, c in enumerate(CELLS)])
    files = {"all_genes.csv": features, "cell_metadata.csv": cells}
    return mtx(folder, RNA, files, "count_matrix.mtx", cells_in_rows=True)


def cite_seq_count(folder: Path) -> Path:
    """CITE-seq-Count: tags with their sequence in the name, and a row of what mapped to none."""
    tags = [f"{name}-{'ACGT' * 3}{'ACGT'[i]}AA" for i, name in enumerate(PROTEINS)]
    files = {"features.tsv.gz": lines([*tags, "unmapped"]), "barcodes.tsv.gz": lines(CELLS)}
    return mtx(folder, sparse.hstack([PROTEIN, counts(24, 1, 9)]), files, "matrix.mtx.gz")


def with_heading(folder: Path) -> Path:
    """Lists that begin with a heading."""
    files = {
        "features.tsv": "gene_id\tgene_name\ttype\n" + genes_tsv(),
        "barcodes.tsv": "barcode\n" + lines(CELLS),
    }
    return mtx(folder, RNA, files, "matrix.mtx")


def quoted_lists(folder: Path) -> Path:
    """Lists whose values are quoted, as R writes them."""
    files = {
        "genes.tsv": lines([f'"{i}"\t"{s}"' for i, s in zip(GENES, SYMBOLS)]),
        "barcodes.tsv": lines([f'"{c}"' for c in CELLS]),
    }
    return mtx(folder, RNA, files, "matrix.mtx")


def atac_bed(folder: Path) -> Path:
    """Peaks as BED beside the matrix."""
    bed = lines([p.replace(":", "\t").replace("-", "\t") for p in PEAKS])
    return mtx(folder, ATAC, {"peaks.bed": "# peaks\n" + bed, "barcodes.tsv": lines(CELLS)}, "matrix.mtx")


def old_h5ad(path: Path) -> Path:
    """As anndata 0.6 wrote it: obs and var are compound data sets, the matrix has no encoding."""
    matrix = RNA.astype(np.float32)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", np.array(matrix.shape)
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        file["obs"] = np.array(
            [(c.encode(), i % 2) for i, c in enumerate(CELLS)], dtype=[("index", "S18"), ("kind", "i1")]
        )
        file["var"] = np.array(
            [(s.encode(), g.encode()) for s, g in zip(SYMBOLS, GENES)], dtype=[("index", "S10"), ("gene_ids", "S15")]
        )
        file.create_group("uns")["kind_categories"] = np.array([b"B", b"T"])
    return path


def by_reference_h5ad(path: Path) -> Path:
    """As anndata 0.7 wrote it: categories lie in obs/__categories, and codes point there."""
    matrix = RNA.astype(np.float32)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        group.attrs["shape"] = np.array(matrix.shape)
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        text = h5py.string_dtype()
        for name, index, columns in (("obs", CELLS, ["kind"]), ("var", SYMBOLS, ["gene_ids"])):
            table = file.create_group(name)
            table.attrs["encoding-type"], table.attrs["encoding-version"] = "dataframe", "0.1.0"
            table.attrs["_index"], table.attrs["column-order"] = "_index", np.array(columns, dtype=object)
            table.create_dataset("_index", data=np.array(index, dtype=object), dtype=text)
        kinds = (
            file["obs"]
            .create_group("__categories")
            .create_dataset("kind", data=np.array(["B", "T"], dtype=object), dtype=text)
        )
        file["obs"].create_dataset("kind", data=np.arange(24, dtype=np.int8) % 2).attrs["categories"] = kinds.ref
        file["var"].create_dataset("gene_ids", data=np.array(GENES, dtype=object), dtype=text)
    return path


def packed_h5ad(path: Path, name: str) -> Path:
    """Packed by a filter that HDF5 itself does not have."""
    import hdf5plugin

    data = ad.AnnData(
        RNA.astype(np.float32), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame({"gene_ids": GENES}, index=SYMBOLS)
    )
    data.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for part in ("data", "indices"):
            values = file["X"][part][:]
            del file["X"][part]
            file["X"].create_dataset(part, data=values, chunks=(256,), **getattr(hdf5plugin, name)())
    return path
