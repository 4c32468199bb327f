"""What a run wrote, by name: every column, entry and slot of its files, and the heading that describes them."""

from __future__ import annotations

import gzip
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import mudata
from tests.pipeline.nextflow_runs import REPOSITORY

HEADINGS = {
    r"(report|explorer)\.html": ("report.html", "explorer.html"),
    r"multiqc/.*_mqc\.tsv": ("report.html",),
    r"verdict\.tsv": ("verdict.tsv",),
    r"controls\.tsv": ("controls.tsv",),
    r"mosaic/mosaic\.h5mu": ("mosaic/mosaic.h5mu", "multivi.h5mu"),
    r"multivi\.h5mu": ("multivi.h5mu",),
    r"h5ad/\w+\.h5ad": ("h5ad/&lt;modality&gt;.h5ad", "multivi.h5mu"),
    r"(cells\.tsv\.gz|clusters\.tsv)": ("cells.tsv.gz, clusters.tsv", "multivi.h5mu"),
    r"markers/\w+\.tsv\.gz": ("markers/&lt;modality&gt;.tsv.gz",),
    r"regulation/.*": ("regulation/", "multivi.h5mu"),
    r"peaks/consensus\.bed": ("peaks/consensus.bed",),
    r"model/.*": ("model/",),
    r"manifest\.tsv": ("manifest.tsv",),
    r"imputed/.*": ("imputed/&lt;modality&gt;.zarr", "multivi.h5mu"),
    r"differential/.*\.tsv\.gz": ("differential/&lt;contrast&gt;.tsv.gz",),
    r"qc/[^/]+/(?!fragments\.tsv).*": ("qc/&lt;sample&gt;/", "multivi.h5mu"),
    r"qc/[^/]+/fragments\.tsv\.gz": (),
    r"evaluation\.json": ("evaluation.json",),
    r"pipeline_info/.*": ("pipeline_info/",),
}
"""Path under --outdir → headings of docs/output.md; none: the page on counting."""


def described(headings: tuple[str, ...]) -> set[str]:
    """All names in code spans under these headings; `x["name"]` and `["name"]` name `name`."""
    page = REPOSITORY / "docs" / ("output.md" if headings else "explanation/counting.md")
    text = page.read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    found = re.findall(r"`([^`\n]+)`", "".join(parts[heading] for heading in headings) if headings else text)
    names = set(found)
    for span in found:
        names.update(re.findall(r'\["([^"]+)"\]', span))
    shorthand = [name for name in names if re.fullmatch(r"_\w+", name)]
    names.update(name + end for name in list(names) for end in shorthand)
    names.update(f"validation_{name}" for name in list(names) if "validation_" in names)
    return names


def written(outdir: Path) -> Iterator[tuple[str, set[str]]]:
    """Every file under `outdir`, a zarr store as one, with the names in it."""
    for path in sorted(outdir.rglob("*")):
        name = path.relative_to(outdir).as_posix()
        if path.suffix == ".zarr":
            yield name, slots(ad.read_zarr(path))
        elif path.is_file() and ".zarr/" not in name:
            yield name, names_in(path)


def names_in(path: Path) -> set[str]:
    """The names that a user meets in one file."""
    if path.name.endswith((".tsv", ".tsv.gz")):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            head = next((line for line in lines if not line.startswith("#")), "")
        columns = {column.strip('"') for column in head.rstrip("\n").split("\t")}
        return {re.sub(r"^(umap|latent)_\d+$", r"\1_1", column) for column in columns if not column.isdigit()} - {""}
    if path.suffix == ".json" and path.name not in ("params.json", "sbom.cdx.json") and "vitessce" not in path.name:
        content = json.loads(path.read_text(encoding="utf-8"))
        return set(content) if isinstance(content, dict) else set()
    if path.suffix == ".h5mu":
        with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
            warnings.simplefilter("ignore")
            mosaic = mudata.read_h5mu(path)
        return set.union(
            {*mosaic.obs, *mosaic.obsm, *mosaic.obsp, *mosaic.uns} - set(mosaic.mod), *map(slots, mosaic.mod.values())
        )
    return slots(ad.read_h5ad(path)) if path.suffix == ".h5ad" else set()


def slots(data: ad.AnnData) -> set[str]:
    """Names of an AnnData's columns, layers and matrices."""
    return {*data.obs, *data.var, *data.obsm, *data.obsp, *data.uns, *data.layers}


def undescribed(outdir: Path) -> list[str]:
    """Files without a heading, and names that the headings of their file do not tell."""
    missing = []
    for name, names in written(outdir):
        headings = [found for pattern, found in HEADINGS.items() if re.fullmatch(pattern, name)]
        if not headings:
            missing.append(name)
            continue
        told = described(headings[0])
        missing += [f"{name}: {one}" for one in sorted(names - told)]
    return missing
