# read_multivi("results/h5ad/rna.h5ad") gives a Seurat object: counts, metadata, UMAP, latent space. Needs rhdf5, Matrix, Seurat.
read_multivi <- function(path) {
  h5 <- function(name) suppressWarnings(rhdf5::h5read(path, name, bit64conversion = "double"))
  index <- function(table) as.character(h5(paste0(table, "/", rhdf5::h5readAttributes(path, table)[["_index"]])))
  plain <- function(x) if (is.factor(x)) as.character(x) == "TRUE" else as.vector(x); column <- function(x) if (!is.list(x)) plain(x) else
    if ("codes" %in% names(x)) factor(x$categories[ifelse(x$codes < 0, NA, x$codes + 1)], x$categories) else ifelse(plain(x$mask), NA, plain(x$values))
  cells <- index("obs"); features <- index("var"); counts <- h5("layers/counts")
  counts <- Matrix::sparseMatrix(i = counts$indices, p = counts$indptr, x = as.numeric(counts$data), index1 = FALSE, dims = c(length(features), length(cells)), dimnames = list(features, cells))
  obs <- h5("obs"); obs <- obs[setdiff(names(obs), c("_index", "__categories"))]
  seurat <- Seurat::CreateSeuratObject(counts, meta.data = data.frame(lapply(obs, column), row.names = cells, check.names = FALSE))
  embedding <- function(name, key) { x <- t(h5(paste0("obsm/", name))); Seurat::CreateDimReducObject(matrix(x, nrow(x), dimnames = list(cells, paste0(key, seq_len(ncol(x))))), key = key, assay = "RNA") }
  seurat[["umap"]] <- embedding("X_umap", "UMAP_"); seurat[["multivi"]] <- embedding("X_multivi", "MULTIVI_"); Seurat::NormalizeData(seurat, verbose = FALSE)
}
