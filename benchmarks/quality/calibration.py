"""Whether predicted counts are honest: coverage by randomised PIT, scores against each feature's marginal; peaks.

    python -m benchmarks.quality.calibration [--data snare simulated ...] [--split S2 S3]

Hidden counts of RNA and protein meet the mixture that `impute --predictive` inverts, at the cell's own library, before
and after calibration: coverage at the fitted levels, log score and CRPS of the mixture itself. Peaks meet their imputed
probability at the cell's true number of open peaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from benchmarks.quality.common import keeping, parser, read_options, show, threads
from benchmarks.quality.held_out import CITE, DATA, SOURCE, HeldOut, Scores, distributions, held_out, met

from multivi_nf.benchmark.scoring import hidden_truth
from multivi_nf.calibration.stored import Calibration
from multivi_nf.evaluation import metrics
from multivi_nf.evaluation.metrics.imputation import at_true_depth
from multivi_nf.held_out.calibrate import calibrate
from multivi_nf.held_out.scoring import LEVELS
from multivi_nf.imputation.impute import impute
from multivi_nf.imputation.mixtures import Mixture
from multivi_nf.training import MultiVI

MOST_CELLS = 600
LEAST = 5000
"""Entries of a stratum whose coverage counts."""


def bootstrap(numerator: np.ndarray, denominator: np.ndarray, n: int = 500) -> tuple[float, float, float]:
    """1 - sum / sum over cells, with its 95 % interval over cells."""
    rng = np.random.default_rng(0)
    weight = rng.multinomial(len(numerator), np.full(len(numerator), 1 / len(numerator)), n)
    lower, upper = np.quantile(1 - (weight @ numerator) / (weight @ denominator), [0.025, 0.975])
    return float(1 - numerator.sum() / denominator.sum()), float(lower), float(upper)


def marginal(held: HeldOut, modality: str, cells: pd.Index, counts: np.ndarray) -> Scores:
    """Each feature's negative binomial over the cells that show it, at the same library; protein has no library."""
    shown = held.split.mosaic[modality].X
    library, own = (np.maximum(np.asarray(c.sum(1), float).reshape(-1, 1), 1) for c in (shown, counts))
    if modality == "protein":
        library, own = np.ones_like(library), np.ones_like(own)
    profile = np.asarray(shown.sum(0), float).ravel() / library.sum()
    theta = metrics.fit_dispersion(sp.csr_matrix(shown), library * profile)
    shape = counts.shape
    return met(
        Mixture(
            (own * profile)[None].astype(np.float32),
            np.ones((1, 1, 1), np.float32),
            np.zeros(shape),
            np.broadcast_to(theta, shape).copy(),
        ),
        counts,
    )


def predicted(held: HeldOut, model, modality: str, cells: pd.Index, counts: np.ndarray, calibration) -> Scores:
    """Ours."""
    runs = [
        met(mixture, counts[rows], rows.start)
        for rows, _, mixture in distributions(model, held, modality, cells, calibration)
    ]
    found = Scores(*(np.concatenate([getattr(run, f) for run in runs]) for f in ("pit", "log_score", "crps", "mean")))
    direction = calibration.direction(SOURCE[modality], modality)
    if direction is not None and direction.levels is not None:
        found.pit = direction.levels.applied(found.pit)
    return found


def score_counts(found: Scores, plain: Scores, counts: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    """Coverage overall and the worst of the strata; skill of log score and CRPS over the marginal."""
    row: dict[str, float] = {f"in_{level:g}": metrics.central_coverage(found.pit, level) for level in LEVELS}
    worst, where = 0.0, ""
    order = np.argsort(counts.mean(0), kind="stable")
    strata = {f"decile {d}": found.pit[:, part] for d, part in enumerate(np.array_split(order, 10))}
    strata |= {} if labels is None else {one: found.pit[labels == one] for one in np.unique(labels)}
    for name, pit in strata.items():
        for level in LEVELS if pit.size >= LEAST else ():
            off = metrics.central_coverage(pit, level) - level
            worst, where = (off, f"{name} at {level:g}") if abs(off) > abs(worst) else (worst, where)
    print(f"  worst stratum: {where} off by {worst:+.3f}")
    row["worst_stratum"] = worst
    for name in ("log_score", "crps"):
        sign = -1 if name == "log_score" else 1
        sums = [(sign * getattr(one, name)).sum(1) for one in (found, plain)]
        row[f"{name}_skill"], row[f"{name}_low"], row[f"{name}_high"] = bootstrap(*sums)
    return row


def score_peaks(held: HeldOut, model, calibration) -> dict[str, float]:
    """Reliability, slope, and log-loss skill over mean x depth."""
    hidden = hidden_truth(held.split, held.complete, "atac", "rna")
    some = np.sort(np.random.default_rng(0).permutation(len(hidden.cells))[:MOST_CELLS])
    cells = list(hidden.cells[some])
    found = impute(
        model,
        held.split.mosaic,
        "atac",
        features="all",
        cells=cells,
        n_samples=40,
        interval=0.9,
        calibration=calibration,
    )
    binary = (hidden.counts[some] > 0).toarray()
    p, q = (
        at_true_depth(values, binary.sum(1))
        for values in (np.asarray(found[cells].X), np.broadcast_to(hidden.reference, binary.shape))
    )
    losses = [-np.log(np.where(binary, one, 1 - one)).sum(1) for one in (p, q)]
    skill, low, high = bootstrap(*losses)
    curve = metrics.reliability_curve(p, binary)
    print("  reliability (predicted, observed): " + ", ".join(f"{a:.4f} {b:.4f}" for a, b, _ in curve))
    return {
        "slope": metrics.logistic_calibration(p, binary)[0],
        "ece": metrics.expected_calibration_error(p, binary),
        "log_loss_skill": skill,
        "log_loss_low": low,
        "log_loss_high": high,
    }


@dataclass(frozen=True)
class Run:
    """A trained and calibrated model of one split, and the hidden cells that are scored."""

    name: str
    held: HeldOut
    model: MultiVI
    calibration: Calibration
    modality: str
    cells: pd.Index


def runs(text: str) -> Iterator[Run]:
    """What the command line asks for, one data set, split and seed after the other; `text` is told as help."""
    arguments = parser(text)
    arguments.add_argument("--data", choices=DATA, nargs="+", default=["simulated", "snare"])
    arguments.add_argument("--split", choices=["S2", "S3"], nargs="+", default=["S2"])
    chosen = arguments.parse_args()
    threads(chosen.threads)
    for data, kind, seed in ((d, k, s) for d in chosen.data for k in chosen.split for s in chosen.seeds):
        held = held_out(data, kind, seed, chosen.cells)
        model = keeping(chosen.keep, f"{data}-{kind}-{seed}", held.split, seed, **read_options(chosen.set))
        calibration = calibrate(model, held.split.mosaic)
        modality = "protein" if data in CITE else "rna"
        cells = held.split.views(SOURCE[modality])
        cells = cells[np.sort(np.random.default_rng(0).permutation(len(cells))[:MOST_CELLS])]
        yield Run(f"{data}, {kind}, seed {seed}", held, model, calibration, modality, cells)


def main() -> None:
    for run in runs(__doc__.splitlines()[0]):
        held, model, calibration, modality, cells = run.held, run.model, run.calibration, run.modality, run.cells
        print(calibration.summary())
        origin = held.split.origin[cells]
        counts = held.complete[modality][origin, held.split.mosaic[modality].var_names].X.toarray().astype(float)
        labels = None if held.labels is None else held.labels[origin].to_numpy()
        plain = marginal(held, modality, cells, counts)
        rows, peaks = {"marginal": score_counts(plain, plain, counts, labels)}, {}
        for when, used in (("before", Calibration.none()), ("after", calibration)):
            found = predicted(held, model, modality, cells, counts, used)
            rows[when] = score_counts(found, plain, counts, labels)
            if modality == "rna" and len(held.split.views("rna")):
                peaks[when] = score_peaks(held, model, used)
        show(f"predicted {modality}, {run.name}", rows)
        if peaks:
            show(f"imputed peaks, {run.name}", peaks)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
