"""Every term of the page in plain words, shown where the pointer rests on it."""

from __future__ import annotations

from markupsafe import Markup, escape

TERMS = {
    # cells and quality
    "features": "genes, peaks or proteins that passed",
    "barcodes in": "barcodes of the input that were looked at",
    "sample": "row of the samplesheet",
    "modality": "rna, atac (accessibility) or protein",
    "step": "where barcodes were looked at: in the fragments file, or in the matrix of counts",
    "in the smallest sample": "features of the sample that has fewest",
    "in every sample": "features that all samples have",
    "files": "two inputs of the sample whose barcodes are compared",
    "barcodes in the first": "cells of the file that is named first",
    "in the second": "cells of the file that is named second",
    "in both": "barcodes that stand in both: the paired cells",
    "after a change of names": "what would make more barcodes meet, such as leaving out -1; – where nothing would",
    "rna n counts": "RNA molecules counted in the cell",
    "rna n genes": "genes with at least one of them",
    "rna pct mito": "percent of them from mitochondrial genes: high in broken cells",
    "rna doublet score": "how alike the cell is to two cells put together; high: a doublet",
    "atac n fragments": "DNA fragments of the cell",
    "atac n counts": "fragments (or cut sites) of the cell in peaks, added up",
    "atac n peaks": "peaks with at least one",
    "atac n fragments in peaks": "fragments that overlap a peak",
    "atac frip": "fraction of the fragments that lie in peaks: low where the signal is weak",
    "atac tsse": "how many times more cuts lie at genes' starts than beside them: low where the signal is weak",
    "atac nucleosome signal": "fragments around one nucleosome to those without: high in poor preparations",
    "atac blacklist fraction": "fraction of the fragments in regions known to collect artefacts",
    "atac duplicate fraction": "fraction of the reads that copy another one",
    "atac mito fraction": "fraction of the fragments from mitochondria",
    "atac doublet score": "how alike the cell is to two cells put together; high: a doublet",
    "protein n counts": "antibody molecules counted in the cell",
    "protein n proteins": "proteins with at least one of them",
    "protein isotype counts": "counts of antibodies that bind nothing: high in sticky or dead cells",
    "kept": "barcodes that quality control took for cells",
    "in the model": "of those, cells that the model was trained on or placed",
    "doublets": "cells that look like two cells in one droplet; flagged, and removed only with --remove_doublets",
    "removed by each rule": "barcodes by the first rule that removed them; 0 where nothing is named",
    "of the smaller": "barcodes in both files, as a share of the file with fewer",
    # training
    "loss per cell": "what training lowers: reconstruction and all penalties, summed, averaged over cells (nats)",
    "rna": "how badly RNA counts are reconstructed: negative log likelihood per cell (nats; lower is better)",
    "atac": "how badly accessibility is reconstructed: negative log likelihood per cell (nats; lower is better)",
    "protein": "how badly protein counts are reconstructed: negative log likelihood per cell (nats; lower is better)",
    "kl": "how far cells' places in the latent space lie from the prior (Kullback-Leibler divergence, nats)",
    "protein background": "price of protein counts that are put down to unbound antibody (nats)",
    "alignment": "distance between the places that the modalities of one cell give it; 0: they agree",
    "adversary": "how well a second network tells modalities or batches apart; training works against it",
    "adversary accuracy": "share of cells whose modality that second network names; at chance the modalities are mixed",
    "batch mixing": "how far batches with counterparts are from a full mixture around each cell; 0: mixed",
    "modality mixing": "the same of cells in which different modalities were measured",
    "integration": "what both cost in the objective (nats)",
    "learning rate": "size of a training step",
    "cross": "how badly one modality of a cell is reconstructed from another one (nats)",
    # calibration
    "direction": "what was hidden and predicted (right) from what (left)",
    "coverage": "share of hidden counts inside of their interval, against the share that should be",
    "risk and coverage": "mean error when only the most certain entries are kept; lower to the left is right",
    "n pairs": "cells measured in both modalities that were kept from training for this check",
    "n cells": "cells in which this was checked",
    "calibrated": "whether there were pairs enough to set the width of the intervals",
    "dispersion factor": "factor on single counts' noise so that intervals cover what they should; 1: none needed",
    "shrinkage": "share by which predictions are drawn towards each feature's own mean; 0: none",
    "log score before": "mean log probability of the hidden counts before calibration; higher is better",
    "log score after": "mean log probability of the hidden counts after calibration; higher is better",
    "temperature": "factor by which the latent variance was widened so that intervals cover what they should",
    "slope before": "slope of measured on predicted values before calibration; 1: predictions have the right spread",
    "slope after": "slope of measured on predicted values after calibration; 1: predictions have the right spread",
    # contrasts
    "target": "the group that is compared",
    "symbol": "gene symbol",
    "feature": "name as in the mosaic; peaks: chromosome:start-end",
    "nearest gene": "gene whose start lies nearest to the peak",
    "mean target": "mean of the target group, on the scale of imputed values",
    "mean reference": "mean of the other group, on the scale of imputed values",
    "effect": "target against reference: log2 fold change; for peaks the difference of the probability of being open",
    "95 % interval": "the true effect lies in it with 95 % probability",
    "log2 fold change": "1: twice as much in the target; -1: half as much",
    "probability": "probability that the effect is larger than δ, the smallest that counts",
    "fdr": "expected share of false ones among this row and those above it",
    "replicate fdr": "false discovery rate of the test between replicates",
    "significant": "called by the probability and, where there are replicates, by the test between them",
    # regulation
    "insertions": "cut sites of the group's cells: first and last base of each fragment",
    "donors": "donors with 40 or more cells of the group; two of them must show a peak",
    "peaks": "peaks called in the group's cells by itself",
    "new": "those that overlap no peak of the run",
    "peak": "chromosome:start-end; leads to the explorer, its gene beside it",
    "distance": "bases from the gene's start to the peak's nearest base; negative before the start, 0 inside the peak",
    "correlation": "of the gene's RNA and the peak's accessibility over cells with both (Pearson, within donors)",
    "imputed correlation": "the same of imputed RNA in cells with ATAC alone: what the model believes, no evidence",
    "z": "how far it lies from what background like it gives, in standard deviations",
    "motif": "identifier in the file of motifs",
    "genes": "the motif's own factor among the measured genes",
    "rna correlation": "of the motif's accessibility and its factor's own RNA over cells measured in both",
    "rna fdr": "false discovery rate of that correlation",
    # run
    "tasks": "how often the step ran",
    "time, all tasks": "seconds of all its tasks together",
    "longest task": "the slowest of its tasks",
    "peak memory": "the most memory that one of its tasks held",
}


PHRASES = {
    "mean KL": TERMS["kl"] + ", in the mean over cells",
    "nats": "units of information, as bits are: one nat is 1.44 bits",
    "reliability": "correlation of what two random halves of the counts show: 1 all signal, 0 all noise",
    "rank correlation": "whether two lists rise and fall together, whatever their scale: 1 always, 0 not at all",
    "validation loss": "what training lowers, on cells that it was not shown",
    "held-out pairs": "cells measured in both modalities that training did not see as pairs",
    "latent dimensions": "axes of the space that the model places all cells in",
    "full mixture": "what neighbours would be if batches or modalities were shuffled",
    "support": "the region of the latent space in which there are paired cells to learn from",
    "ambient": "from molecules that floated freely, not from the cell",
}
"""Terms in the verdict's sentences."""


def term(name: str, text: str | None = None) -> Markup:
    """Give `text` (or the name itself) with its explanation, where there is one."""
    shown = name if text is None else text
    about = TERMS.get(str(name).replace("_", " ").lower())
    return Markup('<abbr title="{}">{}</abbr>').format(about, shown) if about else escape(shown)


def explained(names: list[str]) -> list[tuple[str, str]]:
    """Names with their explanation, those that have one."""
    words = [name.replace("_", " ") for name in names]
    return [(word, TERMS[word.lower()]) for word in words if word.lower() in TERMS]
