"""Put the page together: one self-contained HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from multivi_nf import __version__
from multivi_nf.export.h5ad import MOST_CELLS
from multivi_nf.io.files import written_whole
from multivi_nf.io.tables import write_table
from multivi_nf.report import words
from multivi_nf.report.addresses import has_explorer
from multivi_nf.report.environment import environment as pages
from multivi_nf.report.environment import template
from multivi_nf.report.gather import Results, read_results
from multivi_nf.report.markers import markers
from multivi_nf.report.methods import methods_text
from multivi_nf.report.multiqc import write_multiqc
from multivi_nf.report.sections import cells, contrasts, maps, model, regulation
from multivi_nf.report.terms import explained, term
from multivi_nf.report.verdict import Finding, verdict, verdict_table


def write_report(outdir: Path, output: Path) -> None:
    """Write the page of one run.

    Parameters
    ----------
    outdir
        The run's results (docs/output.md); parts that are missing are left out of the page and named there.
    output
        The HTML file. Beside it, `verdict.tsv` says the same as its first section, and `multiqc/` gets tables for
        MultiQC.
    """
    results = read_results(outdir)
    findings = verdict(results)
    page = _page(_environment().get_template("report.html.j2"), results, findings)
    with written_whole(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_table(verdict_table(findings), output.parent / "verdict.tsv")
    write_multiqc(results, findings, output.parent / "multiqc")


def _environment() -> jinja2.Environment:
    environment = pages()
    environment.filters |= {
        "number": words.number,
        "duration": words.duration,
        "size": words.size,
        "term": term,
        "sentence": words.sentence,
        "begun": words.begun,
        "options": words.options,
    }
    return environment


def _leaves_out_h5ad(results: Results) -> bool:
    """Tell whether a run of so many cells writes no h5ad/ because nobody asked for it."""
    return bool(results.parameters) and results.parameters.get("h5ad") is None and len(results.cells) > MOST_CELLS


def _page(page: jinja2.Template, results: Results, findings: list[Finding]) -> str:
    obs = results.cells
    return page.render(
        version=__version__,
        nextflow=results.versions.get("Workflow", {}).get("Nextflow"),
        made={key: results.made.get(key) for key in ("started", "user")},
        no_h5ad=MOST_CELLS if _leaves_out_h5ad(results) else 0,
        findings=findings,
        title=results.parameters.get("title") or "multivi-nf",
        style=Markup(template("style.css")),
        script=Markup(template("report.js")),
        explorer=has_explorer(results),
        NAMES=contrasts.NAMES,
        WORDS=regulation.WORDS,
        n_cells=len(obs),
        n_samples=obs["sample"].nunique() if "sample" in obs else 0,
        features=results.features,
        by_modality=obs["modality"].astype(str).value_counts().to_dict() if "modality" in obs else {},
        n_clusters=obs["cluster"].nunique() if "cluster" in obs else 0,
        samples=cells.samples(results),
        losses=cells.losses(results),
        partial=cells.partial(results),
        overlap=cells.overlap(results),
        told=cells.told(results),
        checks=cells.checks(results),
        measures=explained(list(dict.fromkeys(c for entry in results.qc for c in entry.barcodes))),
        distributions=cells.distributions(results),
        fragments=cells.fragments(results),
        training=model.training(results),
        umaps=maps.umaps(results),
        composition=maps.composition(results),
        markers=markers(results),
        contrasts=contrasts.contrasts(results),
        regulation=regulation.regulation(results),
        calibration=model.calibration(results),
        evaluation=results.evaluation,
        controls=[] if results.controls is None else results.controls.to_dict("records"),
        parameters=results.parameters,
        versions=results.versions,
        resources=model.costs(results),
        methods=methods_text(results),
    )
