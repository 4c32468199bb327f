"""Run by the peers' Python, which does not have multivi_nf: scvi-tools, MOFA+, WNN or MIDAS on one split.

python run.py METHOD TASK RESULT [VARIANT]

TASK is what `multivi-nf benchmark-split` writes, RESULT a folder that is made: `run.json`, `latent.npz`,
`imputed_<modality>.npz`, `edges.tsv` (see multivi_nf/benchmark/result.py). A method that fails writes why.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp

warnings.filterwarnings("ignore")
ORDER = ("rna", "atac", "protein")
PEAKS = 3000
"""MOFA+ and WNN take the peaks that are open in most cells, as muon's tutorials advise for small sets."""

MIDAS_EPOCHS = 1000
"""Its authors call 1,000 to 2,000 typical."""

MIDAS_FEWEST = 20
"""Peaks of a chromosome, or of a contig, that has a network of its own; those of smaller ones share one."""

MIDAS_NAMES = {"rna": "rna", "atac": "atac", "protein": "adt"}


class Task:
    """The split's mosaic and what is asked."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "task.json").read_text())
        self.experiment, self.seed, self.target = about["experiment"], about["seed"], about["target"]
        self.mosaic = mudata.read_h5mu(folder / "mosaic.h5mu")
        self.cells = pd.read_csv(folder / "cells.tsv", sep="\t", index_col="name", dtype=str, keep_default_na=False)
        self.names = self.cells.index
        self.batch = self.mosaic.obs["batch"].astype(str).reindex(self.names)
        self.held = [m for m in ORDER if m in self.mosaic.mod]
        self.hidden = {m: (folder / "hidden" / f"{m}.txt").read_text().splitlines() for m in about["hidden"]}

    def counts(self, modality: str) -> sp.csr_matrix:
        """Cells by features, of ATAC fragments where there are."""
        part = self.mosaic[modality]
        return sp.csr_matrix(part.layers["counts"] if "counts" in part.layers else part.X).astype(np.float32)

    def padded(self, modality: str) -> anndata.AnnData:
        """All cells, rows of zeros where it was not measured: how scvi-tools takes a mosaic."""
        part = self.mosaic[modality]
        rows = pd.Series(np.arange(part.n_obs), index=part.obs_names).reindex(self.names)
        place = np.flatnonzero(rows.notna())
        taken = (np.ones(place.size), (place, rows.dropna().astype(int)))
        pick = sp.csr_matrix(taken, shape=(len(self.names), part.n_obs))
        full = (pick @ self.counts(modality)).tocsr().astype(np.float32)
        return anndata.AnnData(full, pd.DataFrame(index=self.names), pd.DataFrame(index=part.var_names))


def write(folder: Path, latent: dict[str, pd.DataFrame], imputed: dict[str, pd.DataFrame] | None = None) -> None:
    """The result's arrays."""
    values: dict[str, Any] = {name: frame.to_numpy(np.float32) for name, frame in latent.items()}
    values |= {f"{name}_cells": np.array(list(frame.index), "U") for name, frame in latent.items()}
    np.savez(folder / "latent.npz", **values)
    for modality, frame in (imputed or {}).items():
        cells, features = (np.array(list(names), "U") for names in (frame.index, frame.columns))
        stored = frame.to_numpy(np.float32)
        np.savez_compressed(folder / f"imputed_{modality}.npz", values=stored, cells=cells, features=features)


def scvi_multivi(task: Task, folder: Path, variant: str) -> dict:
    """MULTIVI, modality as batch and the real batches as covariate, as its authors say; at its best or by defaults."""
    import scvi

    scvi.settings.seed, scvi.settings.verbosity = task.seed, 40
    mosaic = mudata.MuData({m: task.padded(m) for m in ("rna", "atac")})
    mosaic.obs["batch"] = pd.Categorical(task.batch.to_numpy())
    mosaic.obs["modality"] = pd.Categorical(task.cells["modalities"].to_numpy())
    several = mosaic.obs["batch"].nunique() > 1
    scvi.model.MULTIVI.setup_mudata(
        mosaic,
        rna_layer=None,
        atac_layer=None,
        batch_key="modality",
        categorical_covariate_keys=["batch"] if several else None,
        modalities={"rna_layer": "rna", "atac_layer": "atac"},
    )
    model = scvi.model.MULTIVI(mosaic, n_genes=mosaic["rna"].n_vars, n_regions=mosaic["atac"].n_vars)
    best = {"max_epochs": int(np.clip(800_000 / mosaic.n_obs, 100, 400)), "lr": 1e-3}
    chosen = {} if variant == "defaults" else best
    one_kind = mosaic.obs["modality"].nunique() < 2
    model.train(**chosen, accelerator="cpu", enable_progress_bar=False, adversarial_mixing=not one_kind)
    mean, variance = model.get_latent_representation(mosaic, return_dist=True)
    latent = {"joint": pd.DataFrame(mean, task.names), "variance": pd.DataFrame(variance, task.names)}
    for name, other in (("rna", "atac"), ("atac", "rna")):
        alone = mosaic.copy()  # one modality's own posterior: without the other's counts
        alone.mod[other].X = sp.csr_matrix(alone.mod[other].shape, dtype=np.float32)
        place = pd.DataFrame(model.get_latent_representation(alone, give_mean=True), task.names)
        latent[name] = place.loc[task.mosaic[name].obs_names]
    imputed = {}
    paired = "rna+atac" if "rna+atac" in set(mosaic.obs["modality"]) else None
    for name, cells in task.hidden.items():
        index = task.names.get_indexer(cells)
        common = {"indices": index, "transform_batch": paired}
        if name == "rna":
            found = model.get_normalized_expression(mosaic, n_samples=1, **common)
        else:  # without region factors it is no probability of a measured 0 or 1
            found = model.get_normalized_accessibility(mosaic, normalize_regions=True, **common)
        order = task.names[np.sort(index)] if len(found.index) != len(cells) else found.index
        values = found.to_numpy() if hasattr(found, "to_numpy") else np.asarray(found)
        imputed[name] = pd.DataFrame(values, index=list(order), columns=task.mosaic[name].var_names).loc[cells]
    write(folder, latent, imputed)
    return {"settings": chosen or "defaults", "epochs": len(model.history["elbo_train"])}


def totalvi(task: Task, folder: Path, _variant: str) -> dict:
    """TOTALVI on RNA and protein, PEAKVI on ATAC, side by side, of cells that have all three."""
    import scvi

    scvi.settings.seed, scvi.settings.verbosity = task.seed, 40
    several = task.batch.nunique() > 1
    cells = anndata.AnnData(task.counts("rna"), pd.DataFrame(index=task.mosaic["rna"].obs_names))
    cells.obs["batch"] = pd.Categorical(task.batch.loc[cells.obs_names].to_numpy())
    protein = pd.DataFrame(task.counts("protein").toarray(), task.mosaic["protein"].obs_names)
    cells.obsm["protein"] = protein.loc[cells.obs_names].to_numpy()
    key = {"batch_key": "batch"} if several else {}
    scvi.model.TOTALVI.setup_anndata(cells, protein_expression_obsm_key="protein", **key)
    first = scvi.model.TOTALVI(cells)
    first.train(accelerator="cpu", enable_progress_bar=False, max_epochs=200)
    peaks = anndata.AnnData(task.counts("atac"), pd.DataFrame(index=task.mosaic["atac"].obs_names))
    peaks.obs["batch"] = pd.Categorical(task.batch.loc[peaks.obs_names].to_numpy())
    scvi.model.PEAKVI.setup_anndata(peaks, **key)
    second = scvi.model.PEAKVI(peaks)
    second.train(accelerator="cpu", enable_progress_bar=False, max_epochs=200)
    views = []
    for model, data in ((first, cells), (second, peaks)):
        place = pd.DataFrame(model.get_latent_representation(), data.obs_names).loc[task.names]
        views.append(place / place.std(0).mean())
    write(folder, {"joint": pd.concat(views, axis=1)})
    return {"settings": "200 epochs each, latent spaces side by side at equal scale"}


def prepared(task: Task) -> dict[str, anndata.AnnData]:
    """Log CP10k of RNA, TF-IDF of the commonest peaks, CLR of each protein, as muon's tutorials prepare them.

    Their formulas (`normalize_total`, `atac.pp.tfidf`, `prot.pp.clr`) are written out: muon takes 20 CPU s to import.
    """
    parts = {}
    for m in task.held:
        x = task.counts(m)
        if m == "atac":
            x.data[:] = 1
            seen = np.asarray(x.sum(0)).ravel()
            x = x[:, np.sort(np.argsort(-seen, kind="stable")[:PEAKS])]
        if m == "protein":
            x = x @ sp.diags(np.exp(-np.asarray(x.log1p().mean(0)).ravel()))
        else:
            x = sp.diags(1e4 / np.maximum(np.asarray(x.sum(1)).ravel(), 1)) @ x
        x = x.log1p()
        if m == "atac":
            x = x @ sp.diags(np.log1p(x.shape[0] / np.maximum(np.asarray((x > 0).sum(0)).ravel(), 1)))
        part = anndata.AnnData(sp.csr_matrix(x, dtype=np.float32), pd.DataFrame(index=task.mosaic[m].obs_names))
        part.var_names = [f"{m}{j}" for j in range(part.n_vars)]
        parts[m] = part
    return parts


def mofa(task: Task, folder: Path, _variant: str) -> dict:
    """Factors of all cells; a view that a cell did not show is missing; batches are groups."""
    from mofapy2.run.entry_point import entry_point

    groups = sorted(task.batch.unique())
    rows = [np.flatnonzero(task.batch.to_numpy() == group) for group in groups]
    parts, views = prepared(task), []
    for part in parts.values():
        dense = part.X.toarray() if sp.issparse(part.X) else part.X
        views.append(pd.DataFrame(dense, index=part.obs_names).reindex(task.names).to_numpy(np.float64))
    program = entry_point()
    program.set_data_options(scale_views=True, use_float32=True)
    program.set_data_matrix(
        [[view[index] for index in rows] for view in views],
        likelihoods=["gaussian"] * len(views),
        views_names=list(parts),
        groups_names=groups,
        samples_names=[list(task.names[index]) for index in rows],
    )
    program.set_model_options(factors=15)
    program.set_train_options(iter=500, convergence_mode="fast", seed=task.seed, quiet=True)
    program.build()
    program.run()
    factors = np.asarray(program.model.nodes["Z"].getExpectation(), np.float64)
    write(folder, {"joint": pd.DataFrame(factors, task.names[np.concatenate(rows)]).loc[task.names]})
    return {"settings": "15 factors, 500 iterations at most, fast convergence, batches as groups"}


def wnn(task: Task, folder: Path, _variant: str) -> dict:
    """Edges of muon's weighted nearest-neighbour graph; all cells have all modalities."""
    import muon
    import scanpy as sc

    parts = prepared(task)
    for m, part in parts.items():
        if m == "atac":
            muon.atac.tl.lsi(part, n_comps=31)
            part.obsm["X_pca"] = part.obsm["X_lsi"][:, 1:]
        else:
            sc.pp.scale(part, max_value=10)
            sc.tl.pca(part, n_comps=min(30, part.n_vars - 1), random_state=task.seed)
        muon.pp.l2norm(part, rep="X_pca")
        sc.pp.neighbors(part, n_neighbors=15, use_rep="X_pca", random_state=task.seed)
    joined = mudata.MuData(parts)
    many = min(200, joined.n_obs - 2)  # with fewer cells muon's default runs out of bounds
    muon.pp.neighbors(joined, n_neighbors=15, n_multineighbors=many, key_added="wnn", random_state=task.seed)
    graph = sp.triu(joined.obsp["wnn_connectivities"].maximum(joined.obsp["wnn_connectivities"].T)).tocoo()
    cells = np.asarray(joined.obs_names)
    table = pd.DataFrame({"cell": cells[graph.row], "other": cells[graph.col], "weight": graph.data})
    table.to_csv(folder / "edges.tsv", sep="\t", index=False)
    return {"settings": "muon, 15 neighbours, PCA 30 and LSI 2 to 31, l2-normed"}


def midas_data(task: Task) -> tuple[mudata.MuData, dict[str, list[int]]]:
    """What MIDAS takes, and peaks by chromosome: cells of a batch that show the same modalities are a batch."""
    batch = task.batch + " " + task.cells["modalities"]
    parts, chunks = {}, {}
    for m in task.held:
        x, names, cells = task.counts(m), task.mosaic[m].var_names, task.mosaic[m].obs_names
        if m == "atac":
            chromosome = names.to_series().str.extract(r"^(.+)[:_-]\d+[_-]\d+$", expand=False).fillna("other")
            seldom = chromosome.map(chromosome.value_counts()) < MIDAS_FEWEST
            chromosome = chromosome.mask(seldom, "other").to_numpy(str)
            order = np.argsort(chromosome, kind="stable")
            x, names = x[:, order], names[order]
            chunks[m] = np.unique(chromosome, return_counts=True)[1].tolist()
        obs = pd.DataFrame({"batch": batch.loc[cells].to_numpy()}, index=cells)
        parts[MIDAS_NAMES[m]] = anndata.AnnData(x, obs, pd.DataFrame(index=names))
    return mudata.MuData(parts), chunks


def midas(task: Task, folder: Path, _variant: str) -> dict:
    """MIDAS with its authors' settings, the biological part of its latent space."""
    import scmidas  # first: it is what is not there
    from lightning import seed_everything

    seed_everything(task.seed, verbose=False)
    data, chunks = midas_data(task)
    scmidas.MIDAS.setup_mudata(data, batch_key="batch", dims_x=chunks)
    settings = scmidas.load_config() | {"num_workers": 0, "pin_memory": False, "persistent_workers": False}
    # its epoch draws 10,000 cells of each batch, however many there are: an epoch is to be one look at the largest
    settings["n_max"] = min(
        settings["n_max"], max(part.obs["batch"].value_counts().max() for part in data.mod.values())
    )
    if len(chunks.get("atac", ())) == 1:  # refused with networks of chromosomes
        settings = {key: value for key, value in settings.items() if not key.startswith("dims_") or "atac" not in key}
    with tempfile.TemporaryDirectory() as place:
        model = scmidas.MIDAS(data, configs=settings, save_model_path=place)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        model.train(max_epochs=MIDAS_EPOCHS, accelerator="auto", devices=1, **quiet)
    found = model.predict(mod_latent=True, impute=True, verbose=False)
    latent: dict[str, list] = {name: [] for name in ("joint", *task.held)}
    imputed: dict[str, list] = {m: [] for m in task.hidden}
    for batch, shown in zip(model.batch_names, model.combs):  # cells in the order of the first modality shown
        first = data[shown[0]]
        cells = first.obs_names[first.obs["batch"] == batch]
        for name in ("joint", *(m for m in task.held if MIDAS_NAMES[m] in shown)):
            latent[name].append(pd.DataFrame(found[batch]["z_c"][MIDAS_NAMES.get(name, name)], cells))
        for m in task.hidden:
            columns = data[MIDAS_NAMES[m]].var_names
            imputed[m].append(pd.DataFrame(found[batch]["x_impt"][MIDAS_NAMES[m]], cells, columns))
    order = {m: task.mosaic[m].obs_names for m in task.held} | {"joint": task.names}
    write(
        folder,
        {name: pd.concat(views).loc[order[name]] for name, views in latent.items()},
        {m: pd.concat(imputed[m]).loc[cells, task.mosaic[m].var_names] for m, cells in task.hidden.items()},
    )
    return {"settings": f"{MIDAS_EPOCHS} epochs of the largest batch, a batch a pattern, peaks by chromosome"}


METHODS = {"scvi-multivi": scvi_multivi, "totalvi": totalvi, "mofa": mofa, "wnn": wnn, "midas": midas}
PACKAGES = {"scvi-multivi": "scvi-tools", "totalvi": "scvi-tools", "mofa": "mofapy2", "wnn": "muon", "midas": "scmidas"}


def version(package: str) -> str:
    """Name and version; the name alone where it is not installed, which a row of the table then says."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def main() -> None:
    """Run one method on one split."""
    method, source, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    variant = sys.argv[4] if len(sys.argv) > 4 else ""
    folder.mkdir(parents=True)
    try:
        about = METHODS[method](Task(source), folder, variant)
    except Exception as error:
        traceback.print_exc()
        about = {"failed": f"{type(error).__name__}: {error}"}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    about |= {
        "method": method + (f": {variant}" if variant else ""),
        "version": version(PACKAGES[method]),
        "cpu_seconds": sum(u.ru_utime + u.ru_stime for u in used),
        "peak_memory": max(u.ru_maxrss for u in used) * 1024,
    }
    (folder / "run.json").write_text(json.dumps(about, indent=1, sort_keys=True, default=str) + "\n")


if __name__ == "__main__":
    main()
