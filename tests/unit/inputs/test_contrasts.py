from __future__ import annotations

import pandas as pd
import pytest

from multivi_nf.errors import InputError
from multivi_nf.inputs.contrasts import (
    Contrast,
    check_contrasts,
    choose_contrast,
    group_labels,
    groups_of,
    read_contrasts,
)

HEADER = "contrast,modality,groupby,target,reference,cells\n"


def test_defaults_are_filled(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("contrast,modality,groupby,target\na,rna,cluster,each\n")
    (row,) = read_contrasts(path)
    assert (row.reference, row.cells) == ("rest", "observed")


def test_all_problems_at_once(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text(HEADER + "a,rna,cluster,1,2,all\na,lipids,cluster,1,2,all\nb,rna,cluster,1,1,some\n")
    with pytest.raises(InputError) as problem:
        read_contrasts(path)
    text = str(problem.value)
    assert (
        "line 3" in text
        and "already in line 2" in text
        and "'lipids'" in text
        and "line 4" in text
        and "'some'" in text
    )


def test_missing_file_and_columns(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_contrasts(tmp_path / "nothing.csv")
    (tmp_path / "c.csv").write_text("contrast,modality\na,rna\n")
    with pytest.raises(InputError, match="'groupby' is missing"):
        read_contrasts(tmp_path / "c.csv")


def test_one_contrast_by_name_or_options(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text(HEADER + "a,rna,cluster,1,2,all\nb,atac,donor,x,rest,\n")
    nothing = Contrast("", "", "", "")
    assert choose_contrast(path, "b", nothing).groupby == "donor"
    with pytest.raises(InputError, match="'c' is not in"):
        choose_contrast(path, "c", nothing)
    with pytest.raises(InputError, match="--modality, --groupby, --target not given"):
        choose_contrast(None, None, nothing)


def test_groups(tmp_path, mosaic):
    path = tmp_path / "c.csv"
    path.write_text(HEADER + "a,rna,cell_type,each,rest,all\nb,rna,cell_type,T0,T9,all\nc,protein,nothing,x,y,all\n")
    every, missing, column = read_contrasts(path)
    labels = group_labels(mosaic.obs, "cell_type")
    assert groups_of(every, labels) == [("T0", "rest"), ("T1", "rest")]
    with pytest.raises(InputError, match="cell_type = 'T9'"):
        groups_of(missing, labels)
    check_contrasts([every], mosaic)
    with pytest.raises(InputError) as problem:
        check_contrasts([every, missing, column], mosaic)
    assert "'T9'" in str(problem.value) and "'nothing'" in str(problem.value)
    with pytest.raises(InputError, match="all cells have"):
        groups_of(every, pd.Series(["T0", "T0"]))
