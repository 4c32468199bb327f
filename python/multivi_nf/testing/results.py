"""A small results folder, made by hand, whose numbers are known."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp

N_CELLS = 60
HOSTILE = "s<script>alert(1)</script>"


def gz(path: Path, text: str) -> None:
    """Write a packed text file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as handle:
        handle.write(text)


def make_results(outdir: Path) -> Path:
    """60 cells: 20 paired, 20 RNA, 20 ATAC; 3 clusters; one dead latent dimension of four."""
    rng = np.random.default_rng(0)
    names = [f"s1:c{k}" for k in range(N_CELLS)]
    cluster = np.repeat(["0", "1", "2"], 20)
    has_rna = np.array([k % 3 != 2 for k in range(N_CELLS)])
    has_atac = np.array([k % 3 != 1 for k in range(N_CELLS)])
    rna = sp.csr_matrix(rng.poisson(3, (has_rna.sum(), 12)).astype(np.int32))
    atac = sp.csr_matrix((rng.random((has_atac.sum(), 30)) < 0.2).astype(np.int32))
    genes = [f"ENSG{k}" for k in range(12)]
    obs = pd.DataFrame(
        {
            "sample": "s1",
            "batch": "b1",
            "has_rna": has_rna,
            "has_atac": has_atac,
            "modality": np.where(has_rna & has_atac, "rna+atac", np.where(has_rna, "rna", "atac")),
            "cluster": cluster,
            "cell_type": np.where(cluster == "0", HOSTILE, "B"),
        },
        index=names,
    )
    mosaic = mudata.MuData(
        {
            "rna": ad.AnnData(
                rna, obs=pd.DataFrame(index=np.array(names)[has_rna]), var=pd.DataFrame({"symbol": genes}, index=genes)
            ),
            "atac": ad.AnnData(
                atac,
                obs=pd.DataFrame(index=np.array(names)[has_atac]),
                var=pd.DataFrame(index=[f"chr1:{k}-{k + 1}" for k in range(30)]),
            ),
        }
    )
    mosaic.obs = obs.loc[mosaic.obs_names]
    latent = rng.normal(size=(N_CELLS, 4))
    latent[:, 3] = 0
    variance = np.full((N_CELLS, 4), 0.2)
    variance[:, 3] = 1.0
    mosaic.obsm["X_multivi"], mosaic.obsm["X_multivi_variance"] = latent, variance
    mosaic.obsm["X_umap"] = rng.normal(size=(N_CELLS, 2))
    outdir.mkdir(parents=True, exist_ok=True)
    mosaic.write(outdir / "multivi.h5mu")
    cells_of_mosaic = list(mosaic.obs_names)

    qc = outdir / "qc" / "s1"
    rules = [{"rule": "counts", "quantity": "rna_n_counts", "threshold": 500, "removed": 7, "median": 2000}]
    gz(
        qc / "rna.tsv.gz",
        "barcode\trna_n_counts\tremoved_by\n"
        + "".join(f"c{k}\t{100 + 50 * k}\t{'counts' if k < 7 else ''}\n" for k in range(47)),
    )
    (qc / "rna.json").write_text(
        json.dumps({"sample": "s1", "modality": "rna", "cells_in": 47, "cells_out": 40, "features": 12, "rules": rules})
    )

    facts = {
        "cells_in": 500,
        "cells_out": 40,
        "rules": [{"rule": "knee", "threshold": 25.0, "removed": 460, "median": 3.0}],
        "knee": {"rank": [1, 2, 500], "n_fragments": [1000, 500, 2]},
        "sizes": [0, 5, 9, 3, 0],
        "tss_profile": [1, 1, 6, 1, 1],
    }
    (qc / "fragments.json").write_text(json.dumps(facts))

    model = outdir / "model"
    model.mkdir()
    history = pd.DataFrame(
        {
            "epoch": range(1, 11),
            "train_loss": np.linspace(9, 5, 10),
            "validation_loss": [9, 8, 7, 6, 5.5, 5.4, 5.6, 5.7, 5.8, 5.9],
            "kl": 1.0,
            "adversary_accuracy": 0.55,
            "adversary_chance": 0.5,
            "seconds": 2.0,
        }
    )
    history.to_csv(model / "history.tsv", sep="\t", index=False)
    (model / "config.json").write_text(
        json.dumps({"model": {"n_latent": 4, "fusion": "mean"}, "training": {"device": "cpu", "seed": 7}})
    )
    coverage = [[0.5, 0.52], [0.8, 0.79], [0.95, 0.9]]
    (model / "calibration.json").write_text(
        json.dumps(
            {
                "calibrated": True,
                "n_pairs": 120,
                "batches": ["b1"],
                "directions": {
                    "atac->rna": {"temperature": 1.3, "coverage_before": [[0.5, 0.3]], "coverage_after": coverage}
                },
            }
        )
    )

    measured = np.array([obs.loc[name, "has_rna"] for name in cells_of_mosaic])
    imputed = ad.AnnData(
        rng.random((N_CELLS, 12)).astype(np.float32),
        obs=pd.DataFrame(
            {"measured": measured, "out_of_support": ~measured & (np.cumsum(~measured) <= 6)}, index=cells_of_mosaic
        ),
        var=pd.DataFrame({"symbol": genes}, index=genes),
    )
    (outdir / "imputed").mkdir()
    imputed.write_zarr(outdir / "imputed" / "rna.zarr")

    table = pd.DataFrame(
        {
            "feature": genes,
            "symbol": genes,
            "mean_target": 2.0,
            "mean_reference": 1.0,
            "effect": np.linspace(2, -2, 12),
            "effect_lower": np.linspace(1, -3, 12),
            "effect_upper": np.linspace(3, -1, 12),
            "delta": 0.25,
            "probability": np.linspace(1, 0.1, 12),
            "fdr": 0.01,
            "significant": [True] * 3 + [False] * 9,
            "confounded": True,
        }
    )
    gz(outdir / "differential" / "B_vs_rest.tsv.gz", table.to_csv(sep="\t", index=False))
    info = outdir / "pipeline_info"
    info.mkdir()
    (info / "params.json").write_text(json.dumps({"seed": 7, "input": "samples.csv", "outdir": None}))
    (info / "software_versions.yml").write_text('"TRAIN":\n    torch: 2.15.0\n    python: 3.11.7\n')
    (info / "train.resources.json").write_text(
        json.dumps({"step": "train", "seconds": 61.5, "cpu_seconds": 100, "peak_memory": 1_500_000_000})
    )
    return outdir
