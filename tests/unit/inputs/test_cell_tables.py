"""Per-cell tables and cell lists as spreadsheets, R, Cell Ranger and others write them."""

from __future__ import annotations

import gzip

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from multivi_nf.counts.given import add_tables
from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import BarcodeMap, meeting, read_barcodes
from multivi_nf.inputs.cell_table import read_cell_table, truths
from multivi_nf.testing.files import GENES, barcodes, counts

CELLS = barcodes(12)
BARE = [cell[:-2] for cell in CELLS]


def lines(rows):
    return "".join(f"{row}\n" for row in rows)


LISTS = {
    "plain": lines(CELLS),
    "CRLF": "\r\n".join(CELLS),
    "quoted": lines(f'"{c}"' for c in CELLS),
    "R write.csv of a vector": '"x"\n' + lines(f'"{c}"' for c in CELLS),
    "R write.csv with row names": '"","x"\n' + lines(f'"{i + 1}","{c}"' for i, c in enumerate(CELLS)),
    "R write.table": '"x"\n' + lines(f'"{i + 1}"\t"{c}"' for i, c in enumerate(CELLS)),
    "genome, barcode": lines(f"GRCh38,{c}" for c in CELLS),
    "heading": "barcode\n" + lines(CELLS),
    "heading in capitals": "Barcode\n" + lines(CELLS),
    "pandas to_csv": ",cell_type\n" + lines(f"{c},B" for c in CELLS),
    "tabs": "cell_id\tcell_type\n" + lines(f"{c}\tB" for c in CELLS),
    "semicolons": "barcode;score\n" + lines(f"{c};0,5" for c in CELLS),
    "flag 1": "barcode,is_cell\n" + lines(f"{c},1" for c in CELLS) + "NO_BARCODE,0\n",
    "flag of Cell Ranger ATAC 1": "barcode,is__cell_barcode,passed_filters\n" + lines(f"{c},1,9" for c in CELLS),
    "flag of Cell Ranger ATAC 2": "barcode,passed_filters,is_cell_barcode,excluded_reason\n"
    + lines(f"{c},9,1,0" for c in CELLS)
    + lines(f"{c[::-1]},9,0,2" for c in CELLS),
    "flag of one species": "barcode,is_GRCh38_cell_barcode\n" + lines(f"{c},1" for c in CELLS),
    "flags of two species": "barcode,is_GRCh38_cell_barcode,is_mm10_cell_barcode\n"
    + lines(f"{c},{i % 2},{1 - i % 2}" for i, c in enumerate(CELLS))
    + "NO_BARCODE,1,0\n",
    "flag of R": '"barcode","is_cell"\n' + lines(f'"{c}",TRUE' for c in CELLS) + '"X",FALSE\n',
    "flag in words": "barcode,is_cell\n" + lines(f"{c},yes" for c in CELLS) + "X,no\n",
    "row names without a heading": "cell_type\n" + lines(f"{c}\tB" for c in CELLS),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(tmp_path, name):
    path = tmp_path / "cells.csv"
    path.write_text(LISTS[name])
    assert read_barcodes(path) == CELLS
    path.write_bytes(gzip.compress(LISTS[name].encode()))
    assert read_barcodes(path) == CELLS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "cells.csv"
    path.write_bytes(("barcode,donor\n" + lines(f"{c},Zoë" for c in CELLS)).encode(encoding))
    table = read_cell_table(path)
    assert table.barcodes == CELLS
    assert table.columns["donor"].tolist() == ["Zoë"] * 12


def test_barcodes_with_commas(tmp_path):
    names = [f"R1.{i:02d},R2.05,R3.11,P1.04" for i in range(12)]
    (tmp_path / "share.txt").write_text(lines(names))
    assert read_barcodes(tmp_path / "share.txt") == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("barcode,is_cell\nA,maybe\n", "'maybe', which is neither true nor false"),
        ("barcode,is_cell\nA,0\nB,FALSE\n", "no barcode is a cell"),
        ("barcode,passed_filters,duplicate\nA,5,1\n", "without a cell flag"),
        ("barcode,a,b\nA,1,2\nB,1\n", "line 3: 2 values where the header has 3"),
        ("barcode,a,a\nA,1,2\n", "two columns are called 'a'"),
        ("", "empty"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, words):
    (tmp_path / "cells.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_barcodes(tmp_path / "cells.csv")


def test_types_of_columns(tmp_path):
    (tmp_path / "cells.csv").write_text(
        "barcode,leiden,score,treated,donor,when,missing,gap\n"
        "A,1,0.5,TRUE,007,2024-01-02,NA,3\nB,2,1e-3,FALSE,008,2024-01-03,,NA\n"
    )
    columns = read_cell_table(tmp_path / "cells.csv").columns
    assert columns["leiden"].tolist() == [1, 2]
    assert columns["leiden"].dtype == np.int64
    assert columns["score"].tolist() == [0.5, 0.001]
    assert columns["treated"].tolist() == [True, False]
    assert columns["donor"].tolist() == ["007", "008"]  # a leading zero is no number
    assert columns["when"].tolist() == ["2024-01-02", "2024-01-03"]
    assert columns["missing"].isna().all()
    assert str(columns["gap"].dtype) == "Int64"


def test_decimal_commas(tmp_path):
    (tmp_path / "cells.csv").write_text("barcode;age\nA;3,5\nB;4,25\n")
    assert read_cell_table(tmp_path / "cells.csv").columns["age"].tolist() == [3.5, 4.25]


@pytest.mark.parametrize("index", [True, False])
def test_parquet(tmp_path, index):
    table = pd.DataFrame({"barcode": CELLS, "leiden": range(12), "cell_type": ["B", "T"] * 6})
    table = table.set_index("barcode") if index else table
    table.to_parquet(tmp_path / "cells.parquet", engine="fastparquet")
    read = read_cell_table(tmp_path / "cells.parquet")
    assert read.barcodes == CELLS
    assert read.columns["leiden"].tolist() == list(range(12))
    assert read.columns["cell_type"].astype(str).tolist() == ["B", "T"] * 6


def test_metrics_of_cell_ranger_are_no_annotation(tmp_path):
    (tmp_path / "cells.csv").write_text(
        "barcode,gex_barcode,atac_barcode,is_cell,excluded_reason,gex_umis_count\n"
        + lines(f"{c},{c},{c},{int(i < 5)},0,77" for i, c in enumerate(CELLS))
    )
    table = read_cell_table(tmp_path / "cells.csv")
    assert table.barcodes == CELLS[:5]
    assert table.columns.shape == (5, 0)


@pytest.mark.parametrize("value", ["True", "true", "TRUE", "1", 1, True, "yes", "T", 1.0, np.True_])
def test_truths(value):
    assert truths([value, "0"], "x").tolist() == [True, False]


# --- joined by barcode ---


def matrix(cells):
    return ad.AnnData(counts(len(cells), 30), obs=pd.DataFrame(index=list(cells)), var=pd.DataFrame(index=GENES))


def joined(tmp_path, cells, text, sample="s", mapping=None):
    (tmp_path / "t.csv").write_text(text)
    data = matrix(cells)
    add_tables(data, [None, tmp_path / "t.csv"], sample, mapping)
    return data


SPELLINGS = {
    "as they are": (CELLS, CELLS),
    "suffix lacks in the table": (CELLS, BARE),
    "suffix lacks in the matrix": (BARE, CELLS),
    "suffix of anndata.concat": ([f"{c}-0" for c in CELLS], CELLS),
    "prefix lacks in the matrix": (CELLS, [f"lane1_{c}" for c in CELLS]),
    "prefix lacks in the table": ([f"lane1#{c}" for c in CELLS], CELLS),
    "prefix and suffix": ([f"s1_{c}" for c in CELLS], BARE),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_join(tmp_path, name):
    own, listed = SPELLINGS[name]
    data = joined(tmp_path, own, "barcode,leiden\n" + lines(f"{c},{i}" for i, c in enumerate(listed[::-1])))
    assert data.obs["leiden"].tolist() == list(range(12))[::-1]
    assert any("12 of 12 cells" in note for note in data.uns["notes"])
    assert any("without" in note for note in data.uns["notes"]) is (name != "as they are")


def test_join_by_translation(tmp_path):
    mapping = BarcodeMap(dict(zip(CELLS, [f"RNA{i}" for i in range(12)])))
    data = joined(tmp_path, CELLS, "barcode,x\n" + lines(f"RNA{i},{i}" for i in range(12)), mapping=mapping)
    assert data.obs["x"].tolist() == list(range(12))


def test_cells_without_a_row_have_gaps_and_are_told(tmp_path):
    text = "barcode,leiden,treated,age\n" + lines(f"{c},{i},TRUE,1.5" for i, c in enumerate(CELLS[:4]))
    data = joined(tmp_path, CELLS, text)
    assert data.obs["leiden"].tolist()[:5] == [0, 1, 2, 3, pd.NA]
    assert str(data.obs["leiden"].dtype) == "Int64"
    assert str(data.obs["treated"].dtype) == "boolean"
    assert data.obs["age"].isna().sum() == 8
    assert data.uns["warnings"] == ["t.csv: 4 of 12 cells are in the table"]


def test_a_table_of_several_samples(tmp_path):
    rows = [f"{c},{s},{s}{i}" for s in ("a", "b") for i, c in enumerate(CELLS)]
    data = joined(tmp_path, CELLS, "barcode,sample,x\n" + lines(rows), "b")
    assert data.obs["x"].tolist() == [f"b{i}" for i in range(12)]
    assert set(data.obs["sample_given"]) == {"b"}


@pytest.mark.parametrize("mark", ["_", "#", ":", "-"])
def test_a_table_of_several_samples_by_prefix(tmp_path, mark):
    rows = [f"{s}{mark}{c},{s}{i}" for s in ("a", "b") for i, c in enumerate(CELLS[: 9 if s == "b" else 12])]
    data = joined(tmp_path, CELLS, "barcode,x\n" + lines(rows), "b")
    assert data.obs["x"].tolist()[:9] == [f"b{i}" for i in range(9)]
    assert data.obs["x"].isna().sum() == 3  # never a row of sample a


def test_a_table_of_several_samples_that_cannot_be_told_apart(tmp_path):
    rows = [f"{c}_{1 + i % 2},{i}" for i, c in enumerate(CELLS)]
    with pytest.raises(InputError, match="none of its 12 barcodes"):
        joined(tmp_path, CELLS, "barcode,x\n" + lines(rows), "b")


def test_duplicates(tmp_path):
    once = "barcode,x\n" + lines(f"{c},1" for c in CELLS)
    assert joined(tmp_path, CELLS, once + f"{CELLS[0]},1\n").obs["x"].tolist() == [1] * 12
    with pytest.raises(InputError, match="two different rows"):
        joined(tmp_path, CELLS, once + f"{CELLS[0]},2\n")


def test_a_table_of_other_cells_is_refused(tmp_path):
    with pytest.raises(InputError, match="none of its 12 barcodes") as error:
        joined(tmp_path, CELLS, "barcode,x\n" + lines(f"{c[:-3]}TT-1,1" for c in barcodes(12, start=9000)))
    assert "spelled as in the matrix" in str(error.value)


def test_columns_that_the_matrix_has_too(tmp_path):
    (tmp_path / "t.csv").write_text("barcode,cell_type\n" + lines(f"{c},T" for c in CELLS))
    data = matrix(CELLS)
    data.obs["cell_type"] = "B"
    add_tables(data, [tmp_path / "t.csv"], "s")
    assert data.obs["cell_type"].tolist() == ["T"] * 12
    assert any("replace" in note for note in data.uns["notes"])


def test_wells_are_never_mixed():
    assert meeting(CELLS, [c.replace("-1", "-2") for c in CELLS]) is None
    two_wells = [f"{c[:-2]}-{k}" for c in CELLS for k in (1, 2)]
    assert meeting(two_wells, BARE) is None
    mixed = [f"{c[:-2]}-{1 + i % 2}" for i, c in enumerate(CELLS)]
    assert meeting(BARE, mixed) is None  # which well a bare barcode is of is not known
    found, words = meeting(BARE, CELLS)
    assert found == dict(zip(BARE, CELLS))
    assert "suffix" in words
