"""False calls where nothing differs, and calls where a tenth of the features was thinned, on real cells.

    python -m benchmarks.quality.null_power [--draws 20] [--power halves libraries]

SNARE-seq cortex, type L2/3, eight libraries (25 % of cells paired, defaults). Null (a): random halves of the type;
(b): four libraries against four; replicates are libraries. Protein: halves of the CD4 T cells of the small PBMC set.
Power: a tenth of genes and peaks is thinned twofold in one side, and the model is trained on that; beside a
negative-binomial test (statsmodels) of the same pseudobulks.
"""

from __future__ import annotations

import contextlib
import io
import warnings

import anndata
import numpy as np
import pandas as pd
import statsmodels.api as sm
from benchmarks.quality.common import keeping, parser, read_options, show, snare, threads
from benchmarks.quality.held_out import held_out
from scipy import stats

from multivi_nf.benchmark.splits import Split, strict_unpairing
from multivi_nf.comparison.compare import differential
from multivi_nf.comparison.pseudobulk import false_discovery_rate, pseudobulks
from multivi_nf.latent.cells import cells_of

TYPE = "L2/3"
SHARE, KEPT = 0.1, 0.5
MOST = 2000
"""Features that the slow pseudobulk test sees."""


def sides(of_type: np.ndarray, batch: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """A or B of each cell of the type, None of others."""
    if how == "halves":
        target = rng.random(len(batch)) < 0.5
    else:
        names = np.unique(batch)
        target = np.isin(batch, rng.permutation(names)[: len(names) // 2])
    return np.where(of_type, np.where(target, "A", "B"), None)


def compared(model, data, modality: str, side: np.ndarray, seed: int) -> pd.DataFrame:
    """Table of A against B; replicates are batches."""
    data.obs["side"] = side
    with contextlib.redirect_stderr(io.StringIO()):
        return differential(model, data, modality, groupby="side", target="A", reference="B", seed=seed)


def uniformity(table: pd.DataFrame) -> tuple[float, float]:
    """Share of the replicates' p-values below 0.05, and their distance from a uniform distribution (Kolmogorov)."""
    p = table["replicate_p"].dropna()
    p = p[p < 1]  # 1 is given to features without a count
    return ((p < 0.05).mean(), stats.kstest(p, "uniform").statistic) if len(p) else (np.nan, np.nan)


def null(model, split: Split, of_type: np.ndarray, modality: str, how: str, draws: int) -> dict[str, float]:
    """Shares called over draws, and whether the replicates' p-values are uniform."""
    data = cells_of(model, split.mosaic)
    batch = split.mosaic.obs["batch"].astype(str).to_numpy()
    called, alone, below, distance = [], [], [], []
    for draw in range(draws):
        table = compared(model, data, modality, sides(of_type, batch, how, np.random.default_rng([draw, 7])), draw)
        called.append(table["significant"].mean())
        alone.append((table["fdr"] <= 0.05).mean())
        for values, value in zip((below, distance), uniformity(table), strict=True):
            values.append(value)
    return {
        "called": np.mean(called),
        "called_most": np.max(called),
        "without_replicates": np.mean(alone),
        "without_replicates_most": np.max(alone),
        "p_below_0.05": np.mean(below),
        "p_below_least": np.min(below),
        "p_below_most": np.max(below),
        "ks_distance": np.mean(distance),
    }


def thinned(
    complete: dict[str, anndata.AnnData], target: pd.Index, seed: int
) -> tuple[dict[str, anndata.AnnData], dict[str, set]]:
    """A tenth of all features at half their counts in the target cells, and which these are."""
    rng = np.random.default_rng([seed, 11])
    out, chosen = {}, {}
    for modality, part in complete.items():
        part = part.copy()
        hit = rng.random(part.n_vars) < SHARE
        entries = part.X.tocoo()
        use = part.obs_names.isin(target)[entries.row] & hit[entries.col]
        entries.data[use] = rng.binomial(entries.data[use].astype(np.int64), KEPT)
        part.X = entries.tocsr()
        part.X.eliminate_zeros()
        out[modality], chosen[modality] = part, set(part.var_names[hit])
    return out, chosen


def pseudobulk_test(
    one: dict, other: dict, columns: np.ndarray, blocked: bool, size: np.ndarray | None = None
) -> np.ndarray:
    """P of the side in a negative-binomial GLM of each feature, offset log library (or `size`), libraries as blocks.

    One dispersion for all features (the median of their moments beyond a Poisson fit): a feature has too few
    pseudobulks for one of its own.
    """
    counts = np.stack([*one.values(), *other.values()])
    offset = np.log(counts.sum(1) if size is None else size)
    side = np.repeat([1.0, 0.0], [len(one), len(other)])
    blocks = (
        pd.get_dummies([*one, *other], drop_first=True, dtype=float).to_numpy() if blocked else np.empty((len(side), 0))
    )
    full = np.column_stack([np.ones(len(side)), side, blocks])
    x, bare = counts[:, columns], np.delete(full, 1, axis=1)
    freedom = len(side) - full.shape[1]
    alphas = []
    for y in x.T[x.sum(0) >= 10 * len(side)]:
        mu = sm.GLM(y, full, family=sm.families.Poisson(), offset=offset).fit().mu
        alphas.append((((y - mu) ** 2).sum() / freedom * len(side) - mu.sum()) / (mu**2).sum())
    family = sm.families.NegativeBinomial(alpha=max(float(np.median(alphas)), 1e-6) if alphas else 1e-6)
    p = np.ones(len(columns))
    for j in np.flatnonzero(x.sum(0) > 0):
        deviances = [sm.GLM(x[:, j], d, family=family, offset=offset).fit().deviance for d in (bare, full)]
        p[j] = stats.chi2.sf(max(deviances[0] - deviances[1], 0), 1)
    return p


def power(split: Split, model, of_type: np.ndarray, side: np.ndarray, chosen: dict[str, set]) -> dict[str, dict]:
    """FDR and recall of ours and of the pseudobulk test at the same level, on the same features."""
    data = cells_of(model, split.mosaic)
    batch = split.mosaic.obs["batch"].astype(str).to_numpy()
    rows = {}
    for modality in ("rna", "atac"):
        table = compared(model, data, modality, side, 0).set_index("feature")
        names = split.mosaic[modality].var_names
        bulks = [pseudobulks(data, np.flatnonzero(side == s), batch, modality) for s in "AB"]
        columns = np.unique(np.linspace(0, len(names) - 1, MOST).astype(int))
        table, blocked = table.loc[names[columns]], set(bulks[0]) == set(bulks[1])
        calls = {
            "ours": table["significant"],
            "ours, without replicates": table["fdr"] <= 0.05,
            "ours, replicates alone": table["replicate_fdr"] <= 0.05,
            "pseudobulk NB": false_discovery_rate(pseudobulk_test(*bulks, columns, blocked)) <= 0.05,
        }
        true = table.index.isin(list(chosen[modality]))
        total = sum(bulks[0].values()) + sum(bulks[1].values())
        rich = total[columns] >= np.median(total)
        for name, called in calls.items():
            called = np.asarray(called, bool)
            rows[f"{modality}, {name}"] = {
                "fdr": (called & ~true).sum() / max(called.sum(), 1),
                "recall": called[true].mean(),
                "recall_upper_half": called[true & rich].mean(),
                "called": called.sum(),
            }
    return rows


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--draws", type=int, default=20)
    arguments.add_argument("--power", nargs="*", choices=["halves", "libraries"], default=["halves", "libraries"])
    chosen = arguments.parse_args()
    threads(chosen.threads)
    options = read_options(chosen.set)
    for seed in chosen.seeds:
        complete, labels = snare(chosen.cells)
        split = strict_unpairing(complete, 0.25, seed=seed, labels=labels)
        of_type = (labels[split.origin] == TYPE).to_numpy()
        rows = {}
        if chosen.draws:
            model = keeping(chosen.keep, f"snare-S2-{seed}", split, seed, **options)
            for modality, how in ((m, h) for m in ("rna", "atac") for h in ("halves", "libraries")):
                rows[f"{modality}, {how}"] = null(model, split, of_type, modality, how, chosen.draws)
            held = held_out("pbmc_citeseq_mosaic_mini", "S2", seed)
            model = keeping(chosen.keep, f"pbmc_citeseq_mosaic_mini-S2-{seed}", held.split, seed, **options)
            kind = (held.labels[held.split.origin] == "CD4 T").to_numpy()
            rows["protein, halves"] = null(model, held.split, kind, "protein", "halves", chosen.draws)
            show(f"null, seed {seed}", rows)
        for how in chosen.power:
            batch = split.mosaic.obs["batch"].astype(str).to_numpy()
            side = sides(of_type, batch, how, np.random.default_rng([seed, 7]))
            changed, which = thinned(complete, pd.Index(split.origin[side == "A"]), seed)
            again = strict_unpairing(changed, 0.25, seed=seed, labels=labels)
            model = keeping(chosen.keep, f"thinned-{how}-{seed}", again, seed, **options)
            show(f"power, {how}, seed {seed}", power(again, model, of_type, side, which))


if __name__ == "__main__":
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")
    main()
