"""One map of labs, technologies and modalities: the defaults on every set, scored on the same obsm["X_multivi"].

    python benchmarks/quality/integration.py [--data P P-rna ...] [--seeds 0 1 2] [--peers]

Sets (`../shared/integration/sets`, measures of the `score.py` beside them): P, Q, G, B, M, and P and Q with RNA alone.
`simulated` is the default mosaic of `multivi-nf simulate`, `snare` 3,500 cells of the cortex, beside 1,000 and all of
them (imputation there is too kind: the hidden profile is shown as another cell). A row is appended to
`benchmarks/results/integration.tsv` as soon as it is there, and computed once for each state of data, code, options and
seed; the table of all rows of this state is printed at the end. `--peers` adds what is cheap: log-normalised RNA's
principal components, and Harmony on them where harmonypy is installed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE.parents[1]))
SHARED = ROOT.parent / "shared"
SETS = SHARED / "integration" / "sets"
RESULTS = ROOT / "benchmarks" / "results" / "integration.tsv"
COLUMNS = ["data", "data_hash", "code_hash", "method", "seed", "measure", "value"]
DATA = ("P-rna", "P", "Q-rna", "Q", "G", "B", "M", "simulated", "snare-1000", "snare", "snare-all")
SNARE_CELLS = {"snare-1000": 1000, "snare": 3500, "snare-all": 0}
SIMULATED = {
    "mixing of batches, LISI ratio": "lisi_batch",
    "mixing of modalities, LISI ratio": "lisi_modality",
    "Leiden ARI, rna cells": "ari_rna",
    "Leiden ARI, atac cells": "ari_atac",
    "15-NN type purity, rna view": "purity_rna",
    "15-NN type purity, atac view": "purity_atac",
    "FOSCTTM, held-out pairs": "foscttm_held_out",
    "imputed RNA, Spearman per gene": "imputed_rna",
    "types carried from RNA to ATAC, F1": "carried_f1",
}


def scorer() -> ModuleType:
    """`score.py`, which defines mix, ceiling, purity, transfer and alone."""
    path = SHARED / "integration" / "score.py"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: this benchmark needs the shared sets beside the checkout")
    spec = importlib.util.spec_from_file_location("score", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_hash() -> str:
    """Of everything that decides the embedding."""
    digest = hashlib.sha256()
    for room in ("data", "model", "training", "latent"):
        for path in sorted((ROOT / "python" / "multivi_nf" / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def data_hash(name: str) -> str:
    """Of the set's file; of the name where data are made or drawn here."""
    path = SETS / f"{name.removesuffix('-rna')}.h5mu"
    content = path.read_bytes() if path.is_file() else name.encode()
    return hashlib.sha256(content).hexdigest()[:12]


def trained(mosaic, seed: int, options: dict):
    """The model, CPU seconds of building and training it, and the kept and last epochs."""
    from multivi_nf.training import MultiVI, train

    started = time.process_time()
    model = MultiVI.from_mosaic(mosaic, seed=seed, **options)
    history = train(model, mosaic, seed=seed, quiet=True, device="cpu")
    spent = time.process_time() - started
    return model, {"cpu_s": spent, "kept_epoch": history.best_epoch, "epochs": len(history)}


def of_set(name: str, seed: int, options: dict) -> dict[str, float]:
    """A set of `../shared/integration`: train on it, score X_multivi of its cells with RNA."""
    import mudata

    from multivi_nf.latent.embed import embed

    score = scorer()
    complete = mudata.read_h5mu(SETS / f"{name.removesuffix('-rna')}.h5mu")
    mosaic = complete
    if name.endswith("-rna"):
        mosaic = mudata.MuData({"rna": complete.mod["rna"].copy()})
        mosaic.obs = complete.obs.loc[mosaic.obs_names].copy()
    model, cost = trained(mosaic, seed, options)
    cells = complete.mod["rna"].obs_names
    z = embed(model, mosaic).mean[mosaic.obs_names.get_indexer(cells)]
    return scores_of(score, complete.obs.loc[cells], z) | cost


def scores_of(score: ModuleType, obs: pd.DataFrame, z: np.ndarray) -> dict[str, float]:
    """`score.scores`, and the purity of fine types."""
    group, lineage, label = (obs[c].astype(str).replace("nan", "").to_numpy() for c in ("group", "lineage", "label"))
    found = score.scores(z, group, lineage)
    fine = label != ""
    found["purity_fine"] = score.purity(z[fine], label[fine]).mean()
    if len(np.unique(group)) == 2 and len(np.unique(obs["batch"][group == group[0]])) > 1:
        for side in np.unique(group):
            batch = obs["batch"].astype(str).to_numpy()[group == side]
            if len(np.unique(batch)) > 1:
                found[f"mix_inside_{side}"] = score.mixing(z[group == side], batch).mean()
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def of_simulation(seed: int, options: dict) -> dict[str, float]:
    """The default simulated mosaic, two sites, known truth (`quality_simulated.py`)."""
    from quality_simulated import scores_of as simulated_scores

    started = time.process_time()
    found = simulated_scores(dict(options), seed)
    scores = {short: found[name] for name, short in SIMULATED.items()}
    return scores | {"epochs": found["epochs"], "cpu_s_with_scores": time.process_time() - started}


def of_snare(name: str, seed: int, options: dict) -> dict[str, float]:
    """SNARE cells, 25 % paired: the split of `quality_snare.py`, and RNA imputed to the cells that show ATAC alone."""
    from quality_common import imputed, snare, views_of

    from multivi_nf.benchmark.scoring import hidden_truth, score_embedding, score_rna
    from multivi_nf.benchmark.splits import random_unpairing

    complete, labels = snare(SNARE_CELLS[name])
    split = random_unpairing(complete, 0.25, seed=seed, labels=labels)
    model, cost = trained(split.mosaic, seed, options)
    hidden = hidden_truth(split, complete, "rna", "atac")
    rna = score_rna(hidden, imputed(model, split, "rna", hidden.cells))
    found = score_embedding(split, views_of(model, split), labels)
    found |= {"imputed_rna_gene": rna["gene_spearman"], "imputed_rna_cell": rna["cell_pearson_centred"]}
    return {k: float(v) for k, v in found.items()} | cost


def unintegrated(name: str, method: str) -> dict[str, float]:
    """Principal components of log-normalised RNA, as they are or after Harmony."""
    import mudata

    score = scorer()
    complete = mudata.read_h5mu(SETS / f"{name}.h5mu")
    obs = complete.obs.loc[complete.mod["rna"].obs_names]
    z = score.pca(complete.mod["rna"])
    if method == "harmony":
        import harmonypy

        z = np.asarray(harmonypy.run_harmony(z, obs.assign(batch=obs["batch"].astype(str)), "batch").Z_corr)
        z = z if z.shape[0] == len(obs) else z.T
    return scores_of(score, obs, z)


def kept(key: dict[str, object], compute: Callable[[], dict[str, float]]) -> None:
    """Append what `compute` gives to the results, unless they hold it for the same data, code, options and seed."""
    rows = results()
    same = np.ones(len(rows), dtype=bool)
    for column, value in key.items():
        same &= rows[column].astype(str).to_numpy() == str(value)
    if same.any():
        return
    found = compute()
    more = pd.DataFrame([{**key, "measure": name, "value": round(value, 4)} for name, value in found.items()])
    RESULTS.parent.mkdir(exist_ok=True)
    more[COLUMNS].to_csv(RESULTS, sep="\t", index=False, mode="a", header=not RESULTS.exists(), lineterminator="\n")
    print(json.dumps({**key, **{k: round(v, 3) for k, v in found.items()}}), flush=True)


def results() -> pd.DataFrame:
    """All rows there are."""
    return pd.read_csv(RESULTS, sep="\t") if RESULTS.exists() else pd.DataFrame(columns=COLUMNS)


def main() -> None:
    warnings.filterwarnings("ignore")
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--peers", action="store_true")
    arguments.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options other than the defaults")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    from quality_common import read_options

    options = read_options(given.set)
    method = " ".join(["ours", *sorted(given.set)])
    code = code_hash()
    special = {"simulated": of_simulation} | {name: functools.partial(of_snare, name) for name in SNARE_CELLS}
    for seed in given.seeds:
        for name in given.data:
            key = {"data": name, "data_hash": data_hash(name), "code_hash": code, "method": method, "seed": seed}
            if name in special:
                kept(key, lambda name=name, seed=seed: special[name](seed, options))
            else:
                kept(key, lambda name=name, seed=seed: of_set(name, seed, options))
    if given.peers:
        methods = ["pca", *(["harmony"] if importlib.util.find_spec("harmonypy") else [])]
        for name in (n for n in given.data if n in ("P", "Q", "G", "B", "M")):
            for peer in methods:
                key = {"data": name, "data_hash": data_hash(name), "code_hash": "-", "method": peer, "seed": 0}
                kept(key, lambda name=name, peer=peer: unintegrated(name, peer))
    rows = results()
    rows = rows[rows["code_hash"].isin([code, "-"]) & rows["data"].isin(given.data)]
    table = rows.pivot_table(index=["data", "method"], columns="measure", values="value", aggfunc="mean")
    with pd.option_context("display.width", 250, "display.max_columns", 40):
        for name, part in table.groupby(level=0):
            print(f"\n== {name}, mean of seeds")
            print(part.dropna(axis=1, how="all").to_string(float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
