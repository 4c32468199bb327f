"""A QC's h5ad in which one data set is of another kind: refused by name, or not read at all."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from multivi_nf.errors import InputError
from multivi_nf.testing.parts import ENSG, PEAKS, build, part, sample

FEATURES = {"rna": ENSG[:30], "atac": PEAKS[:30], "protein": [f"P{n}" for n in range(30)]}
KINDS = {
    "text": lambda shape: np.full(shape, b"<script>", "S8"),
    "table": lambda shape: np.zeros(shape, [("a", "i4"), ("b", "S3")]),
    "complex": lambda shape: np.full(shape, 1j),
    "nothing": lambda shape: h5py.Empty("f8"),
    "more": lambda shape: np.ones((2 * shape[0] + 1,) if shape else (), "i4"),
}


def made(folder: Path, modality: str) -> Path:
    more = {"isotype": [False] * 30} if modality == "protein" else {}
    return part(
        folder, "a", modality, [f"c{n}" for n in range(40)], FEATURES[modality], mean=2.0, failed=["x"], **more
    )[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modality", FEATURES)
def test_a_data_set_of_another_kind_is_refused(tmp_path: Path, modality: str, kind: str) -> None:
    path = made(tmp_path, modality)
    whole, names, refused = path.read_bytes(), [], set()
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    for name in names:
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            shape, attributes = file[name].shape, dict(file[name].attrs)
            del file[name]
            file[name] = KINDS[kind](shape)
            file[name].attrs.update(attributes)
        try:
            build(tmp_path, [path], [sample("a", [modality])])
        except InputError as error:
            assert path.name in str(error)
            refused.add(name)
    assert refused >= {"X/data", "X/indices", f"obs/{modality}_n_counts", "obs/_index"} - (
        {"X/data", f"obs/{modality}_n_counts"} if kind == "more" else set()
    )


@pytest.mark.parametrize(
    "facts",
    [
        [],
        7,
        {"modality": "rna"},
        {"sample": [], "modality": "rna"},
        {"sample": "a", "modality": ["rna"]},
        {"sample": "a", "modality": "spliced"},
        {"sample": {}, "modality": {}},
    ],
)
def test_forged_facts_are_refused(tmp_path: Path, facts: object) -> None:
    path = made(tmp_path, "rna")
    with h5py.File(path, "r+") as file:
        del file["uns/multivi_nf"]
        file["uns/multivi_nf"] = json.dumps(facts)
    with pytest.raises(InputError, match="was not written by qc-rna"):
        build(tmp_path, [path], [sample("a", ["rna"])])


@pytest.mark.parametrize("what", ["obs", "var"])
def test_a_name_twice_is_refused(tmp_path: Path, what: str) -> None:
    path = made(tmp_path, "rna")
    with h5py.File(path, "r+") as file:
        file[f"{what}/_index"][1] = file[f"{what}/_index"][0]
    with pytest.raises(InputError, match="is in it twice"):
        build(tmp_path, [path], [sample("a", ["rna"])])
