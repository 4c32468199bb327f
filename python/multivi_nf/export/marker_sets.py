"""Names for clusters from lists of marker genes, where the lists say more than random ones."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.export.normalise import add_up, normalised_runs
from multivi_nf.io.limits import read_bytes
from multivi_nf.io.text import decoded

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

COLUMN = "cell_type_by_markers"
PERMUTATIONS = 1000
LEVEL = 0.05
BINS, BIN = 20, 100
"""At most so many bins of abundance, each of at least so many genes, so that markers do not make up a bin."""
SHRUNK = 0.75
"""Quantile of the genes' spread between clusters that is added to each gene's own, or noise would weigh as much as a
marker (Tusher et al., PNAS 2001, the fudge factor of SAM)."""
_SIGNS = {"+": 1, "1": 1, "+1": 1, "": 1, "-": -1, "-1": -1}


def read_marker_sets(path: Path) -> pd.DataFrame:
    """Read `type`, `gene`, `sign` (+ or -; + where absent), separated by tab, comma or semicolon.

    Raises
    ------
    InputError
        No such file, columns missing, or a sign that is none, naming the line.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist", "it names the markers of each cell type", "give a path that exists")
    text = decoded(read_bytes(path), path)
    head = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=head.count)
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    names = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"type", "gene"} <= set(names):
        raise InputError(
            f"{path} has the columns {', '.join(names) or 'none'}",
            "which gene marks which cell type cannot be read",
            "begin it with a line `type,gene,sign` (sign: + or -)",
        )
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(field.strip() for field in row):
            continue
        fields = dict(zip(names, (field.strip() for field in row)))
        sign = fields.get("sign", "")
        if sign not in _SIGNS or not fields.get("type") or not fields.get("gene"):
            raise InputError(
                f"{path}, line {number}: {delimiter.join(row)!r}",
                "every line names a type, a gene, and whether it is high (+) or low (-) in the type",
                "write for example `B cell,MS4A1,+`",
            )
        found.append((fields["type"], fields["gene"], _SIGNS[sign]))
    if not found:
        raise InputError(f"{path} names no marker", "no cluster could be named", "give one marker a line")
    sets = pd.DataFrame(found, columns=["type", "gene", "sign"]).drop_duplicates()
    both = sets[sets.duplicated(["type", "gene"])]
    if len(both):
        raise InputError(
            f"{path}: {both['gene'].iloc[0]} stands as high (+) and as low (-) in {both['type'].iloc[0]}",
            "it cannot mark the type by both",
            "keep one of the two lines",
        )
    return sets


def told_unknown(mosaic: MuData, sets: pd.DataFrame) -> str:
    """Say which genes the mosaic lacks, and which types have none left; "" where all are there."""
    lost = sets[_positions(mosaic.mod["rna"], sets["gene"]) < 0]
    if lost.empty:
        return ""
    genes, types = lost["gene"].unique(), sorted(set(lost["type"]) - set(sets["type"].drop(lost.index)))
    shown, more = ", ".join(genes[:5]), ", ..." if len(genes) > 5 else ""
    none = f"; no cluster can be called {', '.join(types)}, none of whose genes is there" if types else ""
    return f"{len(genes)} of {sets['gene'].nunique()} marker genes are not in the mosaic ({shown}{more}){none}"


def name_clusters(mosaic: MuData, sets: pd.DataFrame, seed: int = 0, rna: AnnData | None = None) -> pd.DataFrame:
    """Score every type in every cluster and write the best one that beats chance to `obs["cell_type_by_markers"]`.

    The score is the mean of sign × z over the type's genes, z being a gene's mean log expression in the cluster less
    that of all clusters, by its spread between clusters. It is compared with 1,000 sets of as many genes with the same
    signs, drawn from genes of like abundance: `score` is the distance from their mean in their standard deviations. The
    best type stands if at most 5 % of the draws have, over all types, as large a best score, so that choosing among
    types is paid for. `rna`: where the counts are, if the mosaic holds tables alone.

    Returns
    -------
    One row a cluster: `cluster`, `cell_type` (missing where nothing beats chance), `best`, `score`, `p`.

    Raises
    ------
    InputError
        No RNA, fewer than two clusters with RNA, or no gene of the file in the mosaic.
    """
    if "rna" not in mosaic.mod:
        raise InputError("the mosaic holds no RNA", "marker genes are looked up in it", "leave --marker_sets out")
    data, clusters = mosaic.mod["rna"] if rna is None else rna, mosaic.obs["cluster"].cat.categories
    means = _cluster_means(mosaic, data)
    known = np.isfinite(means[:, 0])
    genes = _positions(data, sets["gene"])
    if (genes < 0).all():
        raise InputError(
            f"none of the {len(sets)} marker genes is in the mosaic (first: {sets['gene'].iloc[0]!r})",
            "no cluster could be named",
            "give symbols or ids as in features.tsv of the model",
        )
    if known.sum() < 2:
        raise InputError(
            "fewer than two clusters have cells with RNA",
            "a cluster is named by what sets it apart from the others",
            "leave --marker_sets out, or raise --cluster_resolution",
        )
    z = means[known] - means[known].mean(axis=0)
    spread = z.std(axis=0)
    z /= np.maximum(spread + np.quantile(spread, SHRUNK), 1e-9)
    bins = _bins(means[known].mean(axis=0))
    types, score, null = _scores(z, sets, genes, bins, np.random.default_rng(seed))
    best = score.argmax(axis=0)
    p = (1 + (null.max(axis=0) >= score.max(axis=0)).sum(axis=0)) / (1 + PERMUTATIONS)
    table = pd.DataFrame({"cluster": clusters, "cell_type": None, "best": None, "score": np.nan, "p": np.nan})
    table.loc[known, "best"] = np.array(types, dtype=object)[best]
    table.loc[known, "score"] = score.max(axis=0)
    table.loc[known, "p"] = p
    stands = known.copy()
    stands[known] = p <= LEVEL
    table.loc[stands, "cell_type"] = table.loc[stands, "best"]
    of_cluster = dict(zip(table["cluster"], table["cell_type"]))
    named = mosaic.obs["cluster"].astype(object).map(of_cluster)
    mosaic.obs[COLUMN] = pd.Categorical(named, categories=sorted(table["cell_type"].dropna().unique()))
    return table


def _cluster_means(mosaic: MuData, data: AnnData) -> np.ndarray:
    codes = pd.Series(mosaic.obs["cluster"].cat.codes.to_numpy(), index=mosaic.obs_names).reindex(data.obs_names)
    total = np.zeros((len(mosaic.obs["cluster"].cat.categories), data.n_vars))
    for at, values in normalised_runs(data, "rna"):
        add_up(total, codes.to_numpy()[at], values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / np.bincount(codes, minlength=len(total))[:, None]


def _positions(data: AnnData, genes: pd.Series) -> np.ndarray:
    """Column of each gene, by id or by symbol, also in other case; -1 where there is none."""
    names = data.var_names.astype(str)
    symbols = data.var["symbol"].astype(str) if "symbol" in data.var else names
    place: dict[str, int] = {}
    for words in (names, symbols, symbols.str.upper()):
        for k, word in enumerate(words):
            place.setdefault(word, k)
    return np.array([place.get(gene, place.get(gene.upper(), -1)) for gene in genes])


def _bins(abundance: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(abundance, kind="stable")
    parts = np.array_split(order, min(BINS, max(1, len(order) // BIN)))
    of_gene: list[np.ndarray] = [parts[0]] * len(abundance)
    for part in parts:
        for gene in part:
            of_gene[gene] = part
    return of_gene


def _scores(
    z: np.ndarray, sets: pd.DataFrame, genes: np.ndarray, bins: list[np.ndarray], rng: np.random.Generator
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Types, their standardised scores (types, clusters), and those of random sets (types, draws, clusters)."""
    types, score, null = [], [], []
    for name, rows in sets.assign(place=genes)[genes >= 0].groupby("type", sort=False):
        place, sign = rows["place"].to_numpy(), rows["sign"].to_numpy(float)
        own = (z[:, place] * sign).mean(axis=1)
        draws = np.zeros((PERMUTATIONS, len(z)))
        for gene, direction in zip(place, sign):
            draws += direction * z[:, rng.choice(bins[gene], PERMUTATIONS)].T / len(place)
        mean, sd = draws.mean(axis=0), np.maximum(draws.std(axis=0), 1e-9)
        types.append(name)
        score.append((own - mean) / sd)
        null.append((draws - mean) / sd)
    return types, np.array(score), np.array(null)
