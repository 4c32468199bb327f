"""Words of the results and their documentation that are not everyday English for a biologist, one meaning each."""

from __future__ import annotations

from multivi_nf.report.terms import TERMS

WORDS = {
    "accessibility": "how open the chromatin is at a place; ATAC-seq measures it by cuts of the transposase Tn5",
    "active dimensions": "dimensions of the latent space that say anything of a cell (mean KL above 0.05 nats)",
    "ambient RNA": "RNA of broken cells in the droplets' liquid, counted as if it were the cell's own",
    "batch": "cells that were processed together; what differs between batches for technical reasons is corrected",
    "blacklist": "places of the genome that collect reads in every experiment (ENCODE)",
    "calibrated": "checked, and where needed widened, on pairs of which one half was hidden from the model",
    "candidate cells": "barcodes of a fragments file that may be cells and go on to be counted",
    "chromVAR deviation": "how much more open the peaks with a motif are in a cell than like peaks without it",
    "cluster": "group of cells that lie together in the latent space (Leiden's method)",
    "confounded": "the two groups share no batch and one side has a single one: effect and batch cannot be told apart",
    "contrast": "comparison of two groups of cells, feature by feature",
    "counterparts": "cells of another batch that are of the same kind, found from counts, without the model",
    "coverage of intervals": "share of true values inside of their intervals; 95 % intervals should reach 0.95",
    "credible interval": "range that holds the true value with the given probability, as the model sees it",
    "cut site": "base at which Tn5 cut; a fragment has two",
    "decoder": "part of the model that turns a place in the latent space into expected counts",
    "delta (δ)": "smallest effect of interest; smaller ones are not called, however certain",
    "denoised": "a model's value of what was measured: smoothed over cells alike",
    "depth": "how much of a cell was sequenced: its counts or fragments",
    "dispersion": "how much counts vary beyond what chance alone gives (Poisson)",
    "doublet": "two cells under one barcode",
    "ELBO": "evidence lower bound: what a variational model is trained to raise; its negative is the loss",
    "embedding": "cells as points of the latent space",
    "encoder": "part of the model that turns a cell's counts into its place in the latent space",
    "epoch": "one pass of training over all training cells",
    "extrapolated": "more than half of the cells of a side are out of support, or of a group that never shows the "
    "modality: trust its effects less",
    "FOSCTTM": "fraction of samples closer than the true match: share of cells that lie nearer to a cell's RNA than "
    "the cell's own ATAC does; 0 is perfect, 0.5 chance",
    "fragment": "stretch of DNA between two cuts of Tn5 in one cell, told by its chromosome, start, end and barcode",
    "FRiP": "fraction of a cell's fragments that lie in peaks",
    "gene activity": "accessibility of a gene's body and promoter, as a stand-in for its expression",
    "groups from the same data": "the groups are clusters of the very cells that are compared: p-values are too small",
    "imputed": "a model's value of what was not measured in the cell",
    "KL divergence": "distance between two distributions, in nats; 0 if they are equal",
    "latent space": "the few numbers (10 by default) by which the model describes a cell, without a unit",
    "Leiden": "method that finds clusters in the graph of neighbours",
    "library": "a cell's total of RNA counts over the modelled genes",
    "LISI": "effective number of groups among a cell's neighbours; its ratio to that of permuted groups tells mixing",
    "log2 fold change (log ratio)": "logarithm of the ratio of two means: 1 is twice, -1 half",
    "median absolute deviation (MAD)": "median distance from the median: what is usual, unmoved by outliers",
    "modality": "kind of measurement: rna, atac or protein",
    "mosaic": "data in which different cells were measured in different modalities",
    "motif": "short pattern of DNA that a transcription factor binds",
    "nat": "unit of log probability with natural logarithm; 1 nat is 1.44 bits",
    "negative binomial": "distribution of counts with more spread than Poisson's",
    "nucleosome signal": "fragments as long as around one nucleosome, over shorter ones; high in poor samples",
    "out of support": "unlike every cell that was measured in both modalities, so that an imputed value is a guess",
    "overlap loci": "places covered by more than two fragments of one barcode: more than a diploid nucleus can give",
    "paired cell": "cell that was measured in two or more modalities",
    "panel": "the antibodies that a batch was stained with",
    "peak": "stretch of open chromatin on which fragments are counted",
    "peak-gene link": "peak near a gene whose accessibility goes with the gene's expression over cells",
    "posterior": "what is known after seeing the data: a mean and a spread for each value",
    "prior": "what is assumed before seeing data; here a standard normal for each latent dimension",
    "pseudobulk": "counts of all cells of one group and replicate, added up",
    "reference mixture": "batches under which values are decoded by default: the eight largest that measured the "
    "modality, weighted by cells",
    "replicate": "unit that was sampled independently, as a donor; tests between groups need two or more",
    "scale of imputed values": "rna: counts per 10,000; protein: expected foreground counts; atac: probability of "
    "being seen open at the median depth",
    "seed": "number from which all random choices follow; the same seed gives the same results",
    "shrinkage": "drawing uncertain effects towards 0 by as much as their errors say",
    "support": "the region of cells that resemble paired ones",
    "TSS enrichment": "cut sites at transcription start sites over those 2,000 bp away; low in poor samples",
    "transferred label": "label that an unlabelled cell got from its labelled neighbours, with a probability",
    "UMAP": "picture of the latent space in two dimensions; near is alike, far distances mean little",
    "UMI": "unique molecular identifier: tells molecules from copies, so that counts are of molecules",
    "verdict": "the report's first block: may these results be trusted, and what to do where not",
}
"""Words beside those that the report explains where they stand."""

PLACES = {
    "of training": {
        "rna", "atac", "protein", "protein background", "kl", "alignment", "adversary", "adversary accuracy", "cross",
        "learning rate", "loss per cell",
    },
    "of calibration": {
        "direction", "coverage", "n pairs", "n cells", "slope before", "slope after", "temperature",
        "risk and coverage",
    },
    "of contrasts": {"target", "effect", "probability", "significant", "feature", "fdr"},
    "of quality control": {"kept", "features", "in the model", "barcodes in", "of the smaller", "doublets"},
    "of regulation": {"insertions", "donors", "peaks", "new", "peak", "motif", "z", "genes", "correlation", "distance"},
    "of the run": {"tasks", "time, all tasks", "longest task", "peak memory"},
}  # fmt: skip
"""Where the report uses a word in a sense of its own."""


def glossary() -> dict[str, str]:
    """Every word of report and results with its meaning, in alphabetical order.

    The report's own terms are taken from :data:`multivi_nf.report.terms.TERMS`, so that page and glossary say the
    same; those that mean something of their own there carry the part of the report.
    """
    of = dict.fromkeys(WORDS, "in the report") | {name: place for place, names in PLACES.items() for name in names}
    told = {f"{name} ({of[name]})" if name in of else name: meaning for name, meaning in TERMS.items()}
    return dict(sorted((WORDS | told).items(), key=lambda item: item[0].lower()))
