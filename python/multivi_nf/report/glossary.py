"""Words of the results and their documentation that are not everyday English for a biologist, one meaning each."""

from __future__ import annotations

from multivi_nf.report.terms import TERMS

WORDS = {
    "accessibility": "how open the chromatin is at a place; ATAC-seq measures it by cuts of the transposase Tn5",
    "active dimensions": "dimensions of the latent space that say anything of a cell (mean KL above 0.05 nats)",
    "ambient RNA": "RNA of broken cells in the droplets' liquid, counted as if it were the cell's own",
    "background peaks": "peaks alike in what matters but of no bearing on the question: what chance alone gives",
    "batch": "cells that were processed together; what differs between batches for technical reasons is corrected",
    "Bayes factor": "odds of one claim against its opposite after seeing the data, here as their natural logarithm",
    "BED": "table of places of a genome: chromosome, start counted from 0, end not included; BEDPE: pairs of them",
    "Benjamini-Hochberg": "rule that turns p-values into the expected share of false ones among what is called (FDR)",
    "bigWig": "compressed signal along a genome, for genome browsers",
    "blacklist": "places of the genome that collect reads in every experiment (ENCODE)",
    "Brier score": "mean squared distance of probabilities from what was true: 0 is perfect",
    "calibrated": "checked, and where needed widened, on pairs of which one half was hidden from the model",
    "candidate cells": "barcodes of a fragments file that may be cells and go on to be counted",
    "centred log ratio": "logarithm of 1 + a protein's count over the geometric mean of all that the cell shows",
    "checkpoint": "state of a training on disk, from which it goes on after an interruption to the same result",
    "chromVAR deviation": "how much more open the peaks with a motif are in a cell than like peaks without it",
    "chunk": "piece of a matrix that is read and decompressed as a whole",
    "cluster": "group of cells that lie together in the latent space (Leiden's method)",
    "conformal p-value": "share of known examples at least as unusual as this one; right whatever their distribution",
    "confounded": "the two groups share no batch and one side has a single one: effect and batch cannot be told apart",
    "connectivities": "strengths of the edges of the neighbour graph, 0 to 1, as scanpy writes them (obsp)",
    "consensus peaks": "the one set of peaks on which all samples are counted",
    "contrast": "comparison of two groups of cells, feature by feature",
    "counterparts": "cells of another batch that are of the same kind, found from counts, without the model",
    "coverage of intervals": "share of true values inside of their intervals; 95 % intervals should reach 0.95",
    "credible interval": "range that holds the true value with the given probability, as the model sees it",
    "cut site": "base at which Tn5 cut; a fragment has two",
    "decoder": "part of the model that turns a place in the latent space into expected counts",
    "delta (δ)": "smallest effect of interest; smaller ones are not called, however certain",
    "denoised": "a model's value of what was measured: smoothed over cells alike",
    "depth": "how much of a cell was sequenced: its counts or fragments",
    "digest": "short number computed from all bytes of a file (SHA-256): equal digests, equal files",
    "dispersion": "how much counts vary beyond what chance alone gives (Poisson)",
    "doublet": "two cells under one barcode",
    "ELBO": "evidence lower bound: what a variational model is trained to raise; its negative is the loss",
    "embedding": "cells as points of the latent space",
    "encoder": "part of the model that turns a cell's counts into its place in the latent space",
    "Ensembl identifier": "a gene's stable name, such as ENSG00000156738, where symbols change",
    "epoch": "one pass of training over all training cells",
    "extrapolated": "more than half of the cells of a side are out of support, or of a group that never shows the "
    "modality: trust its effects less",
    "FASTA": "text file of DNA sequences, here those of a genome's chromosomes",
    "foreground": "counts of antibody that is bound to the cell; what droplets hold unbound is background",
    "FOSCTTM": "fraction of samples closer than the true match: share of cells that lie nearer to a cell's RNA than "
    "the cell's own ATAC does; 0 is perfect, 0.5 chance",
    "fragment": "stretch of DNA between two cuts of Tn5 in one cell, told by its chromosome, start, end and barcode",
    "FRiP": "fraction of a cell's fragments that lie in peaks",
    "GC": "share of the bases G and C in a stretch of DNA: peaks rich in it are open and sequenced more",
    "gene activity": "accessibility of a gene's body and promoter, as a stand-in for its expression",
    "groups from the same data": "the groups are clusters of the very cells that are compared: p-values are too small",
    "GTF, GFF3": "text tables of a genome's genes and where they lie",
    "h5ad, h5mu": "files of AnnData (one modality) and MuData (several): counts, tables of cells and features, "
    "embeddings",
    "half-open": "of places: the start counts, the end does not; 0-based: the first base is number 0",
    "hashtag (HTO)": "antibody with a barcode that marks a donor's cells; singlet: a cell with one, negative: none",
    "held-out pairs": "paired cells that were kept from training, so that predictions can be checked on them",
    "imputed": "a model's value of what was not measured in the cell",
    "isotype control": "antibody that has no target in the cells: what it shows is stickiness",
    "KL divergence": "distance between two distributions, in nats; 0 if they are equal",
    "knee": "rank at which barcodes, sorted by their counts, fall from cells to empty droplets",
    "latent space": "the few numbers (10 by default) by which the model describes a cell, without a unit",
    "layer": "further matrix of the same cells and features, such as imputed values beside counts",
    "Leiden": "method that finds clusters in the graph of neighbours",
    "library": "a cell's total of RNA counts over the modelled genes",
    "LISI": "effective number of groups among a cell's neighbours; its ratio to that of permuted groups tells mixing",
    "log2 fold change (log ratio)": "logarithm of the ratio of two means: 1 is twice, -1 half",
    "manifest": "list of a run's files with sizes and digests; stale: left by a former run, not made by this one",
    "marker": "feature that is higher in one cluster than in all other cells",
    "median absolute deviation (MAD)": "median distance from the median: what is usual, unmoved by outliers",
    "metacell": "some dozen cells alike, added up, so that counts are less sparse",
    "modality": "kind of measurement: rna, atac or protein",
    "mosaic": "data in which different cells were measured in different modalities",
    "motif": "short pattern of DNA that a transcription factor binds",
    "nat": "unit of log probability with natural logarithm; 1 nat is 1.44 bits",
    "negative binomial": "distribution of counts with more spread than Poisson's",
    "nuclear fragments": "fragments of all chromosomes but the mitochondrial one",
    "nucleosome signal": "fragments as long as around one nucleosome, over shorter ones; high in poor samples",
    "obs, var": "tables of cells and of features, one row each; obsm and obsp hold matrices of cells, uns all else",
    "out of support": "unlike every cell that was measured in both modalities, so that an imputed value is a guess",
    "overlap loci": "places covered by more than two fragments of one barcode: more than a diploid nucleus can give",
    "paired cell": "cell that was measured in two or more modalities",
    "panel": "the antibodies that a batch was stained with",
    "PCR duplicate": "read that copies another one of the same fragment; counted once",
    "peak": "stretch of open chromatin on which fragments are counted",
    "peak-gene link": "peak near a gene whose accessibility goes with the gene's expression over cells",
    "Pearson correlation": "how well points lie on a line, -1 to 1",
    "Poisson distribution": "how counts vary by chance alone: their variance is their mean",
    "posterior": "what is known after seeing the data: a mean and a spread for each value",
    "preflight": "checks of all inputs before the first heavy step",
    "prior": "what is assumed before seeing data; here a standard normal for each latent dimension",
    "promoter": "region just before a gene's start, from which its transcription is controlled",
    "pseudobulk": "counts of all cells of one group and replicate, added up",
    "reference mixture": "batches under which values are decoded by default: the eight largest that measured the "
    "modality, weighted by cells",
    "replicate": "unit that was sampled independently, as a donor; tests between groups need two or more",
    "safetensors": "file of a model's weights that holds numbers and nothing that could run",
    "SBOM": "software bill of materials: every package that ran, with version (CycloneDX's format)",
    "scale of imputed values": "rna: counts per 10,000; protein: expected foreground counts; atac: probability of "
    "being seen open at the median depth",
    "Scrublet": "method that finds doublets: cells that look like two others added up",
    "seed": "number from which all random choices follow; the same seed gives the same results",
    "shrinkage": "drawing uncertain effects towards 0 by as much as their errors say",
    "Spearman correlation": "Pearson's correlation of ranks: does one rise where the other rises?",
    "support": "the region of cells that resemble paired ones",
    "transferred label": "label that an unlabelled cell got from its labelled neighbours, with a probability",
    "TSS enrichment": "cut sites at transcription start sites over those 2,000 bp away; low in poor samples",
    "two-sided": "counts as unusual in either direction",
    "UMAP": "picture of the latent space in two dimensions; near is alike, far distances mean little",
    "UMI": "unique molecular identifier: tells molecules from copies, so that counts are of molecules",
    "validation cells": "cells kept from training, by which the epoch to keep is chosen",
    "verdict": "the report's first block: may these results be trusted, and what to do where not",
    "Welch's t-test": "test whether two means differ whose spreads may differ",
    "zarr": "folder of compressed pieces of a matrix, read in parts by AnnData and others",
}
"""Words beside those that the report explains where they stand."""

PLACES = {
    "of training": set(
        (
            "rna, atac, protein, protein background, kl, alignment, adversary, adversary accuracy, cross, "
            "learning rate, loss per cell"
        ).split(", ")
    ),
    "of calibration": set(
        "direction, coverage, n pairs, n cells, slope before, slope after, temperature, risk and coverage".split(", ")
    ),
    "of contrasts": {"target", "effect", "probability", "significant", "feature", "fdr"},
    "of quality control": {"kept", "features", "in the model", "barcodes in", "of the smaller", "doublets"},
    "of regulation": {"insertions", "donors", "peaks", "new", "peak", "motif", "z", "genes", "correlation", "distance"},
    "of the run": {"tasks", "time, all tasks", "longest task", "peak memory"},
}
"""Where the report uses a word in a sense of its own."""


def glossary() -> dict[str, str]:
    """Every word of report and results with its meaning, in alphabetical order.

    The report's own terms are taken from :data:`multivi_nf.report.terms.TERMS`, so that page and glossary say the
    same; those that mean something of their own there carry the part of the report.
    """
    of = dict.fromkeys(WORDS, "in the report") | {name: place for place, names in PLACES.items() for name in names}
    told = {f"{name} ({of[name]})" if name in of else name: meaning for name, meaning in TERMS.items()}
    return dict(sorted((WORDS | told).items(), key=lambda item: item[0].lower()))
