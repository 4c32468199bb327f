"""The page says what the files say, escapes what users wrote, and needs nothing from a network."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from multivi_nf.commands import exit_code
from multivi_nf.errors import InputError
from multivi_nf.io.h5mu import read_h5mu
from multivi_nf.palette import MISSING, colours_of
from multivi_nf.report import facts as told_facts
from multivi_nf.report import figures, write_report
from multivi_nf.report.gather import Imputed, read_contrast, read_counts, read_results, read_versions
from multivi_nf.report.methods import methods_text
from multivi_nf.report.sections.contrasts import contrasts
from multivi_nf.report.verdict import verdict
from multivi_nf.report.verdict.space import kl_per_dimension
from multivi_nf.report.words import options, sentence


def findings(folder: Path) -> dict[str, tuple[str, str]]:
    return {f.question: (f.level, f.answer) for f in verdict(read_results(folder))}


def test_verdict_reads_pairs_latent_calibration_support_and_training(results_folder):
    found = findings(results_folder)
    assert found["Enough paired cells?"] == (
        "poor",
        "20 cells have more than one modality: the modalities are held together by the prior alone",
    )
    assert found["Is the latent space used?"] == (
        "look",
        "3 of 4 latent dimensions carry information (mean KL > 0.05 nats)",
    )
    assert found["Are the error bars calibrated?"][0] == "look"
    assert "90.0%" in found["Are the error bars calibrated?"][1]
    assert "30.0%" in found["Do imputed cells have paired relatives?"][1]
    assert found["Did training settle?"] == (
        "good",
        "10 epochs; the weights of epoch 6 were kept, with a validation loss of 5.4",
    )
    assert "Was a GPU used?" not in found


def test_directions_that_were_not_calibrated_are_named(results_folder):
    path = results_folder / "model" / "calibration.json"
    content = json.loads(path.read_text())
    content["directions"]["atac->rna"]["coverage_after"] = [[0.95, 0.951]]
    path.write_text(json.dumps(content))
    assert findings(results_folder)["Are the error bars calibrated?"][0] == "good"
    content["directions"]["protein->rna"] = {"calibrated": False, "n_cells": 39}
    path.write_text(json.dumps(content))
    level, answer = findings(results_folder)["Are the error bars calibrated?"]
    assert level == "look" and answer.endswith("fewer than 100 held-out pairs: protein->rna")


def test_best_epoch_is_the_one_whose_weights_were_kept(results_folder):
    path = results_folder / "model" / "history.tsv"
    history = pd.read_csv(path, sep="\t")
    # lower losses of the warm-up, at less than the full weight of the KL, are not kept
    history["best"] = (history["epoch"] == 9).astype(int)
    history.to_csv(path, sep="\t", index=False)
    assert findings(results_folder)["Did training settle?"][1].startswith(
        "10 epochs; the weights of epoch 9 were kept, with a validation loss of 5.8 (the lowest of all was 5.4, at"
    )


def test_support_that_too_few_pairs_could_tell_is_not_called_good(results_folder):
    path = results_folder / "imputed" / "rna.zarr"
    imputed = ad.read_zarr(path)
    imputed.obs["support_p"] = np.nan
    imputed.obs["out_of_support"] = False
    shutil.rmtree(path)
    imputed.write_zarr(path)
    level, answer = findings(results_folder)["Do imputed cells have paired relatives?"]
    assert level == "unknown"
    assert answer.startswith("not checked for cells imputed for rna")
    # beside a modality that was checked and is fine, the other is still named
    checked = imputed.copy()
    checked.obs["support_p"] = 0.5
    checked.write_zarr(results_folder / "imputed" / "atac.zarr")
    level, answer = findings(results_folder)["Do imputed cells have paired relatives?"]
    assert level == "look"
    assert "0.0% of the cells imputed for atac" in answer and "not checked for cells imputed for rna" in answer


def test_methods_name_the_parameters_used(results_folder):
    text = methods_text(read_results(results_folder))
    assert "(n_latent 4, fusion mean)" in text and "(device cpu, seed 7)" in text


def test_kl_per_dimension_is_the_closed_form():
    mean, variance = np.array([[0.0, 1.0]]), np.array([[1.0, 0.5]])
    expected = [0.0, 0.5 * (0.5 + 1 - 1 - np.log(0.5))]
    np.testing.assert_allclose(kl_per_dimension(mean, variance), expected)


def test_page_states_the_numbers(results_folder, tmp_path):
    write_report(results_folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    text = re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    assert "60 cells of 1 sample in" in text
    assert "counts 7" in text
    assert "3 of 12 rows significant" in text
    assert "Groups share no batch" in text
    assert "1 min 02 s" in text and "1.50 GB" in text
    assert "torch" in text and "2.15.0" in text
    assert "not set" in text, "a parameter without a value is shown as such"


def test_the_verdict_is_a_table_too_and_partial_cells_are_counted(results_folder, tmp_path):
    import mudata

    mosaic = mudata.read_h5mu(results_folder / "multivi.h5mu")
    row = {"sample": "s1", "partial": 12, "partial_failed": 5, "partial_not_held": 7, "partial_dropped": 5}
    mosaic.uns["multivi_nf"] = json.dumps({"samples": [row]})
    mosaic.write(results_folder / "multivi.h5mu")
    write_report(results_folder, tmp_path / "r.html")
    told = pd.read_csv(tmp_path / "verdict.tsv", sep="\t")
    assert list(told.columns) == ["question", "level", "value", "expected", "answer", "remedy"]
    assert set(told["level"]) <= {"good", "look", "poor", "unknown"}
    page = (tmp_path / "r.html").read_text()
    assert all(question in page for question in told["question"])
    text = re.sub(r"<[^>]*>", " ", page)
    assert re.search(r"not held by the other's input: stay\s+s1\s+5\s+5\s+7", text)


def test_counts_of_some_cells_are_read_in_the_order_asked_for(results_folder):
    import mudata

    whole = mudata.read_h5mu(results_folder / "multivi.h5mu")["atac"]
    cells = whole.obs_names[[7, 3, 30, 4]]
    found = read_counts(results_folder / "multivi.h5mu", "atac", cells)
    np.testing.assert_array_equal(found.toarray(), whole[cells].X.toarray())
    assert found.dtype == whole.X.dtype


def test_counts_by_column_are_those_by_row(results_folder, tmp_path):
    import anndata as ad

    path = Path(shutil.copy(results_folder / "multivi.h5mu", tmp_path))
    by_row = read_h5mu(path)["atac"]
    cells = by_row.obs_names[[7, 3, 30, 4, 7]]
    with h5py.File(path, "r+") as file:
        del file["mod/atac/X"]
        ad.io.write_elem(file["mod/atac"], "X", by_row.X.tocsc())
    found, expected = (read_counts(one, "atac", cells) for one in (path, results_folder / "multivi.h5mu"))
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    np.testing.assert_array_equal(found.toarray(), by_row[cells[:4]].X.toarray()[[0, 1, 2, 3, 0]])


@pytest.mark.parametrize("forged", ["no values", "cells of another"])
def test_counts_that_are_no_matrix_or_of_other_cells_are_refused(results_folder, tmp_path, forged):
    """Found by hostile files: a traceback; and rows of the last cell for cells that the modality does not hold."""
    path = Path(shutil.copy(results_folder / "multivi.h5mu", tmp_path))
    cells = read_h5mu(path)["atac"].obs_names[:3] if forged == "no values" else pd.Index(["nobody"])
    if forged == "no values":
        with h5py.File(path, "r+") as file:
            del file["mod/atac/X/data"]
            file["mod/atac/X"].create_dataset("data", shape=(0,), dtype="i8")
    with pytest.raises(InputError, match="multivi.h5mu"):
        read_counts(path, "atac", cells)


def test_an_empty_contrast_is_named(results_folder, tmp_path):
    shutil.copytree(results_folder, tmp_path / "r")
    table = next((tmp_path / "r" / "differential").glob("*.tsv.gz"))
    whole = pd.read_csv(table, sep="\t")
    whole.head(0).to_csv(table.with_name("cluster_protein.tsv.gz"), sep="\t", index=False)
    write_report(tmp_path / "r", tmp_path / "r.html")
    assert "cluster_protein: not compared, since fewer than two of its groups" in (tmp_path / "r.html").read_text()


def test_groups_and_features_called_as_gaps_or_numbers_are_shown(results_folder, tmp_path):
    shutil.copytree(results_folder, tmp_path / "r")
    path = next((tmp_path / "r/differential").glob("*.tsv.gz"))
    table = pd.read_csv(path, sep="\t").head(4)
    names = ["7157", "NA", "672", "x"]
    table = table.assign(target=["NA", "10", "9", "None"], feature=names, symbol=["nan", "NA", "", "a$\\b$"])
    table.to_csv(path, sep="\t", index=False)
    read = read_contrast(path)
    assert read["feature"].tolist() == names and read["symbol"].tolist() == ["7157", "NA", "672", "a$\\b$"]
    results = read_results(tmp_path / "r")
    shown = next(one for one in contrasts(results) if path.name.startswith(f"{one.name}."))
    assert [row.cells[0] for row in shown.rows] == ["9", "10", "NA", "None"], "every group, in natural order"


def test_a_dollar_in_a_name_is_a_dollar(results_folder):
    names = pd.Series(["$\\frac$", "a$b$c"])
    drawn = figures.umap(np.array([[0.0, 1], [1, 0]]), ["#000000"] * 2, "u", "map", names)
    assert ">$\\frac$<" in drawn and ">a$b$c<" in drawn
    of = next(iter(read_results(results_folder).fragments.values()))
    assert "mathdefault" not in (figures.fragments(of, "f") or "")


def test_hostile_names_are_text(results_folder, tmp_path):
    write_report(results_folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count("<script") == 1 and "<script>alert" not in page
    assert "s&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_page_is_self_contained_and_ids_are_unique(results_folder, tmp_path):
    write_report(results_folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"|rdf:resource="[^"]*"', "", page)
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//[^\"]*", without_namespaces)
    assert "@import" not in page and "url(http" not in page

    class Ids(html.parser.HTMLParser):
        seen: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.seen += [value for key, value in attrs if key == "id"]

    parser = Ids()
    parser.seen = []
    parser.feed(page)
    assert len(parser.seen) == len(set(parser.seen))


def test_same_results_give_the_same_bytes(results_folder, tmp_path):
    write_report(results_folder, tmp_path / "a.html")
    write_report(results_folder, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_date_and_user_stand_in_one_element_and_come_from_pipeline_info(results_folder, tmp_path):
    pages = []
    for started, user in (("2026-11-30 11:05", "anna"), ("2031-01-02 03:04", "<b>eve")):
        (results_folder / "pipeline_info").mkdir(exist_ok=True)
        (results_folder / "pipeline_info" / "run.json").write_text(json.dumps({"started": started, "user": user}))
        write_report(results_folder, tmp_path / "r.html")
        pages.append((tmp_path / "r.html").read_text())
    made = [re.findall(r'<span id="made">(.*?)</span>', page) for page in pages]
    assert made == [["Run begun on 2026-11-30 11:05 by anna."], ["Run begun on 2031-01-02 03:04 by &lt;b&gt;eve."]]
    assert len({re.sub(r'<span id="made">.*?</span>', "", page) for page in pages}) == 1, "nothing else tells them"
    (results_folder / "pipeline_info" / "run.json").unlink()
    write_report(results_folder, tmp_path / "r.html")
    assert "Run begun" not in (tmp_path / "r.html").read_text()


def test_an_h5ad_that_nobody_asked_for_is_missed_aloud(results_folder, tmp_path, monkeypatch):
    params = results_folder / "pipeline_info" / "params.json"
    params.parent.mkdir(exist_ok=True)
    for asked, most, said in ((None, 3, True), (True, 3, False), (False, 3, False), (None, 50_000, False)):
        monkeypatch.setattr("multivi_nf.report.page.MOST_CELLS", most)
        params.write_text(json.dumps({"seed": 0} | ({} if asked is None else {"h5ad": asked})))
        write_report(results_folder, tmp_path / "r.html")
        assert ("No <code>h5ad/</code>: beyond 3 cells" in (tmp_path / "r.html").read_text()) == said


def test_figures_take_the_page_colour(results_folder, tmp_path):
    write_report(results_folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "currentColor" in page and "#010203" not in page


def test_only_multivi_h5mu_is_needed(results_folder, tmp_path):
    import shutil

    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(results_folder / "multivi.h5mu", bare)
    write_report(bare, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "No contrast was asked for" in page and "model/history.tsv was not found" in page


def test_no_results_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match="multivi-nf embed"):
        write_report(tmp_path, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_imputed_features_come_by_name_in_the_order_asked(results_folder):
    import anndata as ad

    path = results_folder / "imputed" / "rna.zarr"
    table = Imputed(path).means(["ENSG7", "ENSG2", "absent"])
    whole = ad.read_zarr(path)
    assert list(table.columns) == ["ENSG7", "ENSG2"]
    np.testing.assert_array_equal(table.to_numpy(), whole[:, ["ENSG7", "ENSG2"]].X)


def test_versions_file():
    assert read_versions('# c\n"A:B":\n    x: 1.0\nC:\n    y: "2"\n') == {"A:B": {"x": "1.0"}, "C": {"y": "2"}}


def test_report_never_imports_torch(results_folder, tmp_path):
    code = (
        "import sys; from multivi_nf.commands import main\n"
        f"try: main(['report', {str(results_folder)!r}, '--output', {str(tmp_path / 'r.html')!r}])\n"
        "except SystemExit as leave: assert not leave.code, leave.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_barcodes_of_fragments_are_a_step_of_their_own(results_folder):
    page = page_of(results_folder)
    assert "fragments by barcode rank" in page
    assert "barcodes of the fragments" in page and "knee 460" in page


def page_of(folder: Path) -> str:
    write_report(folder, folder / "r.html")
    return (folder / "r.html").read_text()


def test_title_terms_and_links(results_folder, tmp_path):
    path = results_folder / "pipeline_info" / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"title": "Blood & <b>", "explorer_size": 25}))
    write_report(results_folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<h1>Blood &amp; &lt;b&gt;</h1>" in page
    assert 'href="explorer.html#left=obs:cluster&amp;right=rna:ENSG0"' in page
    assert re.search(r'<abbr title="expected share of false[^"]*">fdr</abbr>', page)
    for heading in re.findall(r"<th[^>]*>(.*?)</th>", page):
        assert "_" not in re.sub(r"<[^>]*>", "", heading)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"explorer_size": 0}))
    write_report(results_folder, tmp_path / "r.html")
    assert "explorer.html#" not in (tmp_path / "r.html").read_text(), "no link that leads nowhere"


def test_no_group_is_grey_or_called_nan():
    values = pd.Series([*map(str, range(30)), None, np.nan])
    colours, legend = figures.colour_of(values)
    assert len(set(colours[:30])) == 30 and colours[30] == colours[31] == MISSING and MISSING not in colours[:30]
    assert [name for name, _, _ in legend] == [*map(str, range(30)), "no value"]
    sizes = pd.Categorical(["b"], categories=["a", "b"])
    assert figures.colour_of(pd.Series(sizes))[0] == [colours_of(["a", "b"])["b"]], "a part keeps the whole's colours"


def test_parts_of_a_warning_are_sentences():
    assert sentence({"what": "no start sites", "why": "TSSe is unknown.", "remedy": "give --gtf"}) == (
        "No start sites. TSSe is unknown. Give --gtf."
    )


def test_volcano_names_do_not_overprint():
    n = 40
    table = pd.DataFrame(
        {
            "feature": [f"g{k}" for k in range(n)],
            "effect": np.linspace(2, 1.9, n),
            "probability": 0.9999,
            "significant": [True] * n,
        }
    )
    svg = figures.volcano(table, "v")
    places = [float(y) for y in re.findall(r"<text[^>]*translate\([\d.]+ ([\d.]+)\)[^>]*>g\d+</text>", svg)]
    if not places:
        places = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>g\d+</text>', svg)]
    assert len(places) == figures.LABELS and np.diff(np.sort(places)).min() > 7
    table["effect"] *= np.where(np.arange(n) % 2, -1, 1)
    both = figures.volcano(table, "v")
    found = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>(g\d+)</text>', both)
    sides = [[(float(x), float(y)) for x, y, name in found if int(name[1:]) % 2 == odd] for odd in (0, 1)]
    assert len(sides[0]) == len(sides[1]) == figures.LABELS // 2
    assert max(x for x, _ in sides[1]) < min(x for x, _ in sides[0]), "lower ones to the left, higher to the right"
    assert all(np.diff(sorted(y for _, y in side)).min() > 7 for side in sides)


@pytest.mark.parametrize("seed", range(4))
def test_lines_of_a_volcano_meet_no_name_and_no_other_line(seed, monkeypatch):
    """Long names of peaks on both sides, of points anywhere: lines as drawn, against the boxes of the names."""
    drawn = []
    monkeypatch.setattr(figures, "svg", lambda figure, *_: drawn.append(figure) or "")
    rng = np.random.default_rng(seed)
    n = 12
    table = pd.DataFrame(
        {
            "feature": [f"chr{k}:{10**k}-{10**k + 501}" for k in range(n)],
            "effect": rng.normal(0, 1, n),
            "probability": 1 - 10.0 ** -rng.uniform(1, 6, n),
            "significant": [True] * n,
        }
    )
    figures.volcano(table, "v")
    axes = drawn[0].axes[0]
    drawn[0].canvas.draw()
    names = [text for text in axes.texts if text.get_text()]
    assert len(names) == figures.LABELS
    boxes = [Text.get_window_extent(name) for name in names]
    lines = [name.arrow_patch.get_path().transformed(name.arrow_patch.get_transform()) for name in names]
    for k, line in enumerate(lines):
        for other in range(len(names)):
            if other != k:
                assert not line.intersects_bbox(boxes[other], filled=True), (names[k], names[other])
                assert not line.intersects_path(lines[other], filled=False), (names[k], names[other])


def test_markers_are_dots_of_measured_and_imputed(results_folder, tmp_path):
    from multivi_nf.report.markers import imputed_profile, marker_features, observed_profile

    write_report(results_folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    section = page[page.index('id="imputation"') : page.index('id="contrasts"')]
    assert "40 cells measured, 20 imputed" in section and "imputed, not measured" in section

    results = read_results(results_folder)
    rna = read_h5mu(results_folder / "multivi.h5mu").mod["rna"]
    profile = observed_profile(rna, ["ENSG3", "ENSG0"], results.cells["cluster"])
    own = (results.cells["cluster"].reindex(rna.obs_names) == "1").to_numpy()
    counts = rna.X.toarray()[own][:, [3, 0]]
    np.testing.assert_allclose(profile.mean.loc["1"], np.log1p(counts).mean(0))
    np.testing.assert_allclose(profile.share.loc["1"], (counts > 0).mean(0))
    values = pd.DataFrame({"a": [0.0, 1.0, 2.0, 5.0]})
    hidden = imputed_profile(values, np.array(["x", "x", "y", "y"]))
    assert hidden.mean["a"].tolist() == [0.5, 3.5] and hidden.share["a"].tolist() == [0.0, 0.5]

    # a contrast of clusters gives the features, in the order of clusters; one of other groups does not
    clusters = pd.DataFrame({"target": ["10", "2", "2"], "feature": ["ENSG5", "ENSG6", "ENSG7"]})
    clusters = clusters.assign(effect=[1.0, 1.0, -1.0], probability=0.9)
    results.cells["cluster"] = results.cells["cluster"].astype(str).replace({"0": "10", "1": "2"})
    results.contrasts = {"rna_c": clusters.replace({"10": "B"}), "cluster": clusters}
    assert marker_features(results, "rna", rna.var_names, None) == ["ENSG6", "ENSG5"]
    assert marker_features(results, "rna", rna.var_names, pd.Index(["ENSG5"])) == ["ENSG5"]


def test_parts_of_regulation_are_linked_or_say_what_they_lack(results_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(results_folder, folder)
    (folder / "regulation").mkdir()
    table = [{"group": "T <cells>", "file": "tracks/T_1.bw", "cells": 4}, {"group": "B", "file": "", "cells": 0}]
    for facts in (
        {"part": "gene_activity", "done": False, "what": "there is no annotation", "why": "x", "remedy": "give --gtf"},
        {"part": "tracks", "done": True, "told": "Cut sites.", "files": ["tracks/T_1.bw", "all.txt"], "table": table},
    ):
        (folder / "regulation" / f"{facts['part']}.json").write_text(json.dumps(facts))
    write_report(folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    section = page[page.index('id="regulation"') : page.index('id="run"')]
    assert section.index("Tracks") < section.index("Gene activity")
    assert section.count('href="regulation/tracks/T_1.bw"') == 1 and 'href="regulation/all.txt"' in section
    assert "T &lt;cells&gt;" in section and "Not made. There is no annotation. X. Give --gtf." in section
    write_report(results_folder, tmp_path / "without.html")  # no part of it, no section
    assert 'id="regulation"' not in (tmp_path / "without.html").read_text()


def test_a_link_leads_to_gene_and_peak_side_by_side(results_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(results_folder, folder)
    (folder / "regulation").mkdir()
    row = {"gene": "ENSG1", "symbol": "MS4A1", "peak": "chr1:3-4", "distance": -1200, "fdr": 0.02, "imputed": None}
    facts = {"part": "links", "done": True, "told": "One link.", "table": [row], "rows": "The first significant links"}
    (folder / "regulation/links.json").write_text(json.dumps(facts))
    (folder / "explorer.html").touch()
    write_report(folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    section = page[page.index('id="regulation"') : page.index('id="run"')]
    assert 'href="explorer.html#left=rna:ENSG1&amp;right=atac:chr1%3A3-4"' in section
    assert "The first significant links (1)" in section and ">MS4A1<" in section
    heads = re.findall(r"<th[^>]*>(.*?)</th>", section)
    assert [re.sub("<.*?>", "", head) for head in heads] == ["symbol", "peak", "distance", "fdr"], "no empty column"
    (folder / "explorer.html").unlink()
    (folder / "pipeline_info/params.json").write_text('{"explorer_size": 0}')
    write_report(folder, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "explorer.html" not in page and ">chr1:3-4<" in page


def test_a_page_with_a_title_of_its_own_may_be_written_again(results_folder, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(results_folder, folder)
    parameters = json.loads((folder / "pipeline_info/params.json").read_text())
    (folder / "pipeline_info/params.json").write_text(json.dumps(parameters | {"title": "Tonsils, spring"}))
    for _ in range(2):
        assert exit_code(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 0, capsys.readouterr().err
    assert "<title>Tonsils, spring: report</title>" in (tmp_path / "page.html").read_text()
    (tmp_path / "page.html").write_text("<!doctype html><title>somebody's</title>")
    assert exit_code(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 2


def test_terms_in_a_sentence_are_explained_and_options_hold_together():
    said = options("mean KL of <b> and held-out pairs; try --max_epochs, unsupported")
    assert said.count("<abbr title=") == 2 and ">mean KL</abbr> of &lt;b&gt; and" in said
    assert '<span class="option">--max_epochs</span>' in said and "unsupported" in said


def test_percentages_and_directions_are_written_one_way_and_hold_together():
    said = options("95 % intervals cover 8.9% in atac->rna (rna+atac->protein)")
    assert said.replace("\N{NO-BREAK SPACE}", "_") == "95_% intervals cover 8.9_% in atac_→_rna (rna+atac_→_protein)"


def changed(path: Path, change) -> Path:
    change(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False)
    return path


TABLES = {
    "contrast, header twice": (
        "differential/*.tsv.gz",
        lambda table: pd.concat([table.columns.to_frame().T, table]),
        r"column '.*' holds text",
    ),
    "history of words": ("model/history.tsv", lambda table: table.assign(train_loss="low"), "'train_loss' holds text"),
    "history without losses": ("model/history.tsv", lambda table: table[["epoch"]], "no column train_loss"),
    "split of one column": ("model/split.tsv", lambda table: table[["cell"]], "no column split"),
    "QC of other columns": ("qc/*/*.tsv.gz", lambda table: table.rename(columns={"removed_by": "x"}), "no column rem"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_another_kind_are_refused_by_name(results_folder, tmp_path, name):
    """As whoever sends a folder of results may have changed them; every one of the kind is tried."""
    (results_folder / "model/split.tsv").write_text("cell\tsplit\ns:a\ttrain\n")
    pattern, change, said = TABLES[name]
    found = sorted(results_folder.glob(pattern))
    assert found, pattern
    for path in found:
        whole = path.read_bytes()
        changed(path, change)
        with pytest.raises(InputError, match=f"{path.name} is no table of this step: .*{said}"):
            write_report(results_folder, tmp_path / "r.html")
        path.write_bytes(whole)
    write_report(results_folder, tmp_path / "r.html")


def test_a_pipe_among_the_results_is_refused_and_not_waited_for(results_folder, tmp_path):
    path = next(results_folder.glob("differential/*.tsv.gz"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="neither a file nor a folder but a pipe"):
        write_report(results_folder, tmp_path / "r.html")


@pytest.mark.parametrize("kind", [one for one in vars(told_facts).values() if dataclasses.is_dataclass(one)])
def test_a_fact_of_another_kind_is_none(kind):
    """Whoever wrote a JSON file of the results may have put anything anywhere: a page shows what fits, or a dash."""
    hints = typing.get_type_hints(kind)
    others = {str: [1, ["a"], {}], bool: ["x", 1, []], int: ["x", True, ["a", 1], {}], float: ["x", True, [], {"a": 1}]}
    hints = {name: hint for name, hint in hints.items() if typing.get_origin(hint) not in (list, dict)}
    plain = {name: [t for t in (hint, *typing.get_args(hint)) if t in others] for name, hint in hints.items()}
    for name, kinds in plain.items():
        for wrong in others[kinds[0]] if kinds else ():
            found = getattr(told_facts.shown(kind, {name: wrong}), name)
            assert repr(found) == repr(getattr(kind(), name)), (name, wrong)
    for hint, right in ((int, 3), (float, 2.5), (str, "x"), (bool, True)):
        name = next((n for n, kinds in plain.items() if kinds == [hint] and hints[n] is hint), None)
        assert name is None or getattr(told_facts.shown(kind, {name: right}), name) == right
