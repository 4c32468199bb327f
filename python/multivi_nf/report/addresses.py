"""Addresses in the explorer that the report's tables and maps lead to."""

from __future__ import annotations

from urllib.parse import quote

from multivi_nf.report.gather import Results


def has_explorer(results: Results) -> bool:
    """Tell whether the run writes explorer.html beside the report, so that links lead somewhere."""
    asked = results.parameters.get("explorer_size") or 0
    return (results.outdir / "explorer.html").is_file() or float(str(asked)) > 0


def of_feature(results: Results, feature: str) -> str:
    """A feature beside the clusters, "" where there is none."""
    modality = results.modality_of.get(feature)
    if modality is None or not has_explorer(results):
        return ""
    return f"explorer.html#left=obs:cluster&right={quote(modality)}:{quote(feature)}"


def of_pair(results: Results, row: dict[str, object]) -> str:
    """A gene and its linked peak beside it, "" where there is none."""
    if not ({"gene", "peak"} <= set(row) and has_explorer(results)):
        return ""
    return f"explorer.html#left=rna:{quote(str(row['gene']))}&right=atac:{quote(str(row['peak']))}"
