"""What was not measured: error bars, cells unlike every pair, transferred labels."""

from __future__ import annotations

import numpy as np

from multivi_nf.report import measures
from multivi_nf.report.facts import Calibration
from multivi_nf.report.gather import Results
from multivi_nf.report.verdict.finding import Finding, Question, graded

OWN = "read intervals of these directions as the model's own opinion"
OUTSIDE = (0.1, 0.3)
"""Share out of support that is fine (5 % by how it is defined), and from which it is not; half of a cluster."""
OFF = (0.03, 0.1)


def calibration(results: Results) -> Finding:
    """Are the error bars checked against held-out cells?"""
    question = Question("Are the error bars calibrated?", f"within {OFF[0]:g} of 95 %")
    found = results.calibration
    if found is None:
        remedy = "run `multivi-nf calibrate MOSAIC MODEL`, or add paired cells so that TRAIN can set some apart"
        return question.answered("unknown", "no calibration was made for this model", remedy)
    if not found.calibrated:
        remedy = "read intervals as the model's own opinion; at least 100 held-out pairs are needed to check them"
        return question.answered("unknown", f"no: {found.n_pairs or 0} held-out pairs are too few", remedy)
    worst = [
        (abs(covered - nominal), direction, covered)
        for direction, entry in found.directions.items()
        for nominal, covered in entry.coverage_after
        if abs(nominal - 0.95) < 1e-6
    ]
    few = sorted(name for name, entry in found.directions.items() if entry.calibrated is False)
    unchecked = f"not calibrated, with fewer than 100 held-out pairs: {', '.join(few)}" if few else ""
    if not worst:  # accessibility has no interval of counts: its probabilities are checked
        return _slopes(question, found, unchecked)
    off, direction, covered = max(worst)
    text = f"95 % intervals cover {covered:.1%} of held-out counts in the worst direction ({direction})"
    text = "; ".join(filter(None, (text, unchecked)))
    level = graded(off, *OFF)
    if level == "good" and few:
        return question.answered("look", text, OWN, covered)
    return question.answered(
        level, text, "see the calibration curve; intervals of this direction are off by that much", covered
    )


def _slopes(question: Question, found: Calibration, unchecked: str) -> Finding:
    slopes = {d: one.slope_after for d, one in found.directions.items() if one.slope_after is not None}
    if not slopes:
        return question.answered("unknown", unchecked or "no coverage is stored", OWN)
    off = {d: abs(float(np.log(max(slope, 1e-3)))) for d, slope in slopes.items()}
    direction = max(off, key=lambda d: off[d])
    text = (
        f"probabilities of open peaks have a slope of {slopes[direction]:.2f} on held-out cells, at worst ({direction})"
    )
    level = graded(off[direction], np.log(1.25), np.log(2))
    level = "look" if unchecked and level == "good" else level
    question = Question(question.words, "0.8 to 1.25")
    return question.answered(level, "; ".join(filter(None, (text, unchecked))), OWN, slopes[direction])


def support(results: Results) -> Finding | None:
    """How many imputed cells look unlike every paired cell?"""
    question = Question("Do imputed cells have paired relatives?", f"{OUTSIDE[0]:.0%} or fewer out of support")
    shares, unknown = {}, []
    for name, outside, p in _assessed(results):
        if p is None or np.isfinite(p).any():
            known = np.ones(len(outside), bool) if p is None else np.isfinite(p)
            shares[name] = float(outside[known].mean())
            if not known.all() and not known.mean() > 0.99:
                unknown.append(f"{(~known).mean():.0%} of {name}")
        else:
            unknown.append(name)
    unchecked = f"not checked for {', '.join(unknown)}: too few pairs were held out of training" if unknown else ""
    more = "add pairs (195 tell cells out of support, 300 calibrate), or take imputed values for an extrapolation"
    if not shares:
        return question.answered("unknown", unchecked, more) if unknown else None
    name, share = max(shares.items(), key=lambda item: item[1])
    text = f"{share:.1%} of the {name} lie outside the paired cells' support"
    lost = _lost_clusters(results)
    gone = f"of {', '.join(lost[:5])} half or more do: no pair is like them" if lost else ""
    text = "; ".join(filter(None, (text, gone, unchecked)))
    level = "poor" if lost else graded(share, *OUTSIDE)
    if level == "good":
        return question.answered("look" if unknown else "good", text, more, share)
    remedy = 'leave cells with obs["out_of_support"] out of claims on imputed values, or add pairs of their type'
    return question.answered(level, text, remedy, share)


def _lost_clusters(results: Results) -> list[str]:
    """Clusters, by what their cells show, of whose judged cells half or more are out of support."""
    cells = results.cells
    if "support_p" not in cells or "out_of_support" not in cells:
        return []
    judged = np.isfinite(cells["support_p"].to_numpy(float))
    return [
        f"cluster {cluster} ({shown})"
        for (cluster, shown), part in cells[judged].groupby(["cluster", "modality"], observed=True)
        if len(part) >= measures.LEAST_CELLS and part["out_of_support"].fillna(False).astype(bool).mean() >= 0.5
    ]


def _assessed(results: Results) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """Cells that were judged: what they are called, out of support, support_p (None where it is not stored)."""
    cells, kinds = results.cells, results.words("modality")
    out: list[tuple[str, np.ndarray, np.ndarray | None]] = []
    lacking = ~np.all([results.has(m) for m in results.features], axis=0)
    for kind in np.unique(kinds[lacking]) if "support_p" in cells else ():
        mine = lacking & (kinds == kind)
        if mine.sum() >= measures.LEAST_CELLS:
            outside = cells.loc[mine, "out_of_support"].fillna(False).to_numpy(bool)
            out.append((f"cells with {kind}", outside, cells.loc[mine, "support_p"].to_numpy(float)))
    if out:
        return out
    for modality, store in results.imputed.items():
        obs = store.obs
        if "out_of_support" not in obs:
            continue
        imputed = obs[~obs["measured"].astype(bool) & obs["out_of_support"].notna()]
        if len(imputed):
            p = imputed["support_p"].to_numpy(float) if "support_p" in imputed else None
            out.append((f"cells imputed for {modality}", imputed["out_of_support"].astype(bool).to_numpy(), p))
    return out


def labels(results: Results) -> Finding | None:
    """Are transferred labels better than the labels' frequencies, and their probabilities true?"""
    record = results.mosaic_notes.labels
    if record is None:
        return None
    question = Question(f"Can the labels of {record.column} be transferred?", "Brier score below half the prior's")
    checked, notes, lost = record.checked, record.notes, record.n_unknown
    missing = sum(lost.values())
    if not missing and not record.n_transferred:
        return None
    if not checked and "one label only" in lost:
        return question.answered("poor", "; ".join(notes), "label cells of two or more types")
    if not checked:
        remedy = "add pairs, or labels of cells that show these modalities"
        return question.answered("unknown", "; ".join(notes), remedy)
    kind = max(checked, key=lambda k: checked[k].brier / max(checked[k].brier_prior, 1e-12))
    worst = checked[kind]
    skill, ece = worst.brier / max(worst.brier_prior, 1e-12), max(c.ece for c in checked.values())
    text = (
        f"{record.n_transferred:,} cells got a label, {missing:,} did not; "
        f"where labels were hidden{f' and only {kind} seen' if kind else ''} the Brier score is {worst.brier:.2f} "
        f"(by frequencies {worst.brier_prior:.2f}), {worst.accuracy:.0%} right, probabilities off by {ece:.1%}"
    )
    level = graded(skill, 0.5, 0.9)
    of_batches = [(b, one) for c in checked.values() for b, one in c.batches.items()]
    wrong = sorted({b for b, one in of_batches if one.brier >= 0.9 * one.brier_prior})
    if wrong and level != "poor":
        level = "poor"
        named = ", ".join(map(repr, wrong[:5]))
        text += f"; the labels of {named} are no better foretold by the others' than by chance"
    if level == "good" and (ece > 0.05 or "not checked" in lost):
        level = "look"
    remedy = f"use labels with a probability near 1 only, and look at markers. {' '.join(notes)}".strip()
    return question.answered(level, text, remedy, float(skill))
