"""One page with all cells that a browser opens from the file system: search, lasso, two views, no network."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from markupsafe import Markup

from multivi_nf.export.markers import imputed_runs
from multivi_nf.export.normalise import add_up, normalised_runs
from multivi_nf.io.files import written_whole
from multivi_nf.io.hdf5 import reading
from multivi_nf.io.limits import object_in
from multivi_nf.io.records import as_json, left_out
from multivi_nf.io.stores import open_store
from multivi_nf.palette import colours_of, natural
from multivi_nf.report.environment import environment, template

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

MOST_CELLS = 1_000_000
MOST_CATEGORIES = 254
MISSING = 255
"""Code of a cell that has no value or in which a modality was not measured."""
VARIABLE = 2_000
LINKED = 200
"""Peak-gene links of lowest FDR whose gene and peak come before other genes and peaks."""
HIDDEN_COLUMNS = ("has_rna", "has_atac", "has_protein")
"""Said by `modality` already."""


@dataclass(frozen=True, kw_only=True)
class Category:
    """A column of obs with few values."""

    id: str
    name: str
    group: str = "obs"
    kind: str = "category"
    categories: list[str]
    colours: list[str]
    blob: str = left_out("")


@dataclass(frozen=True, kw_only=True)
class Number:
    """A column of obs with numbers, drawn from `low` to `high`."""

    id: str
    name: str
    group: str = "obs"
    kind: str = "number"
    low: float
    high: float
    unit: str = ""
    about: str
    blob: str = left_out("")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A gene, peak or protein as measured or as imputed; `gene`: a peak's nearest."""

    kind: str = "feature"
    id: str
    name: str
    gene: str = left_out("")
    unit: str
    group: str
    low: float = 0.0
    high: float = 0.0
    about: str = ""
    blob: str = left_out("")


@dataclass(frozen=True)
class Beside:
    """What the page shows beside what was measured.

    Attributes
    ----------
    imputed
        Modality to store of `impute`.
    markers
        Modality to the table of :func:`multivi_nf.export.markers.markers`.
    links
        Significant ones, best first: `gene`, `peak`, `distance`, `correlation`
        (:func:`multivi_nf.regulation.find_links.read_called`). The page leads from a gene to its peaks, beside it, and
        back.
    """

    imputed: dict[str, Path]
    markers: dict[str, pd.DataFrame]
    links: pd.DataFrame | None = None


@dataclass
class Page:
    """What is put into the page: parts as base64 text, and what can be coloured by."""

    budget: float
    blobs: list[tuple[str, str]] = field(default_factory=list)
    items: list[Category | Number | Feature] = field(default_factory=list)
    size: int = 0

    def add(self, data: bytes, item: Category | Number | Feature) -> bool:
        """Add one part if the budget still allows it; only features may be left out."""
        text = _packed(data)
        size = len(text) + len(json.dumps(as_json(item)))
        if isinstance(item, Feature) and self.size + size > self.budget:
            return False
        name = f"b{len(self.blobs)}"
        self.blobs.append((name, text))
        self.size += size
        self.items.append(replace(item, blob=name))
        return True


def write_explorer(
    mosaic: MuData, beside: Beside, output: Path, *, size: float = 25, title: str = "multivi-nf"
) -> tuple[int, int]:
    """Write the page.

    Parameters
    ----------
    mosaic
        `multivi.h5mu`, after :func:`multivi_nf.export.modalities.fill_modalities`.
    beside
        Imputed values, markers, links.
    output
        The HTML file.
    size
        Budget in MB (10⁶ bytes) of the page. Map, names and columns always go in; then features until it is full: all
        proteins, genes and peaks of the first links, markers by rank, variable genes; each as measured and as imputed.
    title
        Heading.

    Returns
    -------
    Numbers of cells and of features in the page.
    """
    rows = _sampled(mosaic.n_obs)
    page = Page(budget=size * 1e6)
    names = mosaic.obs_names.astype(str)[rows]
    places = scaled(np.asarray(mosaic.obsm["X_umap"])[rows])
    page.blobs += [("xy", _packed(places.tobytes())), ("cells", _packed("\n".join(names).encode()))]
    page.size = sum(len(text) for _, text in page.blobs)
    for column in mosaic.obs.columns:
        _add_column(page, str(column), mosaic.obs[column].iloc[rows])
    links = _known_links(beside.links, mosaic)
    wanted = _wanted(mosaic, beside.markers, links, most=int(4 * page.budget / max(len(rows), 1)) + 50)
    full = _add_features(page, mosaic, beside.imputed, wanted, rows)
    n_features = len({(item.group.split(" ")[0], item.id) for item in page.items if isinstance(item, Feature)})
    scope = f"{n_features:,} features" + (f", as many as fit into {size:g} MB (--explorer_size)" if full else "")
    if len(rows) < mosaic.n_obs:
        scope += f"; a random {len(rows):,} of {mosaic.n_obs:,} cells"
    meta = {
        "n": len(rows),
        "n_features": n_features,
        "items": [as_json(item) for item in page.items],
        "links": _shown_links(page, links),
    }
    html = (
        environment()
        .get_template("explorer.html.j2")
        .render(
            title=title,
            lead=f"{len(rows):,} cells by UMAP of the joint latent space.",
            scope=scope[0].upper() + scope[1:] + ".",
            blobs=page.blobs,
            meta=_script_json(meta),
            style=Markup(template("explorer.css")),
            script=Markup(template("explorer.js")),
        )
    )
    with written_whole(output) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return len(rows), n_features


def _script_json(value: object) -> Markup:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode()


def _sampled(n: int) -> np.ndarray:
    if n <= MOST_CELLS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, MOST_CELLS, replace=False))


def scaled(umap: np.ndarray) -> np.ndarray:
    """Coordinates as little-endian uint16 pairs, both axes on one scale, y downwards as on a screen.

    A map of 65,536 steps a side is finer than any screen.
    """
    umap = np.nan_to_num(umap.astype(np.float64))
    low, high = umap.min(axis=0), umap.max(axis=0)
    extent = max(float((high - low).max()), 1e-9)
    unit = (umap - (low + high) / 2) / extent + 0.5
    unit[:, 1] = 1 - unit[:, 1]
    return np.round(np.clip(unit, 0, 1) * 65535).astype("<u2")


def quantised(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as codes 0 (low and below) to 254 (high and above); 255 where there is none."""
    share = (np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-12)
    codes = np.round(254 * np.clip(np.nan_to_num(share), 0, 1)).astype(np.uint8)
    codes[~np.isfinite(values)] = MISSING
    return codes


def _add_column(page: Page, name: str, values: pd.Series) -> None:
    if isinstance(values.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(values.dtype):
        if name in HIDDEN_COLUMNS:
            return
        if not isinstance(values.dtype, pd.CategoricalDtype):
            values = values.map({True: "yes", False: "no"}).astype(pd.CategoricalDtype(["no", "yes"]))
        names = [str(value) for value in values.cat.categories]
        if not names or len(names) > MOST_CATEGORIES:
            return
        codes = np.where(values.cat.codes < 0, MISSING, values.cat.codes).astype(np.uint8)
        of_name = colours_of(sorted(names, key=natural))
        colours = [of_name[n] for n in names]
        page.add(codes.tobytes(), Category(id=name, name=name, categories=names, colours=colours))
    elif pd.api.types.is_numeric_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        finite = numbers[np.isfinite(numbers)]
        if not len(finite):
            return
        low, high = (float(q) for q in np.quantile(finite, [0.01, 0.99]))
        if high <= low:
            low, high = float(finite.min()), float(finite.max())
        about = "colours from the 1st to the 99th percentile" if len(finite) > 100 else ""
        codes = quantised(numbers, low, high)
        page.add(codes.tobytes(), Number(id=name, name=name, low=low, high=high, about=about))


def _known_links(links: pd.DataFrame | None, mosaic: MuData) -> pd.DataFrame:
    """Links whose gene and peak the mosaic has, in the order of the table; no rows where there is none."""
    if links is None or not {"rna", "atac"} <= set(mosaic.mod):
        return pd.DataFrame(columns=["gene", "peak", "distance", "correlation"])
    return links[links["gene"].isin(mosaic.mod["rna"].var_names) & links["peak"].isin(mosaic.mod["atac"].var_names)]


def _shown_links(page: Page, links: pd.DataFrame) -> list[list[object]]:
    """Links of which both ends are in the page: gene, peak, bp between them, correlation."""
    held = {(item.group, item.id) for item in page.items}
    rows = zip(links["gene"], links["peak"], links["distance"], links["correlation"])
    return [
        [gene, peak, int(distance), round(float(r), 3)]
        for gene, peak, distance, r in rows
        if ("rna", gene) in held and ("atac", peak) in held
    ]


def _wanted(mosaic: MuData, markers: dict[str, pd.DataFrame], links: pd.DataFrame, most: int) -> list[tuple[str, int]]:
    """Features (modality, place) in the order in which they should get into the page."""
    order: list[tuple[str, int]] = []
    if "protein" in mosaic.mod:
        order += [("protein", k) for k in range(mosaic.mod["protein"].n_vars)]
    place = {name: mosaic.mod[name].var_names for name in mosaic.mod}
    for gene, peak in zip(links["gene"].head(LINKED), links["peak"].head(LINKED)):
        order += [("rna", place["rna"].get_loc(gene)), ("atac", place["atac"].get_loc(peak))]
    ranked = [table.assign(modality=name) for name, table in markers.items() if len(table) and name != "protein"]
    if ranked:
        best = pd.concat(ranked).sort_values("rank", kind="stable").drop_duplicates(["modality", "feature"])
        order += [(row.modality, place[row.modality].get_loc(row.feature)) for row in best.itertuples()]
    if "rna" in mosaic.mod:
        data = mosaic.mod["rna"]
        mean, squares = np.zeros((2, 1, data.n_vars), np.float32)
        share = np.float32(1 / max(data.n_obs, 1))
        for _, values in normalised_runs(data, "rna"):
            for total, power in ((mean, 1), (squares, 2)):
                part = values.copy()
                part.data = part.data**power * share
                add_up(total, np.zeros(part.shape[0], int), part)
        spread = squares[0] - mean[0] ** 2
        order += [("rna", int(k)) for k in np.argsort(-spread, kind="stable")[:VARIABLE]]
    return list(dict.fromkeys(order))[:most]


def _add_features(
    page: Page, mosaic: MuData, imputed: dict[str, Path], wanted: list[tuple[str, int]], rows: np.ndarray
) -> bool:
    """Add features until the page is full; True if some had to stay out."""
    observed, guessed = {}, {}
    for modality in mosaic.mod:
        places = [k for m, k in wanted if m == modality]
        observed[modality] = _observed(mosaic, modality, places, rows)
        if modality in imputed and places:
            guessed[modality] = _imputed(mosaic, imputed[modality], modality, places, rows)
    for modality, place in wanted:
        var = mosaic.mod[modality].var
        feature = str(var.index[place])
        symbol = str(var["symbol"].iloc[place]) if "symbol" in var else feature
        item = Feature(
            id=feature,
            name=symbol if symbol not in ("", "nan") else feature,
            gene=str(var["nearest_gene"].iloc[place] or "") if "nearest_gene" in var else "",
            unit="ln(1 + normalised)",
            group=modality,
        )
        if not _add_feature(page, observed[modality][place], item):
            return True
        values = guessed.get(modality, {}).get(place)
        if values is None:
            continue
        unit = imputed_unit(modality, imputed[modality])
        if not _add_feature(page, values, replace(item, unit=unit, group=f"{modality} imputed")):
            return True
    return False


def imputed_unit(modality: str, store: Path) -> str:
    """What the page says of a store's values: those of atac stand as they are, in the scale that the store names."""
    if modality != "atac":
        return "ln(1 + imputed)"
    import anndata as ad

    group = open_store(store)
    with reading(store):
        noted = ad.io.read_elem(group["uns/multivi_nf"]) if "uns/multivi_nf" in group else "{}"
    scale = str(object_in(str(noted), f"{store}, uns['multivi_nf'],").get("scale", ""))
    return "expected fragments" if scale.startswith("expected fragments") else "probability open"


def _add_feature(page: Page, values: np.ndarray, item: Feature) -> bool:
    finite = values[np.isfinite(values)]
    high = float(finite.max()) if len(finite) else 0.0
    return page.add(quantised(values, 0.0, high).tobytes(), replace(item, high=round(high, 4)))


def _observed(mosaic: MuData, modality: str, places: list[int], rows: np.ndarray) -> dict[int, np.ndarray]:
    """Normalised values of features for the cells of the page; NaN where the modality was not measured."""
    data = mosaic.mod[modality]
    found = np.full((len(places), len(rows)), np.nan, dtype=np.float32)
    if not places:
        return {}
    at = mosaic.obs_names[rows].get_indexer(data.obs_names)
    for run, values in normalised_runs(data, modality):
        inside = at[run] >= 0
        found[:, at[run][inside]] = values[inside][:, places].toarray().T
    return dict(zip(places, found))


def _imputed(mosaic: MuData, store: Path, modality: str, places: list[int], rows: np.ndarray) -> dict[int, np.ndarray]:
    """Posterior means of features of the store, ln(1 + x) but for atac."""
    features = mosaic.mod[modality].var_names
    columns, runs = imputed_runs(store, features)
    which = {place: k for k, place in enumerate(columns.tolist()) if place in set(places)}
    found = {place: np.full(len(rows), np.nan, dtype=np.float32) for place in which}
    cells = pd.Index(mosaic.obs_names[rows])
    for names, _, values in runs():
        at = cells.get_indexer(names)
        for place, k in which.items():
            found[place][at[at >= 0]] = values[at >= 0, k]
    return {place: values if modality == "atac" else np.log1p(values) for place, values in found.items()}
