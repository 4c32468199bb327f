"""One map of labs, technologies and modalities: the defaults on every set, scored on the same obsm["X_multivi"].

    python -m benchmarks.quality.integration [--data P P-rna ...] [--seeds 0 1 2] [--peers]

Sets (`../shared/integration/sets`, measures of the `score.py` beside them): P, Q, G, B, M, and P and Q with RNA alone.
`control` is the one lab A of Q split at random, myeloid cells kept in one half only and B cells in the other: purity of
these two must be what it is with `--set batch_integration=0`. `kang` is Q and, as a third batch, the stimulated cells
of `pbmc_two_labs_kang`, with the places of five interferon genes in the contrast of stimulated and control cells.
`one`, `one-5`, `half`, `sisters` and `modality` are simulated mosaics of unequal composition (`COMPOSITION`),
`simulated` the default mosaic of `multivi-nf simulate`, `snare` 3,500 cells of the cortex, beside 1,000 and all of them
(imputation there is too kind: the hidden profile is shown as another cell). A row is appended to
`benchmarks/results/integration.tsv` as soon as it is there, and computed once for each state of data, code, options and
seed; the table of all rows of this state is printed at the end. `--peers` adds what is cheap: log-normalised RNA's
principal components, and Harmony on them where harmonypy is installed.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import importlib.util
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from benchmarks import places
from benchmarks.places import PACKAGE, SETS, SHARED

RESULTS = places.RESULTS / "integration.tsv"
COLUMNS = ["data", "data_hash", "code_hash", "method", "seed", "measure", "value"]
DATA = ("P-rna", "P", "Q-rna", "Q", "G", "B", "M", "control", "kang", "one", "one-5", "half", "sisters", "modality")
DATA += ("simulated", "snare-1000", "snare", "snare-all")
SNARE_CELLS = {"snare-1000": 1000, "snare": 3500, "snare-all": 0}
COMPOSITION = {
    "one": ({"site_2": ("type_3",)}, {}, 1.0),
    "one-5": ({"site_2": ("type_3",)}, {}, 0.05),
    "half": ({"site_1": ("type_1", "type_2"), "site_2": ("type_3", "type_4")}, {}, 1.0),
    "sisters": ({"site_1": ("type_4", "type_5"), "site_2": ("type_1", "type_3")}, {}, 1.0),
    "modality": ({}, {"type_5": "rna", "type_3": "atac"}, 1.0),
}
"""Which types a site lacks, of which types only cells of one modality are left, and the share of the second site.
Types 1 and 2, and 3 and 4, are sisters: in `sisters` type 3 is in one site only and type 4 in the other only."""

INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3")
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
        for path in sorted((PACKAGE / room).rglob("*.py")):
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
    """A set of `../shared/integration`, or made of one: train on it, score X_multivi of its cells with RNA."""
    import mudata

    from multivi_nf.latent.embed import embed

    score = scorer()
    made = {"control": "Q", "kang": "Q"}
    complete = mudata.read_h5mu(SETS / f"{made.get(name, name.removesuffix('-rna'))}.h5mu")
    mosaic = complete
    if name.endswith("-rna"):
        mosaic = only_rna(complete.mod["rna"].copy(), complete.obs)
    elif name in made:
        mosaic = complete = halves(complete) if name == "control" else three_batches(complete)
    model, cost = trained(mosaic, seed, options)
    cells = complete.mod["rna"].obs_names
    z = embed(model, mosaic).mean[mosaic.obs_names.get_indexer(cells)]
    obs = complete.obs.loc[cells]
    found = scores_of(score, obs, z) | cost
    lineage = obs["lineage"].astype(str).replace("nan", "").to_numpy()
    if name == "control":
        purity = score.purity(z[lineage != ""], lineage[lineage != ""])
        found |= {f"purity_{t}": float(purity[lineage[lineage != ""] == t].mean()) for t in ("myeloid", "B")}
    if name == "M":
        label, batch = (obs[c].astype(str).to_numpy() for c in ("label", "batch"))
        healthy = label == "healthy_reference"
        found["purity_condition"] = float(score.purity(z, label).mean())
        found["mix_healthy"] = float(score.mixing(z[healthy], batch[healthy]).mean())
    if name == "kang":
        found |= interferon(model, mosaic)
    return found


def only_rna(rna, obs: pd.DataFrame):
    """A mosaic of RNA alone, with these cells' rows of a table."""
    import mudata

    mosaic = mudata.MuData({"rna": rna})
    mosaic.obs = obs.loc[mosaic.obs_names].copy()
    return mosaic


def halves(complete):
    """Lab A of Q as two batches drawn at random: myeloid cells in the first only, B cells in the second only."""
    rna = complete.mod["rna"]
    obs = complete.obs.loc[rna.obs_names]
    rna, obs = (x[(obs["group"].astype(str) == "A").to_numpy()].copy() for x in (rna, obs))
    half, lineage = np.random.default_rng(0).integers(0, 2, len(obs)), obs["lineage"].astype(str).to_numpy()
    obs["batch"] = obs["group"] = np.array(["h0", "h1"])[half]
    keep = ~(((lineage == "myeloid") & (half == 1)) | ((lineage == "B") & (half == 0)))
    return only_rna(rna[keep].copy(), obs)


def three_batches(complete):
    """Q's RNA with the stimulated cells of Kang et al. as a third batch S."""
    import anndata
    from scipy import io, sparse

    folder = SHARED / "data" / "pbmc_two_labs_kang"
    rna = complete.mod["rna"]
    with gzip.open(folder / "stim" / "matrix.mtx.gz") as handle:
        counts = sparse.csr_matrix(io.mmread(handle).T)
    barcodes = pd.read_csv(folder / "stim" / "barcodes.tsv.gz", header=None)[0]
    genes = pd.Index(pd.read_csv(folder / "stim" / "features.tsv.gz", sep="\t", header=None)[1].astype(str))
    lineage = pd.read_csv(folder / "stim.cells.tsv.gz", sep="\t", index_col=0).iloc[:, 0].reindex(barcodes)
    at = genes.get_indexer(rna.var_names)
    stim = anndata.AnnData(
        counts[:, at].astype(rna.X.dtype),
        pd.DataFrame(
            {"batch": "S", "group": "S", "lineage": lineage.replace("unsure", "").to_numpy()}, barcodes + "-S"
        ),
        pd.DataFrame(index=rna.var_names),
    )
    obs = complete.obs.loc[rna.obs_names, ["batch", "group", "lineage"]].astype(str).replace("nan", "")
    table = pd.concat([obs, stim.obs]).assign(label="")
    both = anndata.AnnData(sparse.vstack([rna.X, stim.X]).tocsr(), table[[]].copy(), stim.var)
    return only_rna(both, table)


def interferon(model, mosaic) -> dict[str, float]:
    """Worst place of five interferon genes where a lineage's stimulated cells are compared with control cells."""
    from multivi_nf.comparison.compare import differential

    mosaic.obs["contrast"] = mosaic.obs["lineage"].astype(str) + " " + mosaic.obs["batch"].astype(str)
    found = {}
    for lineage in ("T", "myeloid"):
        table = differential(
            model, mosaic, "rna", groupby="contrast", target=f"{lineage} S", reference=f"{lineage} K", seed=0
        )
        lead = table.sort_values("effect", ascending=False)["feature"].tolist()
        found[f"interferon_worst_place_{lineage}"] = float(max(lead.index(gene) + 1 for gene in INTERFERON))
    return found


def of_composition(name: str, seed: int, options: dict) -> dict[str, float]:
    """A simulated mosaic in which types, sites and modalities do not go together; see `COMPOSITION`.

    ``alone`` is the purity, among cells with RNA, of types that one batch (or one kind of cells) alone has, and
    ``others`` that of the rest; ``_all`` among all cells. ``absent_over_bound``: the ten
    genes that mark such a type, imputed for the ATAC cells of the site that lacks it, over the 95th percentile of what
    is imputed for cells of other types of the site that has it; at most 1 where nothing of the type was carried over.
    """
    from multivi_nf.imputation.impute import impute
    from multivi_nf.latent.embed import embed
    from multivi_nf.simulate import PRESETS, simulated_mosaic

    lacking, only, size = COMPOSITION[name]
    mosaic, truth = simulated_mosaic(replace(PRESETS["default"], seed=seed))
    kind = truth.cells["cell_type"].reindex(mosaic.obs_names).astype(str)
    site, modality = mosaic.obs["batch"].astype(str), mosaic.obs["modality"].astype(str)
    keep = ~truth.cells["doublet"].reindex(mosaic.obs_names).astype(bool)
    for where, types in lacking.items():
        keep &= ~((site == where) & kind.isin(types))
    for which, left in only.items():
        keep &= (kind != which) | (modality == left)
    if size < 1:
        second = np.flatnonzero(keep & (site == "site_2"))
        n = int(size / (1 - size) * (keep & (site == "site_1")).sum())
        dropped = np.setdiff1d(second, np.random.default_rng(seed).choice(second, n, replace=False))
        keep.iloc[dropped] = False
    mosaic = mosaic[keep.to_numpy()].copy()
    kind, site, modality = kind[keep], site[keep].to_numpy(), modality[keep].to_numpy()
    model, cost = trained(mosaic, seed, options)
    z = embed(model, mosaic).mean
    score, kinds = scorer(), kind.to_numpy()
    purity = score.purity(z, kinds)
    special = sorted({t for types in lacking.values() for t in types} | set(only))
    lone = np.isin(kinds, special)
    found = {"alone_all": float(purity[lone].mean()), "others_all": float(purity[~lone].mean())}
    has = mosaic.obs_names.isin(mosaic.mod["rna"].obs_names)
    among = score.purity(z[has], kinds[has])
    found |= {"alone": float(among[lone[has]].mean()), "others": float(among[~lone[has]].mean())}
    found["mix_others"] = float(score.mixing(z[~lone], site[~lone]).mean())
    found |= {f"purity_{t}": float(purity[kinds == t].mean()) for t in special}
    rna = mosaic.mod["rna"]
    rows = mosaic.obs_names.get_indexer(rna.obs_names)
    level = rna.X.multiply(1e3 / np.maximum(np.asarray(rna.X.sum(1)), 1)).tocsr()
    excess = []
    for where, types in lacking.items():
        for which in types:
            of = kinds[rows] == which
            if not of.any() or not ((site == where) & (modality == "atac")).any():
                continue
            ratio = np.log1p(np.asarray(level[of].mean(0)).ravel()) - np.log1p(np.asarray(level[~of].mean(0)).ravel())
            genes = list(rna.var_names[np.argsort(-ratio)[:10]])
            lacks = (site == where) & (modality == "atac")
            others = (site != where) & (modality == "atac") & (kinds != which)
            values = [
                np.asarray(impute(model, mosaic, modality="rna", features=genes, cells=list(mosaic.obs_names[at])).X)
                for at in (lacks, others)
            ]
            excess.append(values[0].mean() / np.quantile(values[1].mean(1), 0.95))
    if excess:
        found["absent_over_bound"] = float(max(excess))
    return found | cost


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
    """The default simulated mosaic, two sites, known truth (`simulated.py`)."""
    from benchmarks.quality.simulated import scores_of as simulated_scores

    started = time.process_time()
    found = simulated_scores(dict(options), seed)
    scores = {short: found[name] for name, short in SIMULATED.items()}
    return scores | {"epochs": found["epochs"], "cpu_s_with_scores": time.process_time() - started}


def of_snare(name: str, seed: int, options: dict) -> dict[str, float]:
    """SNARE cells, 25 % paired: the split of `snare.py`, and RNA imputed to the cells that show ATAC alone."""
    from benchmarks.quality.common import imputed, snare, views_of

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
    from benchmarks.quality.common import read_options

    options = read_options(given.set)
    method = " ".join(["ours", *sorted(given.set)])
    code = code_hash()
    special = {"simulated": of_simulation} | {name: functools.partial(of_snare, name) for name in SNARE_CELLS}
    special |= {name: functools.partial(of_composition, name) for name in COMPOSITION}
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
