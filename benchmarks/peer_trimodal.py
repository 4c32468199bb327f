"""Run by the peers' Python, which does not have multivi_nf: MOFA+ (mofapy2) or WNN (muon) on three modalities.

python peer_trimodal.py INPUT.npz SETTINGS.json OUTPUT.npz

As muon's tutorials prepare them: log CP10k of RNA, TF-IDF of the peaks that are open in most cells, CLR of protein. WNN
takes PCA of RNA and protein and LSI of ATAC without its first component; MOFA+ the features, with sites as its groups.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import anndata
import mudata
import muon
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from mofapy2.run.entry_point import entry_point

warnings.filterwarnings("ignore")
MODALITIES = ("rna", "atac", "protein")


def prepared(data: dict[str, np.ndarray], n_peaks: int) -> dict[str, anndata.AnnData]:
    """Each modality's measured cells, transformed."""
    parts = {}
    for m in (m for m in MODALITIES if f"{m}_data" in data):
        pieces = tuple(data[f"{m}_{name}"] for name in ("data", "indices", "indptr"))
        counts = sp.csr_matrix(pieces, tuple(data[f"{m}_shape"]))
        part = anndata.AnnData(counts.astype(np.float32), pd.DataFrame(index=data[f"{m}_cells"].astype(str)))
        part.var_names = [f"{m}{j}" for j in range(part.n_vars)]
        if m == "rna":
            sc.pp.normalize_total(part, target_sum=1e4)
            sc.pp.log1p(part)
        elif m == "atac":
            seen = np.asarray((part.X > 0).sum(0)).ravel()
            part = part[:, np.sort(np.argsort(-seen, kind="stable")[:n_peaks])].copy()
            muon.atac.pp.tfidf(part, scale_factor=1e4)
        else:
            muon.prot.pp.clr(part)
        parts[m] = part
    return parts


def wnn(parts: dict[str, anndata.AnnData], settings: dict) -> dict[str, np.ndarray]:
    """Edges of the weighted nearest-neighbour graph; all cells have all modalities."""
    for m, part in parts.items():
        if m == "atac":
            muon.atac.tl.lsi(part, n_comps=31)
            part.obsm["X_pca"] = part.obsm["X_lsi"][:, 1:]
        else:
            sc.pp.scale(part, max_value=10)
            sc.tl.pca(part, n_comps=min(30, part.n_vars - 1), random_state=settings["seed"])
        muon.pp.l2norm(part, rep="X_pca")  # as Seurat does, and muon advises
        sc.pp.neighbors(part, n_neighbors=15, use_rep="X_pca", random_state=settings["seed"])
    joined = mudata.MuData(parts)
    many = min(200, joined.n_obs - 2)  # muon's default of 200 runs out of memory bounds with fewer cells
    muon.pp.neighbors(joined, n_neighbors=15, n_multineighbors=many, key_added="wnn", random_state=settings["seed"])
    graph = sp.triu(joined.obsp["wnn_connectivities"].maximum(joined.obsp["wnn_connectivities"].T)).tocoo()
    cells = joined.obs_names.to_numpy().astype("U")
    return {"cells": cells, "edges": np.stack([graph.row, graph.col], 1), "weights": graph.data}


def mofa(parts: dict[str, anndata.AnnData], batch: pd.Series, settings: dict) -> dict[str, np.ndarray]:
    """Factors of all cells; what a cell did not show is missing."""
    cells, groups = batch.index, sorted(batch.unique())
    views = []
    for part in parts.values():
        values = part.X.toarray() if sp.issparse(part.X) else part.X
        views.append(pd.DataFrame(values, index=part.obs_names).reindex(cells).to_numpy(np.float64))
    rows = [np.flatnonzero(batch == group) for group in groups]
    program = entry_point()
    program.set_data_options(scale_views=True, use_float32=True)
    program.set_data_matrix(
        [[view[index] for index in rows] for view in views],
        likelihoods=["gaussian"] * len(views),
        views_names=list(parts),
        groups_names=groups,
        samples_names=[list(cells[index]) for index in rows],
    )
    program.set_model_options(factors=settings["factors"])
    program.set_train_options(iter=settings["iterations"], convergence_mode="fast", seed=settings["seed"], quiet=True)
    program.build()
    program.run()
    factors = np.asarray(program.model.nodes["Z"].getExpectation(), np.float64)
    return {"cells": cells[np.concatenate(rows)].to_numpy().astype("U"), "factors": factors}


def main() -> None:
    data, settings = dict(np.load(sys.argv[1])), json.loads(open(sys.argv[2]).read())  # noqa: PTH123
    started = time.process_time()
    parts = prepared(data, settings["peaks"])
    if settings["method"] == "wnn":
        out = wnn(parts, settings)
    else:
        batch = pd.Series(data["batch"].astype(str), index=data["cells"].astype(str))
        out = mofa(parts, batch, settings)
    np.savez(sys.argv[3], **out, cpu_seconds=np.array(time.process_time() - started))


if __name__ == "__main__":
    main()
