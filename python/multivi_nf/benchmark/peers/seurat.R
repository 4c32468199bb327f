# Seurat's three strategies on one split (needs Seurat 4, rhdf5, Matrix, irlba):
#   Rscript seurat.R seurat-activity|seurat-imputed|seurat-wnn TASK RESULT [GENES]
# TASK is what `multivi-nf benchmark-split` writes. Without Signac: TF-IDF, truncated SVD and sums of peaks over genes.
suppressPackageStartupMessages({ library(Matrix); library(Seurat) })
arguments <- commandArgs(trailingOnly = TRUE)
method <- arguments[1]; task <- arguments[2]; out <- arguments[3]
genes_file <- if (length(arguments) > 3) arguments[4] else NA
dir.create(out)
about <- jsonlite::fromJSON(file.path(task, "task.json"))
set.seed(about$seed)
path <- file.path(task, "mosaic.h5mu")
h5 <- function(name) suppressWarnings(rhdf5::h5read(path, name, bit64conversion = "double"))
has <- function(name) { found <- rhdf5::h5ls(path, recursive = 4); name %in% sub("^/", "", file.path(found$group, found$name)) }
index <- function(table) as.character(h5(paste0(table, "/", rhdf5::h5readAttributes(path, table)[["_index"]])))
counts <- function(m) {
  place <- paste0("mod/", m, if (has(paste0("mod/", m, "/layers/counts"))) "/layers/counts" else "/X")
  x <- h5(place); cells <- index(paste0("mod/", m, "/obs")); features <- index(paste0("mod/", m, "/var"))
  sparseMatrix(i = x$indices, p = x$indptr, x = as.numeric(x$data), index1 = FALSE,
               dims = c(length(features), length(cells)), dimnames = list(features, cells))
}
cells <- read.delim(file.path(task, "cells.tsv"), colClasses = "character", check.names = FALSE)
rownames(cells) <- cells$name
modality <- function(m) cells$name[vapply(strsplit(cells$modalities, "+", fixed = TRUE), function(x) m %in% x, TRUE)]

lsi <- function(x, n = 30) {                     # log(1 + TF-IDF) as Signac's default, without the first component
  x@x <- rep(1, length(x@x))
  tf <- t(t(x) / pmax(colSums(x), 1)); x <- tf * (ncol(x) / pmax(rowSums(x), 1)); x@x <- log1p(1e4 * x@x)
  n <- min(n, min(dim(x)) - 2)
  d <- irlba::irlba(x, nv = n + 1)
  z <- d$v %*% diag(d$d); rownames(z) <- colnames(x); colnames(z) <- paste0("LSI_", seq_len(n + 1))
  scale(z)[, -1]
}

# Names of genes, or a GTF's attributes, as RNA's features are named: by id or by symbol
as_rna <- function(words) {
  ids <- index("mod/rna/var")
  symbols <- if (has("mod/rna/var/symbol")) { x <- h5("mod/rna/var/symbol"); if (is.list(x)) x$categories[x$codes + 1] else as.vector(x) } else ids
  attribute <- function(key) ifelse(grepl(key, words, fixed = TRUE), sub(paste0(".*", key, ' "?([^";]+)"?.*'), "\\1", words), words)
  tried <- list(attribute("gene_id"), attribute("gene_name"))
  found <- lapply(tried, function(x) { x <- ifelse(x %in% ids, x, ids[match(x, symbols)]); x[is.na(x)] <- ""; x })
  found[[which.max(vapply(found, function(x) sum(nzchar(x)), 0))]]
}

# Peaks over gene body and 2 kb before it; genes: BED (name in column 4, strand in 6) or GTF
activity <- function(atac) {
  if (is.na(genes_file)) stop("gene activity needs the genes' places: give --gtf, or --tss with bodies")
  lines <- readLines(genes_file); lines <- lines[!grepl("^#", lines) & nzchar(lines)]
  parts <- strsplit(lines, "\t")
  if (length(parts[[1]]) >= 9) {
    keep <- vapply(parts, function(p) p[3] == "gene", TRUE); parts <- parts[keep]
    name <- as_rna(vapply(parts, `[`, "", 9))
    g <- data.frame(chrom = vapply(parts, `[`, "", 1), start = as.numeric(vapply(parts, `[`, "", 4)) - 1,
                    end = as.numeric(vapply(parts, `[`, "", 5)), strand = vapply(parts, `[`, "", 7), name = name)
  } else {
    strand <- vapply(parts, function(p) if (length(p) >= 6) p[6] else "+", "")
    g <- data.frame(chrom = vapply(parts, `[`, "", 1), start = as.numeric(vapply(parts, `[`, "", 2)),
                    end = as.numeric(vapply(parts, `[`, "", 3)), strand = strand, name = as_rna(vapply(parts, `[`, "", 4)))
  }
  g$start <- ifelse(g$strand == "-", g$start, g$start - 2000); g$end <- ifelse(g$strand == "-", g$end + 2000, g$end)
  peaks <- rownames(atac); m <- regmatches(peaks, regexec("^(.+)[:-]([0-9]+)-([0-9]+)$", peaks))
  if (any(lengths(m) != 4)) stop("the names of the peaks are no places")
  p <- data.frame(chrom = vapply(m, `[`, "", 2), start = as.numeric(vapply(m, `[`, "", 3)), end = as.numeric(vapply(m, `[`, "", 4)))
  pairs <- do.call(rbind, lapply(seq_len(nrow(g)), function(k) {
    hit <- which(p$chrom == g$chrom[k] & p$start < g$end[k] & p$end > g$start[k])
    if (length(hit)) cbind(k, hit) else NULL
  }))
  if (is.null(pairs)) stop("no peak lies in a gene: are the chromosomes named alike?")
  sums <- sparseMatrix(i = pairs[, 1], j = pairs[, 2], x = 1, dims = c(nrow(g), length(peaks)), dimnames = list(g$name, NULL)) %*% atac
  sums <- sums[rowSums(sums) > 0 & !duplicated(rownames(sums)) & nzchar(rownames(sums)), ]
  sums
}

anchors_of <- function(reference, query, n) FindTransferAnchors(reference, query, reduction = "cca", features = rownames(query)[rownames(query) %in% VariableFeatures(reference)],
  reference.assay = "RNA", query.assay = "RNA", dims = seq_len(n), k.filter = NA, verbose = FALSE)

save <- function(z, imputed = NULL) {
  write.table(data.frame(name = rownames(z), z, check.names = FALSE), file.path(out, "latent.tsv"), sep = "\t", quote = FALSE, row.names = FALSE)
  if (!is.null(imputed)) write.table(data.frame(name = rownames(imputed), as.matrix(imputed), check.names = FALSE), gzfile(file.path(out, "imputed.tsv.gz")), sep = "\t", quote = FALSE, row.names = FALSE)
}
prepare <- function(x) { s <- CreateSeuratObject(x); s <- NormalizeData(s, verbose = FALSE); s <- FindVariableFeatures(s, nfeatures = min(2000, nrow(x)), verbose = FALSE); ScaleData(s, verbose = FALSE) }
hidden <- if (length(about$hidden)) scan(file.path(task, "hidden", paste0(about$hidden[1], ".txt")), "", quiet = TRUE, sep = "\n") else character()

# Unpaired cells' expression is carried from the cells that show it, along CCA anchors with gene activity
imputed_rna <- function(rna, atac, n) {
  lone <- setdiff(colnames(atac), colnames(rna))
  reference <- prepare(rna); score <- activity(atac)[, lone, drop = FALSE]
  both <- intersect(rownames(score), rownames(rna)); if (length(both) < 20) stop("fewer than 20 genes have both RNA and activity")
  query <- prepare(score[both, ])
  anchors <- anchors_of(reference, query, n)
  z <- lsi(atac)[lone, , drop = FALSE]
  query[["lsi"]] <- CreateDimReducObject(z, key = "LSI_", assay = "RNA")
  wanted <- if (length(hidden)) rownames(rna) else VariableFeatures(reference)
  found <- TransferData(anchors, GetAssayData(reference, slot = "data")[wanted, ], weight.reduction = query[["lsi"]], dims = seq_len(min(n, ncol(z))), k.weight = min(50, length(unique(anchors@anchors[, 2])) - 1), verbose = FALSE)
  list(reference = reference, lone = lone, data = GetAssayData(found, slot = "data"))
}

run <- function() {
  rna <- counts("rna"); atac <- counts("atac"); n <- min(30, ncol(rna) - 1)
  if (method == "seurat-imputed") {
    if (length(about$hidden) && about$hidden[1] != "rna") stop("this strategy imputes RNA only")
    found <- imputed_rna(rna, atac, n)
    joined <- cbind(GetAssayData(found$reference, slot = "data")[rownames(found$data), ], found$data)
    all <- CreateSeuratObject(joined); VariableFeatures(all) <- rownames(joined)
    all <- RunPCA(ScaleData(all, verbose = FALSE, do.scale = FALSE), npcs = n, verbose = FALSE)
    share <- if (length(hidden)) { x <- expm1(found$data[, hidden]); t(t(x) / pmax(colSums(x), 1e-9)) } else NULL
    return(save(Embeddings(all, "pca"), if (is.null(share)) NULL else t(share)))
  }
  if (method == "seurat-activity") {
    score <- activity(atac); both <- intersect(rownames(score), rownames(rna)); if (length(both) < 20) stop("fewer than 20 genes have both RNA and activity")
    lone <- setdiff(colnames(atac), colnames(rna))
    if (!length(lone)) { s <- RunPCA(prepare(rna), npcs = n, verbose = FALSE); return(save(Embeddings(s, "pca"))) }
    parts <- list(prepare(rna[both, ]), prepare(score[both, lone]))
    features <- SelectIntegrationFeatures(parts, nfeatures = min(2000, length(both)), verbose = FALSE)
    k <- min(100, min(ncol(rna), length(lone)) - 1)
    found <- FindIntegrationAnchors(parts, anchor.features = features, reduction = "cca", dims = seq_len(n), k.filter = NA, verbose = FALSE)
    all <- IntegrateData(found, dims = seq_len(n), k.weight = min(k, 50), verbose = FALSE)
    all <- RunPCA(ScaleData(all, verbose = FALSE), npcs = n, verbose = FALSE)
    z <- Embeddings(all, "pca")
    if (length(hidden)) {
      if (about$hidden[1] != "rna") stop("this strategy imputes RNA only")
      x <- t(rna) / pmax(colSums(rna), 1); near <- RANN::nn2(z[colnames(rna), ], z[hidden, ], k = 50)$nn.idx
      shares <- do.call(rbind, lapply(seq_len(nrow(near)), function(i) colMeans(x[near[i, ], ])))
      rownames(shares) <- hidden; return(save(z, shares))
    }
    return(save(z))
  }
  both <- intersect(colnames(rna), colnames(atac)); if (length(both) < 35) stop(paste("it builds on pairs, and there are", length(both)))
  s <- RunPCA(prepare(rna[, both]), npcs = n, verbose = FALSE)
  s[["lsi"]] <- CreateDimReducObject(lsi(atac[, both]), key = "LSI_", assay = "RNA")
  k <- min(20, length(both) %/% 5)
  s <- FindMultiModalNeighbors(s, reduction.list = list("pca", "lsi"), dims.list = list(seq_len(n), seq_len(ncol(s[["lsi"]]))), k.nn = k, knn.range = min(200, length(both) - 2), verbose = FALSE)
  s <- RunSPCA(s, assay = "RNA", graph = "wsnn", npcs = n, verbose = FALSE)
  z <- Embeddings(s, "spca")
  only <- setdiff(colnames(rna), both)
  if (length(only)) {
    q <- NormalizeData(CreateSeuratObject(rna[, only]), verbose = FALSE)
    anchors <- FindTransferAnchors(s, q, reference.reduction = "spca", dims = seq_len(n), k.filter = NA, verbose = FALSE)
    q <- IntegrateEmbeddings(anchors, reference = s, query = q, new.reduction.name = "ref", k.weight = min(50, nrow(anchors@anchors) - 1, length(only) - 1), verbose = FALSE)
    y <- Embeddings(q, "ref"); colnames(y) <- colnames(z); z <- rbind(z, y)
  }
  lone <- setdiff(colnames(atac), both)
  if (length(lone)) {                            # ATAC alone: by LSI neighbours among the pairs, as MapQuery projects
    w <- lsi(atac); near <- RANN::nn2(w[both, ], w[lone, , drop = FALSE], k = k)
    weight <- exp(-(near$nn.dists / pmax(near$nn.dists[, k], 1e-9))^2); weight <- weight / rowSums(weight)
    y <- do.call(rbind, lapply(seq_along(lone), function(i) colSums(weight[i, ] * Embeddings(s, "spca")[both[near$nn.idx[i, ]], ])))
    rownames(y) <- lone; colnames(y) <- colnames(z); z <- rbind(z, y)
  }
  save(z)
}

failed <- tryCatch({ run(); "" }, error = function(e) conditionMessage(e))
used <- proc.time()
peak <- grep("VmHWM", readLines("/proc/self/status"), value = TRUE)
told <- list(method = method, version = paste("Seurat", packageVersion("Seurat")), settings = "defaults of its vignettes, 30 dimensions",
  cpu_seconds = unname(used[1] + used[2]), peak_memory = 1024 * as.numeric(gsub("\\D", "", peak)))
if (nzchar(failed)) told$failed <- failed
jsonlite::write_json(told, file.path(out, "run.json"), auto_unbox = TRUE, digits = NA)
