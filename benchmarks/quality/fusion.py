"""Five fusions, with and without cross-reconstruction: a fully paired reference, queries of one modality.

    python -m benchmarks.quality.fusion --seeds 0 --threads 1 --cells 4000

70 % of the cells train the model, all paired. The other 30 % train nothing; each is embedded twice, as its RNA alone
and as its ATAC alone. Held-out log score: log of the mean over posterior draws of p(counts of the cell's hidden
modality | z, its own batch), nats per cell above the mean profile, at the cell's own library (RNA) or number of open
peaks (ATAC); higher is better. Beside it the same for the modality that is shown, the share of views whose nearest
reference cell has their type, and FOSCTTM of the two views.
"""

from __future__ import annotations

from dataclasses import replace

import mudata
import numpy as np
import torch
from benchmarks.quality.common import fit, parser, read_options, show, snare, threads
from scipy.special import gammaln, logsumexp

from multivi_nf.benchmark.baselines import mean_profile
from multivi_nf.benchmark.splits import Split, build_mosaic, stratified_pairs
from multivi_nf.data.draws import blocks, cell_keys, normals
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.evaluation.metrics import fit_dispersion, pairing
from multivi_nf.evaluation.metrics.imputation import at_true_depth
from multivi_nf.latent.cells import Cells, draw
from multivi_nf.latent.embed import embed
from multivi_nf.model.config import CHOICES
from multivi_nf.reduction import nearest
from multivi_nf.simulate import PRESETS, simulated_mosaic
from multivi_nf.training import MultiVI

BOTH = ("rna", "atac")
DRAWS = 10


def simulated(seed: int):
    """Paired cells of a larger simulated mosaic, types known."""
    mosaic, truth = simulated_mosaic(replace(PRESETS["default"], cells=4000, seed=seed))
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names)
    both = both[~truth.cells.loc[both, "doublet"].astype(bool)]
    complete = {m: mosaic[m][both].copy() for m in ("rna", "atac")}
    complete["atac"].X = complete["atac"].layers["counts"]
    return complete, truth.cells.loc[both, "cell_type"]


def split_of(complete, labels, seed: int) -> tuple[Split, mudata.MuData]:
    """Reference and queries, both with both modalities; what a query hides is decided when it is embedded."""
    cells = complete["rna"].obs_names
    kept = stratified_pairs(cells, 0.7, labels, np.random.default_rng([seed, 8]))
    reference = build_mosaic(complete, [(c, c, BOTH) for c in cells[kept]])
    complete = {m: data[:, reference.mosaic[m].var_names] for m, data in complete.items()}
    # built with the reference behind them, so that a feature which no query shows stays
    everything = build_mosaic(complete, [(c, c, BOTH) for c in cells])
    return reference, everything.mosaic[cells[~kept]].copy()


def rna_log_probability(counts: np.ndarray, share: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """(n_cells,) log probability of all counts of a cell: negative binomial at the cell's library."""
    mean = np.maximum(counts.sum(1, keepdims=True) * share, 1e-10)
    constant = gammaln(counts + theta) - gammaln(theta) - gammaln(counts + 1)
    return (constant + counts * np.log(mean / (mean + theta)) - theta * np.log1p(mean / theta)).sum(1)


def atac_log_probability(counts: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """(n_cells,) log probability of all peaks of a cell: Bernoulli at the cell's number of open peaks."""
    p = at_true_depth(probability, (counts > 0).sum(1))
    return np.log(np.where(counts > 0, p, 1 - p)).sum(1)


def baseline(reference: Split, counts: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean log probability of the queries' counts under the reference's mean profile, nats per cell."""
    profile = {m: mean_profile(reference, m)[None, :] for m in BOTH}
    shown = reference.mosaic["rna"].X
    theta = fit_dispersion(shown, np.asarray(shown.sum(1)).reshape(-1, 1) * profile["rna"])
    atac = np.broadcast_to(profile["atac"], counts["atac"].shape)
    found = rna_log_probability(counts["rna"], profile["rna"], theta), atac_log_probability(counts["atac"], atac)
    return {m: float(each.mean()) for m, each in zip(BOTH, found)}


@torch.inference_mode()
def decoded(model: MultiVI, modality: str, z: torch.Tensor, batch: torch.Tensor, counts: np.ndarray) -> np.ndarray:
    """(n_cells,) log p(counts | z) of one draw of each cell."""
    found = model.tile(modality, model.hidden(modality, z, batch), 0, counts.shape[1], batch)
    if modality == "rna":
        share, theta = found["logits"].double().softmax(1), found["log_dispersion"].double().exp()
        return rna_log_probability(counts, share.numpy(), theta.numpy())
    return atac_log_probability(counts, (found["probability"] * found["region"]).numpy())


@torch.inference_mode()
def view(model: MultiVI, data: MosaicData, shown: str, counts: dict[str, np.ndarray]):
    """Positions of the queries by one modality, and the log score of each modality's counts given that posterior."""
    cells = Cells(model, data)
    place, scores = [], {m: [] for m in BOTH}
    for part in blocks(data.n_cells):
        minibatch = data.minibatch(np.arange(part.start, part.stop))
        joint = cells.encoded(minibatch, (shown,)).joint
        noise = normals(cell_keys(data.cells[part], 0, "fusion"), range(DRAWS), model.config.n_latent)
        z = draw(joint, torch.from_numpy(noise))
        place.append(joint.mean.numpy())
        for m in BOTH:
            each = [decoded(model, m, one, minibatch.batch, counts[m][part]) for one in z]
            scores[m].append(logsumexp(each, axis=0) - np.log(DRAWS))
    return np.concatenate(place), {m: float(np.concatenate(s).mean()) for m, s in scores.items()}


def score(model: MultiVI, reference: Split, queries: mudata.MuData, labels, base, counts) -> dict[str, float]:
    data = MosaicData(queries, model)
    views = {m: view(model, data, m, counts) for m in BOTH}
    kinds = labels[queries.obs_names].to_numpy()
    place = embed(model, reference.mosaic).mean
    own = labels[reference.mosaic.obs_names].to_numpy()
    out = {f"{m} from {s}": views[s][1][m] - base[m] for s, m in (("atac", "rna"), ("rna", "atac"))}
    out |= {f"{m} from {m}": views[m][1][m] - base[m] for m in BOTH}
    for m in BOTH:
        found, _ = nearest(views[m][0], place, 1)
        out[f"same type, {m}"] = float((own[found[:, 0]] == kinds).mean())
    return out | {"foscttm": pairing(views["rna"][0], views["atac"][0]).foscttm}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", choices=["simulated", "snare"], nargs="+", default=["simulated", "snare"])
    arguments.add_argument("--fusions", nargs="+", choices=CHOICES["fusion"], default=list(CHOICES["fusion"]))
    arguments.add_argument("--cross", type=float, nargs="+", default=[0.0, 0.5], help="cross-reconstruction")
    options = arguments.parse_args()
    threads(options.threads)
    for data in options.data:
        for seed in options.seeds:
            complete, labels = simulated(seed) if data == "simulated" else snare(options.cells)
            reference, queries = split_of(complete, labels, seed)
            counts = {m: queries[m].X.toarray().astype(np.float64) for m in BOTH}
            base, rows = baseline(reference, counts), {}
            for fusion in options.fusions:
                for cross in options.cross:
                    extra = {"fusion": fusion, "cross_reconstruction": cross}
                    model, seconds = fit(reference, seed, **(extra | read_options(options.set)))
                    found = score(model, reference, queries, labels, base, counts) | {"cpu_seconds": seconds}
                    rows[f"{fusion}, {cross:g}"] = found
                    print(f"{fusion}, {cross:g}:", {name: round(value, 3) for name, value in found.items()}, flush=True)
            n = f"{len(reference.origin)} cells, {queries.n_obs} queries"
            show(f"fusions, {data}, {n}, seed {seed}; mean profile: {base}", rows)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
