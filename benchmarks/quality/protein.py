"""Protein from RNA on the two small CITE-seq sets: Spearman per protein beside ridge regression from RNA PCA.

Also ridge from as few principal components as ours has latent dimensions, and from ours' latent means; totalVI of
scvi-tools (its defaults) where `--peer` names a Python that has it.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
from benchmarks.peers.runs import run_peer
from benchmarks.places import DATA
from benchmarks.quality.common import fit, imputed, parser, read_options, show, threads, views_of
from sklearn.linear_model import RidgeCV

from multivi_nf.benchmark.splits import build_mosaic
from multivi_nf.evaluation.metrics import feature_spearman
from multivi_nf.evaluation.spaces import Pca

SETS = {
    "bmmc_neurips_mini": ("cite_rna.h5ad", "cite_protein.h5ad"),
    "pbmc_citeseq_mosaic_mini": ("rna.h5ad", "protein.h5ad"),
}


def load(name: str) -> dict[str, anndata.AnnData]:
    """Cells measured in both modalities."""
    rna, protein = (anndata.read_h5ad(DATA / name / file) for file in SETS[name])
    both = rna.obs_names.intersection(protein.obs_names)
    complete = {"rna": rna[both].copy(), "protein": protein[both].copy()}
    for part in complete.values():
        column = next((c for c in ("batch", "Batch", "donor", "sample") if c in rna.obs), None)
        part.obs["batch"] = "one" if column is None else rna.obs.loc[both, column].astype(str).to_numpy()
    return complete


def total_vi(python: Path, complete: dict[str, anndata.AnnData], proteins, hidden: np.ndarray, seed: int) -> np.ndarray:
    """(n_hidden, n_proteins) imputed by totalVI."""
    counts = {"rna": complete["rna"].X.toarray(), "protein": complete["protein"][:, proteins].X.toarray()}
    settings = {"seed": seed, "threads": 2}
    batch = complete["rna"].obs["batch"].to_numpy().astype("U")
    return run_peer(python, "scvi_totalvi", counts | {"hidden": hidden, "batch": batch}, settings)["protein"]


def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predictions at `new`."""
    return RidgeCV(np.logspace(-3, 4, 15)).fit(x, y).predict(new)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--peer", type=Path, help="Python of the peers environment (make peers)")
    options = arguments.parse_args()
    threads(options.threads)
    for name in SETS:
        complete = load(name)
        cells = complete["rna"].obs_names
        for seed in options.seeds:
            hidden = np.random.default_rng(seed).random(len(cells)) < 0.3
            shown = [(c, c, ("rna",) if h else ("rna", "protein")) for c, h in zip(cells, hidden)]
            split = build_mosaic(complete, shown)
            test, train = cells[hidden], cells[~hidden]
            proteins = split.mosaic["protein"].var_names
            truth = complete["protein"][test, proteins].X.toarray()
            space = Pca(split.mosaic["rna"].X)
            x, new = (space(split.mosaic["rna"][some].X) for some in (train, test))
            y = np.log1p(complete["protein"][train, proteins].X.toarray())
            model, _ = fit(split, seed, **read_options(options.set))
            z, k = views_of(model, split).by_modality["rna"], model.config.n_latent
            found = {
                "multivi-nf": imputed(model, split, "protein", test),
                "ridge": ridge(x, y, new),
                f"ridge from {k} components": ridge(x[:, :k], y, new[:, :k]),
                "ridge from ours' latent means of RNA": ridge(z.loc[train].to_numpy(), y, z.loc[test].to_numpy()),
            }
            if options.peer:
                found["totalVI"] = total_vi(options.peer, complete, proteins, hidden, seed)
            rows = {n: {"spearman": float(np.nanmean(feature_spearman(v, truth)))} for n, v in found.items()}
            show(f"protein from RNA, {name}, seed {seed}, {len(train)} cells with protein", rows)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
