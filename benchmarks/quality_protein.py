"""Protein from RNA on the two small CITE-seq sets: Spearman per protein beside ridge regression from RNA PCA."""

from __future__ import annotations

import anndata
import numpy as np
from quality_common import DATA, fit, imputed, parser, read_options, show, threads
from sklearn.linear_model import RidgeCV

from multivi_nf.evaluation.metrics import feature_spearman
from multivi_nf.evaluation.spaces import Pca
from multivi_nf.evaluation.splits import build_mosaic

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


def main() -> None:
    options = parser(__doc__).parse_args()
    threads(options.threads)
    for name in SETS:
        complete = load(name)
        cells = complete["rna"].obs_names
        for seed in options.seeds:
            hidden = np.random.default_rng(seed).random(len(cells)) < 0.3
            shown = [(c, c, ("rna",) if h else ("rna", "protein")) for c, h in zip(cells, hidden)]
            split = build_mosaic(complete, shown)
            test = cells[hidden]
            proteins = split.mosaic["protein"].var_names
            truth = complete["protein"][test, proteins].X.toarray()
            space = Pca(split.mosaic["rna"].X)
            x, y = (
                space(split.mosaic["rna"][cells[~hidden]].X),
                np.log1p(complete["protein"][cells[~hidden], proteins].X.toarray()),
            )
            ridge = RidgeCV(np.logspace(-1, 4, 11)).fit(x, y).predict(space(split.mosaic["rna"][test].X))
            model, _ = fit(split, seed, **read_options(options.set))
            ours = imputed(model, split, "protein", test)
            rows = {
                n: {"spearman": float(np.nanmean(feature_spearman(v, truth)))}
                for n, v in (("multivi-nf", ours), ("ridge", ridge))
            }
            show(f"protein from RNA, {name}, seed {seed}", rows)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
