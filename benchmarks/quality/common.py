"""What the quality benchmarks share: the SNARE set as the protocol wants it, our model, tables."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from benchmarks.places import DATA

from multivi_nf.benchmark.scoring import Views
from multivi_nf.benchmark.splits import Split
from multivi_nf.imputation.impute import impute
from multivi_nf.latent.embed import embed
from multivi_nf.training import MultiVI, train


def snare(cells: int = 0) -> tuple[dict[str, anndata.AnnData], pd.Series]:
    """The SNARE-seq cortex cells without "Mis": genes in >= 1 % and peaks in >= 0.2 % of cells; and their labels.

    With `cells` only so many of them, drawn once, for a quick look; the protocol takes all.
    """
    folder = DATA / "snare_mouse_cortex_dev"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: this benchmark needs the real data sets beside the checkout")
    complete = {m: anndata.read_h5ad(folder / f"{m}.h5ad") for m in ("rna", "atac")}
    table = pd.read_csv(folder / "cells.tsv.gz", sep="\t", index_col=0)
    chosen = table.index[table["cell_type"] != "Mis"]
    if cells:
        chosen = chosen[np.sort(np.random.default_rng(0).choice(len(chosen), cells, replace=False))]
    for modality, share in (("rna", 0.01), ("atac", 0.002)):
        data = complete[modality][chosen].copy()
        seen = np.asarray((data.X > 0).mean(0)).ravel() >= share
        data = data[:, seen].copy()
        data.obs["batch"] = table.loc[chosen, "batch"].astype(str).to_numpy()
        complete[modality] = data
    return complete, table.loc[chosen, "cell_type"].astype(str)


def fit(split: Split, seed: int = 0, **options) -> tuple[MultiVI, float]:
    """Train ours, with the defaults unless an option is named; give the model and CPU seconds."""
    training = {k: options.pop(k) for k in ("max_epochs", "batch_size", "learning_rate") if k in options}
    started = time.process_time()
    model = MultiVI.from_mosaic(split.mosaic, seed=seed, **options)
    train(model, split.mosaic, seed=seed, quiet=True, **training)
    return model, time.process_time() - started


def keeping(folder: Path | None, name: str, split: Split, seed: int = 0, **options) -> MultiVI:
    """A model kept in `folder` under this name, trained and kept if it is not there (always trained without a folder).

    For several benchmarks of one model; the name has to say data, split and options.
    """
    place = folder / "-".join([name, *(f"{k}={v}" for k, v in sorted(options.items()))]) if folder else None
    if place is not None and (place / "config.json").is_file():
        return MultiVI.load(place)
    model, seconds = fit(split, seed, **options)
    print(f"{name}: trained in {seconds:.0f} CPU s, {len(model.history.rows)} epochs", flush=True)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        model.save(place)
    return model


def views_of(model: MultiVI, split: Split) -> Views:
    """Ours, as the scores want it."""
    found = embed(model, split.mosaic)
    names = split.mosaic.obs_names
    by = {m: pd.DataFrame(z, index=names).dropna() for m, z in found.by_modality.items()}
    return Views(pd.DataFrame(found.mean, index=names), by, pd.DataFrame(found.variance, index=names))


def imputed(model: MultiVI, split: Split, modality: str, cells: pd.Index, samples: int = 25, **options) -> np.ndarray:
    """(n_cells, n_features) posterior mean of ours for the given cells, all features; `options` are those of impute."""
    found = impute(
        model,
        split.mosaic,
        modality=modality,
        features="all",
        n_samples=samples,
        interval=0.9,
        cells=list(cells),
        **options,
    )
    return np.asarray(found[cells].X)


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table, one method a row, and the same as one JSON line."""
    table = pd.DataFrame(rows).T
    print(f"\n== {title}")
    print(table.to_string(float_format=lambda v: f"{v:.3f}"))
    print(json.dumps({"title": title, "rows": rows}, default=float), flush=True)


def parser(text: str) -> argparse.ArgumentParser:
    """Options all quality benchmarks have."""
    arguments = argparse.ArgumentParser(description=text)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--cells", type=int, default=0, help="only so many SNARE cells, for a quick look")
    arguments.add_argument("--keep", type=Path, help="folder of trained models, for benchmarks that share them")
    arguments.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="architecture or training options other than the defaults",
    )
    return arguments


def read_options(pairs: list[str]) -> dict:
    """NAME=VALUE pairs, numbers as numbers."""
    options = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def threads(n: int) -> None:
    """Use `n` threads for everything that torch does."""
    torch.set_num_threads(n)
