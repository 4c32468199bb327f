"""Run by the peers' Python, which does not have multivi_nf: scvi-tools MULTIVI on a zero-padded mosaic.

python scvi_multivi.py INPUT.npz SETTINGS.json OUTPUT.npz
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi
import torch

warnings.filterwarnings("ignore")


def load(path: str) -> tuple[mudata.MuData, dict[str, np.ndarray]]:
    """The padded mosaic: all cells in both modalities, zeros where not measured."""
    data = np.load(path)
    parts = {}
    for name in ("rna", "atac"):
        counts = sp.csr_matrix(
            (data[f"{name}_data"], data[f"{name}_indices"], data[f"{name}_indptr"]), tuple(data[f"{name}_shape"])
        )
        parts[name] = anndata.AnnData(counts.astype(np.float32), pd.DataFrame(index=data["cells"].astype(str)))
        parts[name].var_names = [f"{name}{j}" for j in range(counts.shape[1])]
    mosaic = mudata.MuData(parts)
    for column in ("batch", "modality"):
        mosaic.obs[column] = pd.Categorical(data[column].astype(str))
    return mosaic, {name: data[name] for name in data.files}


def begun() -> tuple[dict, mudata.MuData, dict[str, np.ndarray], str]:
    """Settings, padded mosaic, all arrays, and where the result goes, from the command line."""
    source, settings, target = sys.argv[1], json.loads(open(sys.argv[2]).read()), sys.argv[3]  # noqa: PTH123
    torch.set_num_threads(settings["threads"])
    scvi.settings.seed = settings["seed"]
    scvi.settings.verbosity = 40
    return settings, *load(source), target


def prepared(mosaic: mudata.MuData, settings: dict, covariates: list[str] | None) -> scvi.model.MULTIVI:
    """A model of a padded mosaic, not trained."""
    scvi.model.MULTIVI.setup_mudata(
        mosaic,
        rna_layer=None,
        atac_layer=None,
        batch_key=settings["batch_key"],
        categorical_covariate_keys=covariates,
        modalities={"rna_layer": "rna", "atac_layer": "atac"},
    )
    return scvi.model.MULTIVI(mosaic, n_genes=mosaic["rna"].n_vars, n_regions=mosaic["atac"].n_vars)


def fit(model: scvi.model.MULTIVI, settings: dict) -> None:
    """Train it on the processor, as the settings say."""
    model.train(
        max_epochs=settings["max_epochs"],
        lr=settings["learning_rate"],
        accelerator="cpu",
        enable_progress_bar=False,
        n_epochs_kl_warmup=min(50, settings["max_epochs"] // 2),
    )


def main() -> None:
    settings, mosaic, raw, target = begun()
    held = np.isin(raw["cells"].astype(str), raw["held"].astype(str)) if "held" in raw else np.zeros(mosaic.n_obs, bool)
    shown = mosaic[~held].copy() if held.any() else mosaic
    if held.any():  # setup_mudata writes this column, and looks for it in the cells that were not there
        mosaic.obs["_indices"] = np.arange(mosaic.n_obs)
    key = settings["batch_key"]
    several = key == "modality" and shown.obs["batch"].nunique() > 1
    model = prepared(shown, settings, ["batch"] if several else None)
    started, began = time.process_time(), time.perf_counter()
    fit(model, settings)
    out = {
        "cpu_seconds": np.array(time.process_time() - started),
        "wall_seconds": np.array(time.perf_counter() - began),
        "epochs": np.array(len(model.history["elbo_train"])),
    }
    mean, variance = model.get_latent_representation(mosaic, return_dist=True)
    out["joint"], out["variance"] = mean, variance
    # one modality's own posterior: the other one's counts are taken away, which is how the model knows presence
    for name, other in (("rna", "atac"), ("atac", "rna")):
        alone = mosaic.copy()
        alone.mod[other].X = sp.csr_matrix(alone.mod[other].shape, dtype=np.float32)
        out[name] = model.get_latent_representation(alone, give_mean=True)
    paired = "rna+atac" if key == "modality" else None
    for name in ("rna", "atac"):
        wanted = raw.get(f"impute_{name}")
        if wanted is None or not len(wanted):
            continue
        index = np.flatnonzero(np.isin(raw["cells"].astype(str), wanted.astype(str)))
        if name == "rna":
            values = model.get_normalized_expression(mosaic, indices=index, transform_batch=paired, n_samples=1)
        else:
            # by default it leaves the region factors out, and what is left is no probability of a measured 0 or 1
            values = model.get_normalized_accessibility(
                mosaic, indices=index, transform_batch=paired, normalize_regions=True
            )
        values = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
        order = {cell: i for i, cell in enumerate(raw["cells"].astype(str)[index])}
        out[f"imputed_{name}"] = values[[order[cell] for cell in wanted.astype(str)]].astype(np.float32)
    np.savez(target, **out)


if __name__ == "__main__":
    main()
