"""Peers in their own environment, such as scvi-tools' MULTIVI; outputs are kept by the hash of data and settings."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from multivi_nf.benchmark.scoring import Views
from multivi_nf.benchmark.splits import Split

CACHE = Path.home() / ".cache" / "multivi-nf" / "peer-results"


def padded(split: Split, impute: dict[str, pd.Index]) -> dict[str, np.ndarray]:
    """The mosaic as scvi-tools takes it: every cell in both modalities, zeros where it was not measured."""
    cells = split.mosaic.obs_names
    out = {
        "cells": cells.to_numpy().astype("U"),
        "batch": split.mosaic.obs["batch"].astype(str).to_numpy().astype("U"),
        "modality": split.modalities[cells].to_numpy().astype("U"),
    }
    for name in ("rna", "atac"):
        part = split.mosaic[name]
        rows = part.obs_names.get_indexer(cells)
        place = sp.csr_matrix(
            (np.ones(part.n_obs), (np.flatnonzero(rows >= 0), rows[rows >= 0])), shape=(len(cells), part.n_obs)
        )
        full = (place @ part.X).tocsr()
        out |= {f"{name}_data": full.data, f"{name}_indices": full.indices, f"{name}_indptr": full.indptr}
        out[f"{name}_shape"] = np.array(full.shape)
        out[f"impute_{name}"] = impute.get(name, pd.Index([])).to_numpy().astype("U")
    return out


def run_peer(python: Path, program: str, arrays: dict[str, np.ndarray], settings: dict) -> dict[str, np.ndarray]:
    """Outputs of a program beside this one: from the cache where it met the same arrays and settings before."""
    code = Path(__file__).with_name(f"{program}.py").read_bytes()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + code)
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    kept = CACHE / f"{program}-{digest.hexdigest()[:24]}.npz"
    if not kept.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            source, options, target = (Path(folder) / name for name in ("in.npz", "settings.json", "out.npz"))
            np.savez(source, **arrays)
            options.write_text(json.dumps(settings))
            subprocess.run([python, "-m", f"benchmarks.peers.{program}", source, options, target], check=True)
            kept.write_bytes(target.read_bytes())
    return dict(np.load(kept))


def run_scvi(
    python: Path,
    split: Split,
    settings: dict,
    impute: dict[str, pd.Index] | None = None,
    held: pd.Index | None = None,
) -> dict[str, np.ndarray]:
    """Outputs of scvi-tools for all cells of a split; those in `held` are embedded and decoded, but train nothing."""
    arrays = padded(split, impute or {})
    if held is not None:
        arrays["held"] = held.to_numpy().astype("U")
    return run_peer(python, "scvi_multivi", arrays, settings)


def scvi_views(
    python: Path, split: Split, seed: int, batch_key: str, epochs: int, learning_rate: float = 1e-3
) -> tuple[Views, float]:
    """Embedding by scvi-tools, and its training's CPU seconds."""
    settings = {
        "seed": seed,
        "batch_key": batch_key,
        "max_epochs": epochs,
        "learning_rate": learning_rate,
        "threads": 2,
    }
    return views_of_outputs(split, run_scvi(python, split, settings))


def views_of_outputs(split: Split, found: dict[str, np.ndarray]) -> tuple[Views, float]:
    """The peer's outputs as the scores want them."""
    names = split.mosaic.obs_names
    frames = {k: pd.DataFrame(found[k], index=names) for k in ("joint", "variance", "rna", "atac")}
    by = {m: frames[m].loc[split.mosaic[m].obs_names] for m in ("rna", "atac")}
    return Views(frames["joint"], by, frames["variance"]), float(found["cpu_seconds"])
