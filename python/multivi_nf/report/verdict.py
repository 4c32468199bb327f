"""The first thing on the page: may these results be trusted, and what to do where they may not.

Each line is measured on the run's cells and files, never read off what the training thought of itself: how batches and
modalities mix by nearest neighbours, how near the two views of a pair lie, what intervals covered, what hidden labels
became. `good`: nothing to do. `look`: usable, with the remedy in mind. `poor`: do not build on it. `unknown`: it could
not be measured, which is no praise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from multivi_nf.report import measures
from multivi_nf.report.gather import Results, read_counts, read_imputed_obs

ENOUGH_PAIRS = 1000
"""Paired cells from which integration was seen to work well (SCMMIB); below, alignment rests on few cells."""
MINIMUM_PAIRS = 100
EXPECTED_PAIRS = f"{ENOUGH_PAIRS:,} or more"
ACTIVE_KL = 0.05
"""Mean KL (nats) to the prior above which a latent dimension carries information."""
MIXED, APART = 0.5, 0.25
"""Share of the expected mixing from which batches and modalities are mixed, and below which they are apart."""
CLOSE, FAR = 0.3, 0.4
"""FOSCTTM of pairs up to which views agree, and beyond which they are near chance (0.5)."""
FEW_EPOCHS = 10
DEPTH_DRIVEN, DEPTH_SEEN = 0.35, 0.15
DEPTH_ITSELF, DEPTH_AXIS = 0.95, 0.25
"""A leading dimension that correlates so with depth is depth: then a smaller share of the embedding is too much."""
GAINED = (0.04, 0.1)
"""Share of all that training gained which its second half may gain at the cap: settled, and not settled."""
LEVEL = 0.001
"""Fall of the loss, relative to its size, below which it is level whatever was gained before."""
STRUCTURE = (0.4, 0.15)
"""Reliability of the best axis from which counts tell cells apart, and below which they hardly do. Whole real samples
reach 0.75 to 0.95, cells of one type 0.8; empty droplets and antibodies that bind nothing 0 to 0.1."""
SAME_FEATURES = (0.5, 0.25)
"""Correlation of mean profiles from which batches' features agree (two laboratories 0.63 to 0.94), and below which not
(names permuted 0)."""
OUTSIDE = (0.1, 0.3)
"""Share out of support that is fine (5 % by how it is defined), and from which it is not; half of a cluster."""
SAMPLE_PAIRS = 50
"""Pairs from which a sample is judged by itself: FOSCTTM is then known to 0.04."""
MOST_SAMPLES = 24
"""Samples looked at by themselves, the largest."""
DOUBLETS = (0.15, 0.25)
AMBIENT = (0.2, 0.35)
OFF = (0.03, 0.1)

Level = Literal["good", "look", "poor", "unknown"]


@dataclass
class Finding:
    """One line of the verdict.

    Attributes
    ----------
    question, level, answer, remedy
        What was asked, how it stands, in words, and what to do.
    value, expected
        The number behind the level, and what is good.
    """

    question: str
    level: Level
    answer: str
    remedy: str = ""
    value: float = float("nan")
    expected: str = ""


def kl_per_dimension(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Mean KL(N(mean, variance) || N(0, 1)) over cells, (n_latent,) in nats.

    Closed form for two Gaussians, e.g. Kingma & Welling 2014, appendix B.
    """
    variance = np.maximum(variance, 1e-12)
    return 0.5 * (variance + mean**2 - 1 - np.log(variance)).mean(axis=0)


def verdict(results: Results) -> list[Finding]:
    """All findings, in the order in which a reader should care."""
    findings = [
        pairs(results),
        counts(results),
        features(results),
        batches(results),
        *modalities(results),
        latent(results),
        depth(results),
        training(results),
        calibration(results),
        support(results),
        labels(results),
        doublets(results),
        ambient(results),
        contrasts(results),
    ]
    return [finding for finding in findings if finding is not None]


def verdict_table(findings: list[Finding]) -> pd.DataFrame:
    """`verdict.tsv`: one row a question."""
    columns = ("question", "level", "value", "expected", "answer", "remedy")
    rows = [[" ".join(str(v).split()) if isinstance(v := getattr(f, c), str) else v for c in columns] for f in findings]
    return pd.DataFrame(rows, columns=list(columns))


def graded(value: float, good: float, poor: float) -> Level:
    """Level of a value between a good and a poor bound, whichever is the larger."""
    if not np.isfinite(value):
        return "unknown"
    if (value >= good) if good > poor else (value <= good):
        return "good"
    return "poor" if ((value < poor) if good > poor else (value > poor)) else "look"


def pairs(results: Results) -> Finding | None:
    """Are there enough cells with more than one modality?"""
    if len(results.features) < 2:
        return None
    measured = results.cells[[f"has_{m}" for m in results.features]].astype(bool).sum(axis=1)
    n = int((measured > 1).sum())
    question = "Enough paired cells?"
    if n >= ENOUGH_PAIRS:
        return Finding(question, "good", f"{n:,} cells have more than one modality", "", n, EXPECTED_PAIRS)
    if n >= MINIMUM_PAIRS:
        remedy = "treat imputed values of rare types with care; more paired cells help more than any setting"
        return Finding(
            question,
            "look",
            f"only {n:,} cells have more than one modality (comfortable from {ENOUGH_PAIRS:,})",
            remedy,
            n,
            EXPECTED_PAIRS,
        )
    remedy = (
        "do not rely on imputation or on cross-modality neighbours; add a multiome or CITE-seq sample of this tissue"
    )
    return Finding(
        question,
        "poor",
        f"{n:,} cells have more than one modality: the modalities are held together by the prior alone",
        remedy,
        n,
        EXPECTED_PAIRS,
    )


def counts(results: Results) -> Finding | None:
    """Do the counts of each modality and sample tell cells apart, or is what they show depth and noise?"""
    found = []
    for modality in results.features:
        along = None
        for where, cells in _by_sample(results, modality):
            matrix = read_counts(results.outdir / "multivi.h5mu", modality, results.cells.index[cells])
            value, axes = measures.told_apart(measures.halved(matrix, cells), along)
            found.append((value, where, float(np.median(np.asarray(matrix.sum(axis=1))))))
            along = axes if along is None else along  # of all cells, which stand first
    found = [one for one in found if np.isfinite(one[0])]
    if not found:
        return None
    value, where, median = min(found)
    text = (
        f"what separates cells in one half of their counts is there in the other with a reliability of {value:.2f} in "
        f"{where}, the least of any (median {median:,.0f} counts a cell)"
    )
    level = graded(value, *STRUCTURE)
    remedy = (
        "" if level == "good" else "its cells are told apart by little more than noise: look at its depth, whether its "
        "barcodes are cells, and leave it out if they are not"
    )  # fmt: skip
    return Finding("Do counts tell cells apart?", level, text, remedy, value, f"{STRUCTURE[0]:g} or more")


def _by_sample(results: Results, modality: str) -> list[tuple[str, np.ndarray]]:
    """Positions of the cells of a modality: of all, and of each of the largest samples; of each at most some."""
    has = results.cells[f"has_{modality}"].astype(bool).to_numpy()
    sample = results.cells["sample"].astype(str).to_numpy() if "sample" in results.cells else np.full(len(has), "")
    names, sizes = np.unique(sample[has], return_counts=True)
    largest = [str(name) for name in names[np.argsort(-sizes, kind="stable")][:MOST_SAMPLES]]
    parts = [(f"{modality}", np.flatnonzero(has))] if len(names) != 1 else []
    parts += [(f"{modality} of {name!r}", np.flatnonzero(has & (sample == name))) for name in largest]
    most = [measures.MOST_CELLS] + [measures.SPLIT_CELLS] * len(parts)
    return [(name, cells[measures.drawn(len(cells), n)]) for (name, cells), n in zip(parts, most)]


def features(results: Results) -> Finding | None:
    """Are the features of a batch those of the others, or were names swapped?"""
    if "batch" not in results.cells or results.cells["batch"].nunique() < 2:
        return None
    worst = None
    for modality in results.features:
        has = np.flatnonzero(results.cells[f"has_{modality}"].astype(bool).to_numpy())
        rows = has[measures.drawn(len(has), measures.MOST_CELLS)]
        batch = results.cells["batch"].astype(str).to_numpy()[rows]
        if len(np.unique(batch)) < 2:
            continue
        matrix = read_counts(results.outdir / "multivi.h5mu", modality, results.cells.index[rows])
        for name, value in measures.agreement_of_features(matrix, batch).items():
            if worst is None or value < worst[0]:
                worst = value, modality, name
    if worst is None:
        return None
    value, modality, name = worst
    text = (
        f"mean {modality} of {name!r} follows that of the other batches, feature by feature, with a rank correlation "
        f"of {value:.2f}, the least of any"
    )
    level = graded(value, *SAME_FEATURES)
    remedy = (
        "" if level == "good" else "check that names and columns of its matrix belong together, and that it is the "
        "same species and assembly"
    )  # fmt: skip
    return Finding("Do the batches' features agree?", level, text, remedy, value, f"{SAME_FEATURES[0]:g} or more")


def batches(results: Results) -> Finding | None:
    """Are the batches mixed, where they hold the same kinds of cells?"""
    cells = results.cells
    if "batch" not in cells or cells["batch"].nunique() < 2:
        return None
    question, expected = "Are the batches mixed?", f"{MIXED:g} or more of full mixing"
    rows = measures.drawn(len(cells), measures.MOST_CELLS)
    group = cells["batch"].astype(str).to_numpy()[rows]
    cluster = cells["cluster"].astype(str).to_numpy()[rows]
    found = measures.mixing(results.latent[rows], group, cluster)
    if found is None:
        return Finding(
            question, "unknown", f"fewer than two batches have {measures.LEAST_CELLS} cells", "", np.nan, expected
        )
    within = f", {found.within:.2f} within clusters of several batches" if np.isfinite(found.within) else ""
    text = (
        f"neighbours are of other batches {found.ratio:.2f} times as often as in a full mixture{within}; "
        f"{found.apart!r} stands most apart ({found.by_group[found.apart]:.2f})"
    )
    lowest = found.by_group[found.apart]
    if lowest >= MIXED:
        return Finding(question, "good", text, "", lowest, expected)
    share = kinds_elsewhere(results, rows, group)
    if share is None:
        remedy = (
            "compare markers of the clusters that hold one batch: cells of one type in two clusters are a batch effect"
        )
        said = f"{text}; whether the batches hold the same types cannot be told, since they share no modality"
        return Finding(question, "unknown", said, remedy, lowest, expected)
    fair = measures.mixing(results.latent[rows], group, cluster, share)
    absent = ", ".join(_absent(cluster, group, share))
    if fair is None or not np.isfinite(fair.ratio):
        said = f"{text}; the batches share no kind of cells by their own counts, so this may be biology"
        return Finding(question, "look", said, "check the batches' markers before you join them", lowest, expected)
    lowest = fair.by_group[fair.apart]
    level = graded(lowest, MIXED, APART)
    text += (
        f". Of the kinds that other batches hold too, by their own counts and without the model, {fair.apart!r} mixes "
        f"{lowest:.2f} times as often as it could"
    )
    text += f"; what sets {absent} apart may be biology" if absent else ""
    remedy = (
        ""
        if level == "good"
        else "raise --batch_integration, and do not read differences between these batches' clusters"
    )
    return Finding(question, level, text, remedy, lowest, expected)


def kinds_elsewhere(results: Results, rows: np.ndarray, batch: np.ndarray) -> np.ndarray | None:
    """(n_rows,) share of other batches among a cell's kind, by the modality that most cells of all batches share.

    NaN for cells without it; None where batches share none.
    """
    best = None
    for modality in results.features:
        has = results.cells[f"has_{modality}"].astype(bool).to_numpy()[rows]
        names, sizes = np.unique(batch[has], return_counts=True)
        if (sizes >= measures.LEAST_CELLS).sum() >= 2 and (best is None or has.sum() > best[1].sum()):
            best = modality, has
    if best is None:
        return None
    modality, has = best
    counts = read_counts(results.outdir / "multivi.h5mu", modality, results.cells.index[rows[has]])
    share = np.full(len(rows), np.nan)
    share[has] = measures.counterparts(measures.centred(counts, batch[has], modality == "atac"), batch[has])
    # a batch without the modality is judged by its size
    for name in np.unique(batch[np.isnan(share)]):
        mine = (batch == name) & np.isnan(share)
        known = (batch == name) & ~np.isnan(share)
        share[mine] = share[known].mean() if known.sum() >= measures.LEAST_CELLS else np.mean(batch != name)
    return share


def _absent(cluster: np.ndarray, group: np.ndarray, share: np.ndarray) -> list[str]:
    """Clusters nearly all of one batch whose kind the other batches lack."""
    out = []
    for name in sorted(np.unique(cluster), key=lambda value: (len(value), value)):
        mine = cluster == name
        _, sizes = np.unique(group[mine], return_counts=True)
        if mine.sum() >= measures.LEAST_CELLS and sizes.max() > 0.9 * mine.sum() and share[mine].mean() < 0.1:
            out.append(f"cluster {name}")
    return out


def modalities(results: Results) -> list[Finding | None]:
    """Do the views of a pair agree, and do unpaired cells of different modalities lie among each other?"""
    return [views(results), unpaired(results)]


def views(results: Results) -> Finding | None:
    """FOSCTTM of the two views of paired cells, those kept from training where there are enough, sample by sample.

    Partners are looked for among cells of the same sample: what tells samples apart would tell pairs apart too.
    """
    names = [m for m in results.features if m in results.views]
    question, expected = "Do the two views of a pair agree?", f"{CLOSE:g} or less (chance 0.5)"
    found = [
        (value, n, of, sample, f"{one} and {other}")
        for i, one in enumerate(names)
        for other in names[i + 1 :]
        for value, n, of, sample in _foscttm(results, one, other)
    ]
    if not found:
        return None
    value, n, of, sample, which = max(found)
    within = f" of {sample!r}, the worst of any" if sample and len(found) > 1 else ""
    text = (
        f"{which} views: {value:.1%} of the cells of a sample lie closer than the true partner, on {n:,} {of}{within} "
        "(chance 50 %)"
    )
    level = graded(value, CLOSE, FAR)
    remedy = (
        "" if level == "good" else "check that barcodes of the modalities belong together (barcode_map), then raise "
        "--alignment_weight"
    )  # fmt: skip
    return Finding(question, level, text, remedy, value, expected)


def _foscttm(results: Results, one: str, other: str) -> list[tuple[float, int, str, str]]:
    """FOSCTTM, pairs, which pairs, sample; of each sample with enough pairs, else of all together."""
    held = [] if results.split is None else results.split.loc[results.split["split"] != "train", "cell"].astype(str)
    both = np.isfinite(results.views[one]).all(axis=1) & np.isfinite(results.views[other]).all(axis=1)
    apart = both & results.cells.index.isin(held)
    sample = results.cells["sample"].astype(str).to_numpy() if "sample" in results.cells else np.full(len(both), "")
    parts = [(name, both & (sample == name)) for name in np.unique(sample[both])]
    parts = [(str(name), mine) for name, mine in parts if mine.sum() >= SAMPLE_PAIRS] or [("", both)]
    found = []
    for name, mine in parts:
        kept = mine & apart if (mine & apart).sum() >= (SAMPLE_PAIRS if name else measures.LEAST_CELLS) else mine
        cells = np.flatnonzero(kept)
        if len(cells) < measures.LEAST_CELLS:
            continue
        cells = cells[measures.drawn(len(cells), measures.MOST_PAIRS)]
        value = measures.foscttm(results.views[one][cells], results.views[other][cells])
        found.append((value, len(cells), "pairs kept from training" if not (kept & ~apart).any() else "pairs", name))
    return found


def unpaired(results: Results) -> Finding | None:
    """k-NN mixing of cells that were measured in different modalities."""
    cells = results.cells
    if "modality" not in cells or cells["modality"].nunique() < 2:
        return None
    rows = measures.drawn(len(cells), measures.MOST_CELLS)
    cluster = cells["cluster"].astype(str).to_numpy()[rows]
    found = measures.mixing(results.latent[rows], cells["modality"].astype(str).to_numpy()[rows], cluster)
    if found is None:
        return None
    lowest = found.by_group[found.apart]
    within = f", {found.within:.2f} within clusters of several" if np.isfinite(found.within) else ""
    text = (
        f"neighbours show other modalities {found.ratio:.2f} times as often as in a full mixture{within}; cells with "
        f"{found.apart} stand most apart ({lowest:.2f})"
    )
    level = graded(lowest, MIXED, APART)
    remedy = (
        "" if level == "good" else "colour the UMAP by modality: where a type lies in two places, raise "
        "--alignment_weight, and do not carry labels or values across"
    )  # fmt: skip
    return Finding(
        "Are cells of different modalities mixed?", level, text, remedy, lowest, f"{MIXED:g} or more of full mixing"
    )


def latent(results: Results) -> Finding:
    """How many latent dimensions carry information?"""
    active = int((kl_per_dimension(results.latent, results.latent_variance) > ACTIVE_KL).sum())
    total = results.latent.shape[1]
    text = f"{active} of {total} latent dimensions carry information (mean KL > {ACTIVE_KL} nats)"
    if active >= min(5, total):
        return Finding("Is the latent space used?", "good", text, "", active, f"{min(5, total)} or more")
    remedy = "train longer (--max_epochs), lower --alignment_weight, or check that cells and features passed QC"
    level: Level = "poor" if active < 2 else "look"
    return Finding("Is the latent space used?", level, text, remedy, active, f"{min(5, total)} or more")


def depth(results: Results) -> Finding | None:
    """Does sequencing depth drive the embedding?"""
    worst = None
    for modality in results.features:
        column = next((c for c in (f"{modality}_n_counts", f"{modality}_n_fragments") if c in results.cells), None)
        if column is None:
            continue
        values = pd.to_numeric(results.cells[column], errors="coerce").to_numpy(float)
        rows = np.flatnonzero(np.isfinite(values) & results.cells[f"has_{modality}"].astype(bool).to_numpy())
        if len(rows) < measures.LEAST_CELLS:
            continue
        rows = rows[measures.drawn(len(rows), measures.MOST_CELLS)]
        share, r = measures.depth_share(results.latent[rows], values[rows])
        text = (
            f"{share:.0%} of the embedding's variance follows the depth of {modality} (leading dimensions correlate up "
            f"to {r:.2f})"
        )
        if worst is None or share > worst[0]:
            worst = share, text, r
    if worst is None:
        return None
    level = graded(worst[0], DEPTH_SEEN, DEPTH_AXIS if worst[2] >= DEPTH_ITSELF else DEPTH_DRIVEN)
    remedy = (
        "" if level == "good" else "look whether the types differ in depth; if not, remove shallow cells "
        "(--rna_min_counts, --atac_min_fragments) and train again"
    )  # fmt: skip
    return Finding("Is the embedding free of depth?", level, worst[1], remedy, worst[0], f"{DEPTH_SEEN:.0%} or less")


def calibration(results: Results) -> Finding:
    """Are the error bars checked against held-out cells?"""
    question, expected = "Are the error bars calibrated?", f"within {OFF[0]:g} of 95 %"
    if not results.calibration:
        remedy = "run `multivi-nf calibrate MOSAIC MODEL`, or add paired cells so that TRAIN can set some apart"
        return Finding(question, "unknown", "no calibration was made for this model", remedy, np.nan, expected)
    directions = results.calibration.get("directions", {})
    if not results.calibration.get("calibrated", False):
        n = results.calibration.get("n_pairs", 0)
        remedy = "read intervals as the model's own opinion; at least 100 held-out pairs are needed to check them"
        return Finding(question, "unknown", f"no: {n} held-out pairs are too few", remedy, np.nan, expected)
    worst = [
        (abs(covered - nominal), direction, covered)
        for direction, entry in directions.items()
        for nominal, covered in entry.get("coverage_after", [])
        if abs(nominal - 0.95) < 1e-6
    ]
    few = sorted(name for name, entry in directions.items() if entry.get("calibrated") is False)
    unchecked = f"not calibrated, with fewer than 100 held-out pairs: {', '.join(few)}" if few else ""
    own = "read intervals of these directions as the model's own opinion"
    if not worst:
        # accessibility has no interval of counts: its probabilities are checked
        slopes = {d: e["slope_after"] for d, e in directions.items() if "slope_after" in e}
        if not slopes:
            return Finding(question, "unknown", unchecked or "no coverage is stored", own, np.nan, expected)
        direction = max(slopes, key=lambda d: abs(np.log(max(slopes[d], 1e-3))))
        slope = slopes[direction]
        level = graded(abs(np.log(max(slope, 1e-3))), np.log(1.25), np.log(2))
        text = f"probabilities of open peaks have a slope of {slope:.2f} on held-out cells, at worst ({direction})"
        level = "look" if few and level == "good" else level
        text, remedy = "; ".join(filter(None, (text, unchecked))), "" if level == "good" else own
        return Finding(question, level, text, remedy, slope, "0.8 to 1.25")
    off, direction, covered = max(worst)
    text = f"95 % intervals cover {covered:.1%} of held-out counts in the worst direction ({direction})"
    text = "; ".join(filter(None, (text, unchecked)))
    level = graded(off, *OFF)
    if level == "good" and few:
        return Finding(question, "look", text, own, covered, expected)
    remedy = "" if level == "good" else "see the calibration curve; intervals of this direction are off by that much"
    return Finding(question, level, text, remedy, covered, expected)


def support(results: Results) -> Finding | None:
    """How many imputed cells look unlike every paired cell?"""
    question, expected = "Do imputed cells have paired relatives?", f"{OUTSIDE[0]:.0%} or fewer out of support"
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
        return Finding(question, "unknown", unchecked, more, np.nan, expected) if unknown else None
    name, share = max(shares.items(), key=lambda item: item[1])
    text = f"{share:.1%} of the {name} lie outside the paired cells' support"
    lost = _lost_clusters(results)
    gone = f"of {', '.join(lost[:5])} half or more do: no pair is like them" if lost else ""
    text = "; ".join(filter(None, (text, gone, unchecked)))
    level = "poor" if lost else graded(share, *OUTSIDE)
    if level == "good":
        return Finding(question, "look" if unknown else "good", text, more if unknown else "", share, expected)
    remedy = 'leave cells with obs["out_of_support"] out of claims on imputed values, or add pairs of their type'
    return Finding(question, level, text, remedy, share, expected)


def _lost_clusters(results: Results) -> list[str]:
    """Clusters, by what their cells show, of whose judged cells half or more are out of support."""
    cells, out = results.cells, []
    if "support_p" not in cells or "out_of_support" not in cells:
        return out
    judged = np.isfinite(cells["support_p"].to_numpy(float))
    for (cluster, shown), part in cells[judged].groupby(["cluster", "modality"], observed=True):
        if len(part) >= measures.LEAST_CELLS and part["out_of_support"].fillna(False).astype(bool).mean() >= 0.5:
            out.append(f"cluster {cluster} ({shown})")
    return out


def _assessed(results: Results) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """Cells that were judged: what they are called, out of support, support_p (None where it is not stored)."""
    cells, out = results.cells, []
    if "support_p" in cells:
        lacking = ~cells[[f"has_{m}" for m in results.features]].astype(bool).all(axis=1).to_numpy()
        for kind in sorted(cells.loc[lacking, "modality"].astype(str).unique()) if lacking.any() else ():
            mine = lacking & (cells["modality"].astype(str) == kind).to_numpy()
            if mine.sum() < measures.LEAST_CELLS:
                continue
            outside = cells.loc[mine, "out_of_support"].fillna(False).to_numpy(bool)
            out.append((f"cells with {kind}", outside, cells.loc[mine, "support_p"].to_numpy(float)))
    if out:
        return out
    for modality, path in results.imputed.items():
        obs = read_imputed_obs(path)
        if "out_of_support" not in obs or obs["measured"].astype(bool).all():
            continue
        imputed = obs[~obs["measured"].astype(bool) & obs["out_of_support"].notna()]
        if imputed.empty:
            continue
        p = imputed["support_p"].to_numpy(float) if "support_p" in imputed else None
        out.append((f"cells imputed for {modality}", imputed["out_of_support"].astype(bool).to_numpy(), p))
    return out


def labels(results: Results) -> Finding | None:
    """Are transferred labels better than the labels' frequencies, and their probabilities true?"""
    record = results.mosaic_notes.get("labels")
    if not isinstance(record, dict):
        return None
    question, expected = (
        f"Can the labels of {record.get('column')} be transferred?",
        "Brier score below half the prior's",
    )
    checked, notes = record.get("checked", {}), list(record.get("notes", []))
    missing = sum(record.get("n_unknown", {}).values())
    if not missing and not record.get("n_transferred"):
        return None
    if not checked:
        only = "one label only" in record.get("n_unknown", {})
        remedy = (
            "label cells of two or more types" if only else "add pairs, or labels of cells that show these modalities"
        )
        return Finding(question, "poor" if only else "unknown", "; ".join(notes), remedy, np.nan, expected)
    kind = max(checked, key=lambda k: checked[k]["brier"] / max(checked[k]["brier_prior"], 1e-12))
    worst = checked[kind]
    skill, ece = worst["brier"] / max(worst["brier_prior"], 1e-12), max(c["ece"] for c in checked.values())
    told = f"{record.get('n_transferred', 0):,} cells got a label, {missing:,} did not"
    text = (
        f"{told}; where labels were hidden{f' and only {kind} seen' if kind else ''} the Brier score is "
        f"{worst['brier']:.2f} "
        f"(by frequencies {worst['brier_prior']:.2f}), {worst['accuracy']:.0%} right, probabilities off by {ece:.1%}"
    )
    level = graded(skill, 0.5, 0.9)
    wrong = sorted(
        {
            b
            for c in checked.values()
            for b, one in c.get("batches", {}).items()
            if one["brier"] >= 0.9 * one["brier_prior"]
        }
    )
    if wrong and level != "poor":
        level = "poor"
        text += (
            f"; the labels of {', '.join(map(repr, wrong[:5]))} are no better foretold by the others' than by chance"
        )
    if level == "good" and (ece > 0.05 or "not checked" in record.get("n_unknown", {})):
        level = "look"
    remedy = (
        ""
        if level == "good"
        else f"use labels with a probability near 1 only, and look at markers. {' '.join(notes)}".strip()
    )
    return Finding(question, level, text, remedy, float(skill), expected)


def doublets(results: Results) -> Finding | None:
    """Which sample has most doublets?"""
    shares = {}
    for entry in results.qc:
        found, kept = entry.summary.get("doublets") or {}, entry.summary.get("cells_out")
        if found.get("flagged") is not None and kept and kept >= measures.LEAST_CELLS:
            share, guessed = found["flagged"] / kept, found.get("share") or 0.0
            how = "are flagged as doublets" if share >= guessed else "are doublets by their depth and place"
            shares[f"{entry.sample} ({entry.modality})"] = max(share, guessed), how
    if not shares:
        return None
    worst = max(shares, key=lambda name: shares[name][0])
    share, how = shares[worst]
    level = graded(share, *DOUBLETS)
    remedy = (
        "" if level == "good" else "remove them (--remove_doublets), and look at the score's histogram of this sample"
    )
    text = f"about {share:.1%} of the cells of {worst} {how}, the most of any sample"
    return Finding("Are there few doublets?", level, text, remedy, share, f"{DOUBLETS[0]:.0%} or fewer")


def ambient(results: Results) -> Finding | None:
    """Which sample has most ambient RNA?"""
    shares = {
        entry.sample: (found["share"], found.get("kind", ""))
        for entry in results.qc
        if (found := entry.summary.get("ambient") or {}).get("share") is not None
    }
    if not shares:
        return None
    worst = max(shares, key=lambda name: (shares[name][1] == "estimate", shares[name][0]))
    share, kind = shares[worst]
    question, expected = "Is there little ambient RNA?", f"{AMBIENT[0]:.0%} or less"
    if kind != "estimate":
        level: Level = "good" if share <= AMBIENT[0] else "unknown"
        return Finding(
            question, level, f"at most {share:.1%} of the counts of any sample are ambient", "", share, expected
        )
    level = graded(share, *AMBIENT)
    removed = any(e.sample == worst and e.summary.get("parameters", {}).get("ambient") == "soup" for e in results.qc)
    text = f"about {share:.1%} of the counts of {worst!r} are ambient" + (", and were taken out" if removed else "")
    remedy = "" if level == "good" or removed else "types look more alike than they are: --ambient soup takes it out"
    return Finding(question, "look" if removed and level == "poor" else level, text, remedy, share, expected)


def contrasts(results: Results) -> Finding | None:
    """Could every contrast be made and tested?"""
    if not results.contrasts:
        return None
    empty = sorted(name for name, one in results.contrasts.items() if not len(one))
    alone = sorted(
        name for name, one in results.contrasts.items() if len(one) and "confounded" in one and one["confounded"].all()
    )
    n, bad = len(results.contrasts), len(empty) + len(alone)
    said = [f"{len(empty)} without two groups of cells: {', '.join(empty[:5])}"] if empty else []
    said += (
        [f"{len(alone)} with one batch on a side, so that batch and group are one: {', '.join(alone[:5])}"]
        if alone
        else []
    )
    text = f"{n - bad} of {n} contrasts were made and tested" + "".join(f"; {one}" for one in said)
    level: Level = "good" if not bad else "poor" if bad == n else "look"
    remedy = "" if level == "good" else "choose groups that two or more batches a side hold"
    return Finding("Could all contrasts be made?", level, text, remedy, (n - bad) / n, "all")


def best_epoch(history: pd.DataFrame) -> int:
    """Row of the epoch whose weights were kept; without that column, of the lowest validation loss."""
    if "best" in history and (history["best"] == 1).any():
        return int(np.flatnonzero(history["best"] == 1)[-1])
    return int(np.nanargmin(history["validation_loss"].to_numpy(dtype=float)))


def training(results: Results) -> Finding | None:
    """Did training settle, and which epoch was kept?"""
    history = results.history
    if history is None or not len(history) or "validation_loss" not in history:
        return None
    question, expected = "Did training settle?", f"{FEW_EPOCHS} epochs or more, loss level at the end"
    values = history["validation_loss"].to_numpy(dtype=float)
    best = best_epoch(history)
    kept, n = int(history["epoch"].iloc[best]), len(history)
    text = f"{n} epochs; the weights of epoch {kept} were kept, with a validation loss of {values[best]:.5g}"
    lowest = int(np.nanargmin(values))
    if lowest != best:
        epoch = int(history["epoch"].iloc[lowest])
        chosen = "held-out pairs chose it; the lowest loss" if "held_out_score" in history else "the lowest of all"
        text += f" ({chosen} was {values[lowest]:.5g}, at epoch {epoch})"
    half = values[n // 2]
    gained, fall = float(np.nanmax(values[: n // 2 + 1]) - values[-1]), float(half - values[-1])
    late = fall / gained if gained > 0 and fall > LEVEL * abs(values[-1]) else 0.0
    planned = results.parameters.get("max_epochs") or results.model.get("training", {}).get("max_epochs")
    capped = lowest >= n - 1 - n // 10 and (planned is None or n >= int(planned))
    if n < FEW_EPOCHS:
        few = f"{text}: too few to learn from"
        return Finding(question, "poor", few, "leave --max_epochs out, or raise it", n, expected)
    if capped and graded(late, *GAINED) != "good":
        said = f"{text}, and {late:.0%} of what was gained came in the second half: it was still falling at the last"
        return Finding(question, graded(late, *GAINED), said, "raise --max_epochs", late, expected)
    if "still gained" in str(results.model.get("stopped", "")):
        text += "; pairs held out still gained in the last quarter of the epochs"
        return Finding(question, "look", text, "raise --max_epochs", late, expected)
    return Finding(question, "good", text, "", late, expected)
