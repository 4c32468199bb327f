"""Compare two result folders by values: `python compare.py ONE OTHER`; leaves with 1 and names every difference.

Timings and paths are left out: `pipeline_info/`, `checkpoints/`, `report.html`, `manifest.tsv` (their digests),
`*.resources.json`, and `seconds` in history.tsv and *.json.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from scipy import sparse

SKIPPED_FOLDERS = {"pipeline_info", "checkpoints"}
SKIPPED_NAMES = (".resources.json", "report.html", "manifest.tsv")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def files(root: Path) -> set[str]:
    """Give result files by their path below `root`; a zarr store counts as one."""
    found = set()
    for path in root.rglob("*"):
        below = path.relative_to(root)
        stores = [part for part in below.parts if part.endswith(".zarr")]
        if below.parts[0] in SKIPPED_FOLDERS or below.name.endswith(SKIPPED_NAMES):
            continue
        if stores:
            found.add(str(Path(*below.parts[: below.parts.index(stores[0]) + 1])))
        elif path.is_file():
            found.add(str(below))
    return found


def dense(values: object) -> np.ndarray:
    """Give any stored matrix as an array."""
    return values.toarray() if sparse.issparse(values) else np.asarray(values)


def same_frame(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Equal names, order and text; numbers within tolerance."""
    if list(one.columns) != list(other.columns) or len(one) != len(other) or not one.index.equals(other.index):
        return False
    for column in one.columns:
        a, b = one[column], other[column]
        if pd.api.types.is_float_dtype(a) and pd.api.types.is_float_dtype(b):
            if not np.allclose(a, b, equal_nan=True, **TOLERANCE):
                return False
        elif not a.astype(str).equals(b.astype(str)):
            return False
    return True


def same_anndata(one: anndata.AnnData, other: anndata.AnnData) -> bool:
    """Equal cells and features; matrices and annotation within tolerance."""
    if not (same_frame(one.obs, other.obs) and same_frame(one.var, other.var)):
        return False
    pairs = [(one.X, other.X)]
    for a, b in ((one.layers, other.layers), (one.obsm, other.obsm)):
        if set(a) != set(b):
            return False
        pairs += [(a[key], b[key]) for key in a]
    return all(np.allclose(dense(a), dense(b), equal_nan=True, **TOLERANCE) for a, b in pairs if a is not None)


def same_mudata(one: mudata.MuData, other: mudata.MuData) -> bool:
    """As same_anndata, over all modalities and the joint annotation."""
    if list(one.mod) != list(other.mod) or not same_frame(one.obs, other.obs) or set(one.obsm) != set(other.obsm):
        return False
    joint = all(np.allclose(dense(one.obsm[k]), dense(other.obsm[k]), equal_nan=True, **TOLERANCE) for k in one.obsm)
    return joint and all(same_anndata(one[name], other[name]) for name in one.mod)


def table(path: Path) -> pd.DataFrame:
    """Read a tab-separated table without timings."""
    comment = "#" if path.name.endswith("_mqc.tsv") else None  # MultiQC's own header
    return pd.read_csv(path, sep="\t", comment=comment).drop(columns="seconds", errors="ignore")


def untimed(entry: dict) -> dict:
    """Leave timings out of one object of a JSON file."""
    return {key: value for key, value in entry.items() if key != "seconds"}


def same(one: Path, other: Path) -> bool:
    """Compare one result by what it is."""
    name = one.name
    if name.endswith(".zarr"):
        return same_anndata(anndata.read_zarr(one), anndata.read_zarr(other))
    if name.endswith(".h5mu"):
        return same_mudata(mudata.read_h5mu(one), mudata.read_h5mu(other))
    if name.endswith(".h5ad"):
        return same_anndata(anndata.read_h5ad(one), anndata.read_h5ad(other))
    if name.endswith(".safetensors"):
        a, b = load_file(one), load_file(other)
        return set(a) == set(b) and all(np.allclose(a[key], b[key], **TOLERANCE) for key in a)
    if name.endswith((".tsv", ".tsv.gz")):
        return same_frame(table(one), table(other))
    if name.endswith(".json"):
        return json.loads(one.read_text(), object_hook=untimed) == json.loads(other.read_text(), object_hook=untimed)
    if name.endswith(".gz"):
        return gzip.decompress(one.read_bytes()) == gzip.decompress(other.read_bytes())
    return one.read_bytes() == other.read_bytes()


def main(one: Path, other: Path) -> int:
    """Print what differs; 0 if nothing does."""
    first, second = files(one), files(other)
    problems = [f"only in one of them: {name}" for name in sorted(first ^ second)]
    both = sorted(first & second)
    problems += [f"values differ: {name}" for name in both if not same(one / name, other / name)]
    plain = [name for name in both if (one / name).is_file()]
    identical = sum((one / name).read_bytes() == (other / name).read_bytes() for name in plain)
    print(f"{len(both)} results compared, {identical} of {len(plain)} plain files identical byte for byte")
    if not any(name.endswith("weights.safetensors") for name in both):
        problems.append("there are no weights to compare")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
