from __future__ import annotations

import gzip

import h5py
import numpy as np
import pytest
from scipy import sparse

from multivi_nf.counts.features import is_hashtag, is_isotype, parse_peak, species_of, stable_id, summed
from multivi_nf.counts.read import read_counts
from multivi_nf.errors import InputError
from multivi_nf.testing.files import GENES, PEAKS, SYMBOLS, barcodes, counts, features, write_10x, write_h5ad, write_mtx

CELLS = barcodes(40)


def assert_three_parts(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    text = str(error.value)
    assert text.startswith("ERROR: ")
    assert "Why it matters: " in text
    assert "What to do: " in text
    for word in words:
        assert word in text, text


# --- what tools write -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["rna", "atac", "protein"])
def test_h5_gives_each_column_its_own_feature_type(tmp_path, modality):
    table, matrix = features(), counts(40, 54)
    path = write_10x(tmp_path / "m.h5", matrix, CELLS, table)
    read = read_counts(path, modality)
    pick = np.flatnonzero(
        table["type"] == {"rna": "Gene Expression", "atac": "Peaks", "protein": "Antibody Capture"}[modality]
    )
    assert read.obs_names.tolist() == CELLS
    assert read.X.dtype == np.int32
    assert read.X.has_canonical_format
    np.testing.assert_array_equal(read.X.toarray(), matrix[:, pick].toarray())
    if modality == "rna":
        assert read.var_names.tolist() == GENES
        assert read.var["symbol"].tolist() == SYMBOLS
    if modality == "atac":
        assert read.var.loc[PEAKS[0], ["chrom", "start", "end"]].tolist() == ["chr1", 1000, 1500]
    if modality == "protein":
        assert read.var["isotype"].tolist() == [False, False, False, True]
        assert "GENE1" in read.var_names  # a gene's namesake stays a protein


def test_h5_blocks_do_not_change_what_is_read(tmp_path, monkeypatch):
    path = write_10x(tmp_path / "m.h5", counts(40, 54), CELLS, features())
    whole = read_counts(path, "rna").X.toarray()
    monkeypatch.setattr("multivi_nf.counts.tenx._BLOCK", 7)
    np.testing.assert_array_equal(read_counts(path, "rna").X.toarray(), whole)
    np.testing.assert_array_equal(read_counts(path, "rna", CELLS[5:9]).X.toarray(), whole[5:9])


def test_h5_of_cell_ranger_2(tmp_path):
    matrix = counts(40, 30)
    read = read_counts(write_10x(tmp_path / "m.h5", matrix, CELLS, features("rna"), layout="v2"), "rna")
    assert read.var_names.tolist() == GENES
    np.testing.assert_array_equal(read.X.toarray(), matrix.toarray())


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("prefix", ["", "GSM123_a_"])
@pytest.mark.parametrize("transposed", [False, True])
def test_mtx_folders(tmp_path, version, packed, prefix, transposed):
    matrix = counts(40, 30)
    folder = write_mtx(
        tmp_path / "m",
        matrix,
        CELLS,
        features("rna"),
        version=version,
        packed=packed,
        prefix=prefix,
        transposed=transposed,
    )
    read = read_counts(folder, "rna")
    np.testing.assert_array_equal(read.X.toarray(), matrix.toarray())
    assert read.var_names.tolist() == GENES
    assert any("turned" in note for note in read.uns["notes"]) is transposed


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "float"])
def test_h5ad_of_any_matrix_type(tmp_path, kind):
    matrix = counts(40, 30)
    x = {"csr": matrix, "csc": matrix.tocsc(), "dense": matrix.toarray(), "float": matrix.astype(np.float64)}[kind]
    read = read_counts(write_h5ad(tmp_path / "a.h5ad", x, CELLS, GENES, obs={"cell_type": ["B"] * 40}), "rna")
    np.testing.assert_array_equal(read.X.toarray(), matrix.toarray())
    assert read.X.dtype == np.int32
    assert read.obs["cell_type"].tolist() == ["B"] * 40


@pytest.mark.parametrize("place", ["layers", "raw"])
def test_h5ad_finds_counts_beside_normalised_values(tmp_path, place):
    matrix = counts(40, 30)
    slots = {"layers": {"counts": matrix}} if place == "layers" else {"raw": matrix}
    read = read_counts(write_h5ad(tmp_path / "a.h5ad", matrix.astype(np.float32).log1p(), CELLS, GENES, **slots), "rna")
    np.testing.assert_array_equal(read.X.toarray(), matrix.toarray())
    assert place in read.uns["source"]


def test_near_integers_are_counts(tmp_path):
    matrix = counts(40, 30)
    noisy = matrix.astype(np.float64)
    noisy.data += 1e-6
    read = read_counts(write_h5ad(tmp_path / "a.h5ad", noisy, CELLS, GENES), "rna")
    np.testing.assert_array_equal(read.X.toarray(), matrix.toarray())


def test_versions_and_par_y_become_one_gene(tmp_path):
    names = ["ENSG00000182378.14", "ENSG00000182378.14_PAR_Y", "ENSG00000000003.15"]
    matrix = sparse.csr_matrix(np.array([[1, 2, 3], [4, 0, 6]], dtype=np.int32))
    read = read_counts(write_h5ad(tmp_path / "a.h5ad", matrix, CELLS[:2], names), "rna")
    assert read.var_names.tolist() == ["ENSG00000182378", "ENSG00000000003"]
    np.testing.assert_array_equal(read.X.toarray(), [[3, 3], [4, 6]])


def test_summed_is_the_sum_by_name():
    rng = np.random.default_rng(0)
    matrix, names = counts(5, 12), [f"g{n}" for n in rng.integers(0, 6, 12)]
    result, unique, first = summed(matrix, names)
    for column, name in enumerate(unique):
        expected = sum(matrix.toarray()[:, i] for i, own in enumerate(names) if own == name)
        np.testing.assert_array_equal(result.toarray()[:, column], expected)
        assert names.index(name) == first[column]


def test_cell_lists_select_rows(tmp_path):
    path = write_10x(tmp_path / "m.h5", counts(40, 54), CELLS, features())
    read = read_counts(path, "rna", [CELLS[7], CELLS[3], "TTTT-9"])
    assert read.obs_names.tolist() == [CELLS[3], CELLS[7]]
    assert any("1 of 3 listed barcodes are not" in note for note in read.uns["notes"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chr1:10-20", ("chr1", 10, 20)),
        ("chr1-10-20", ("chr1", 10, 20)),
        ("GL000205.2:67850-68750", ("GL000205.2", 67850, 68750)),
        ("chr1_KI270706v1_random:1-5", ("chr1_KI270706v1_random", 1, 5)),
        ("CD4", None),
        ("chr1:20-10", None),
        ("HLA-DRB1", None),
    ],
)
def test_parse_peak(name, expected):
    assert parse_peak(name) == expected


def test_names_of_proteins():
    for name in (
        "IgG1",
        "IgG2b Ctrl",
        "Rat-IgG1-1",
        "Rag-IgG2c",
        "Mouse-IgG2a",
        "isotype_MOPC.21",
        "IgG1_control_TotalSeqC",
    ):
        assert is_isotype(name), name
    for name in ("IgM", "IgD", "igd", "IgG", "IgA", "CD32", "anti-human IgG Fc", "CD16"):
        assert not is_isotype(name), name
    for name in ("HTO1", "Hashtag_3", "hashtag 10", "CMO301"):
        assert is_hashtag(name), name
    assert not is_hashtag("CD3")


def test_stable_ids_and_species():
    assert stable_id("ENSG00000182378.14_PAR_Y") == "ENSG00000182378"
    assert stable_id("ENSMUSG00000051951.5") == "ENSMUSG00000051951"
    assert stable_id("AC012345.2") == "AC012345.2"  # a clone's name, not a versioned id
    assert species_of(GENES) == "human"
    assert species_of(["ENSMUSG00000051951"] * 3) == "mouse"
    assert species_of([f"Abcd{n}" for n in range(50)]) == "mouse"
    assert species_of([f"ABCD{n}" for n in range(50)]) == "human"
    assert species_of(["x1", "y2"]) is None


def test_real_files(shared_data):
    rna = read_counts(shared_data("pbmc1k_citeseq_10x") / "filtered_feature_bc_matrix.h5", "rna")
    protein = read_counts(shared_data("pbmc1k_citeseq_10x") / "filtered_feature_bc_matrix.h5", "protein")
    assert rna.shape == (892, 36601)
    assert float(np.median(np.asarray(rna.X.sum(axis=1)))) == 6819
    assert protein.var_names[protein.var["isotype"]].tolist() == ["IgG1_control_TotalSeqC"]
    both = shared_data("snare_mouse_cortex_dev")
    for modality in ("rna", "atac"):
        one = read_counts(both / "filtered_feature_bc_matrix.h5", modality)
        other = read_counts(both / f"{modality}.h5ad", modality)
        assert one.var_names.tolist() == other.var_names.tolist()
        assert (one.X != other.X).nnz == 0


# --- what must be refused ---------------------------------------------------------------------------------------------


def _damage_h5(path, key, value):
    with h5py.File(path, "r+") as file:
        del file[key]
        file[key] = value


def _bad_cases(tmp_path):
    """Name, how the file is made, modality, words that the message must hold."""
    table, matrix = features(), counts(40, 54)

    def h5(key=None, value=None, cells=CELLS, name="m.h5"):
        path = write_10x(tmp_path / name, matrix, cells, table)
        if key is not None:
            _damage_h5(path, key, value)
        return path

    def h5ad(x, **slots):
        return write_h5ad(tmp_path / "a.h5ad", x, slots.pop("cells", CELLS), slots.pop("names", GENES), **slots)

    def cut(path, keep):
        path.write_bytes(path.read_bytes()[:keep])
        return path

    def text(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    def cut_mtx():
        file = write_mtx(tmp_path / "mtx", counts(40, 30), CELLS, features("rna")) / "matrix.mtx.gz"
        file.write_bytes(file.read_bytes()[:-30])
        return file.parent

    counts_30 = counts(40, 30)
    real = counts_30.astype(np.float64)
    with_nan, negative, fraction, infinite = (real.copy() for _ in range(4))
    with_nan.data[3], negative.data[3], fraction.data[3], infinite.data[3] = np.nan, -1, 1.5, np.inf
    log = real.log1p()
    yield "missing", tmp_path / "no.h5", "rna", ["does not exist"]
    yield "empty file", text("e.h5", b""), "rna", ["empty (0 bytes)"]
    yield "not hdf5", text("t.h5", b"gene,cell\n" * 200), "rna", ["not an HDF5 file"]
    yield "cut hdf5", cut(h5(), 9000), "rna", ["m.h5"]
    yield "cut h5ad", cut(h5ad(counts_30), 4000), "rna", ["a.h5ad"]
    yield "wrong type", text("c.csv", b"a,b\n"), "rna", ["*.csv"]
    yield (
        "duplicate barcodes",
        h5("matrix/barcodes", np.array([*CELLS[:39], CELLS[0]], "S")),
        "rna",
        ["more than once", CELLS[0]],
    )
    yield "empty barcode", h5("matrix/barcodes", np.array([*CELLS[:39], ""], "S")), "rna", ["barcode 40"]
    yield "no peaks", write_10x(tmp_path / "r.h5", counts_30, CELLS, features("rna")), "atac", ["Peaks", "column rna"]
    yield "index past the end", h5("matrix/indices", np.full(matrix.nnz, 99)), "rna", ["feature 99"]
    yield "negative index", h5("matrix/indices", np.full(matrix.nnz, -1)), "rna", ["m.h5"]
    yield "pointers too few", h5("matrix/indptr", matrix.indptr[:-1]), "rna", ["do not fit together"]
    yield "pointers go back", h5("matrix/indptr", matrix.indptr[::-1].copy()), "rna", ["do not fit together"]
    yield "absurd shape", h5("matrix/shape", np.array([2**31 - 1, 2**31 - 1])), "rna", ["do not fit together"]
    yield "molecule info", h5("matrix", np.zeros(3)), "rna", ["not a 10x count file"]
    yield (
        "negative counts in 10x",
        h5("matrix/data", np.where(np.arange(matrix.nnz) == 5, -1, matrix.data)),
        "rna",
        ["negative"],
    )
    yield "fractions in 10x", h5("matrix/data", matrix.data + 0.5), "rna", ["not whole numbers"]
    yield "NaN", h5ad(with_nan), "rna", ["nan"]
    yield "infinite", h5ad(infinite), "rna", ["inf"]
    yield "negative", h5ad(negative), "rna", ["negative", "-1"]
    yield "fraction", h5ad(fraction), "rna", ["not whole numbers", "1.5"]
    yield "no candidate", h5ad(log, layers={"scaled": log}, raw=log), "rna", ["X", "raw", "scaled"]
    yield "all zero", h5ad(sparse.csr_matrix((40, 30), dtype=np.int32)), "rna", ["every value is 0"]
    yield "peaks as rna", h5ad(counts(40, 20), names=PEAKS), "rna", ["column atac"]
    yield "genes as atac", h5ad(counts_30), "atac", ["intervals", "column rna"]
    yield "anndata as h5", h5ad(counts_30).rename(tmp_path / "x.h5"), "rna", ["rename it to .h5ad"]
    yield "mtx cut", cut_mtx(), "rna", ["matrix.mtx.gz"]


@pytest.mark.parametrize("index", range(27))
def test_bad_matrices_are_refused_by_name(tmp_path, index):
    for at, (_name, path, modality, words) in enumerate(_bad_cases(tmp_path)):
        if at == index:
            with pytest.raises(InputError) as error:
                read_counts(path, modality)
            assert_three_parts(error, *words)
            return
    pytest.fail(f"there is no case {index}; the last is {at}")


def test_there_are_no_more_bad_cases_than_run(tmp_path):
    assert sum(1 for _ in _bad_cases(tmp_path)) == 27


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        ("no features", "has no list of features beside it"),
        ("two", "2 files named"),
        ("fewer barcodes", "30"),
        ("bomb", "declared"),
        ("dense", "coordinate integer general"),
    ],
)
def test_bad_mtx_folders(tmp_path, edit, word):
    folder = write_mtx(tmp_path / "mtx", counts(40, 30), CELLS, features("rna"))
    if edit == "no features":
        (folder / "features.tsv.gz").unlink()
    elif edit == "two":
        (folder / "b_matrix.mtx.gz").write_bytes(b"")
    elif edit == "fewer barcodes":
        (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(CELLS[:30]).encode()))
    else:
        head = (
            "coordinate integer general\n30 40 900000000000\n1 1 1"
            if edit == "bomb"
            else "array integer general\n1 1\n1"
        )
        (folder / "matrix.mtx.gz").write_bytes(gzip.compress(f"%%MatrixMarket matrix {head}\n".encode()))
    with pytest.raises(InputError) as error:
        read_counts(folder, "rna")
    assert_three_parts(error, word)


def test_a_declared_but_empty_dataset_is_not_allocated(tmp_path):
    path = write_10x(tmp_path / "m.h5", counts(40, 54), CELLS, features())
    with h5py.File(path, "r+") as file:
        del file["matrix/data"]
        file.create_dataset("matrix/data", (2**40,), dtype=np.int32, chunks=(2**16,), compression="gzip")
    with pytest.raises(InputError) as error:
        read_counts(path, "rna")
    assert_three_parts(error, "matrix/data", "declares")


def test_raw_matrices_are_refused_without_a_cell_list(tmp_path):
    cells, n = barcodes(3000), 3000
    matrix = counts(n, 1000, mean=1.0).tolil()
    matrix[100:] = 0
    matrix[100:, 0] = 1  # an ambient molecule in each of 2,900 empty droplets
    table = features("rna").iloc[:0]
    table = table.reindex(range(1000)).assign(
        id=[f"ENSG{i:011d}" for i in range(1000)], name=[f"G{i}" for i in range(1000)], type="Gene Expression"
    )
    path = write_10x(tmp_path / "m.h5", matrix.tocsr(), cells, table)
    with pytest.raises(InputError) as error:
        read_counts(path, "rna")
    assert_three_parts(error, "unfiltered (raw)", "column barcodes")
    assert read_counts(path, "rna", cells[:100]).shape == (100, 1000)
    named = write_10x(tmp_path / "raw_feature_bc_matrix.h5", counts(40, 54), CELLS, features())
    with pytest.raises(InputError, match="its name says so"):
        read_counts(named, "rna")


def test_a_foreign_cell_list_is_refused(tmp_path):
    path = write_10x(tmp_path / "m.h5", counts(40, 54), CELLS, features())
    with pytest.raises(InputError) as error:
        read_counts(path, "rna", ["AAAA", "CCCC"])
    assert_three_parts(error, "none of the 2 barcodes", "AAAA")
