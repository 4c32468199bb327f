"""The documentation's site, as `make docs` built it, in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.chromium import brightness, noted

SITE = Path(__file__).resolve().parents[2] / "docs" / "_build" / "html"
MEASURE = """<!doctype html><iframe id=f src="%s" style="width:%dpx;height:900px;border:0"></iframe><script>
f.onload=()=>setTimeout(()=>{const d=f.contentDocument,s=f.contentWindow.getComputedStyle(d.body);
const pre=document.createElement('pre');pre.id='out';
pre.textContent=JSON.stringify({overflow:d.documentElement.scrollWidth-d.documentElement.clientWidth,
background:s.backgroundColor,ink:s.color,broken:[...d.images].filter(i=>i.complete&&!i.naturalWidth).map(i=>i.src),
equations:d.querySelectorAll('.math').length,typeset:d.querySelectorAll('mjx-container').length,
outputs:d.querySelectorAll('.cell_output').length,
pictures:d.querySelectorAll('.cell_output img').length});
document.body.append(pre)},1500)</script>"""
PAGES = ("index.html", "tutorials/first-run.html", "reference/parameters.html", "explanation/model.html")


@pytest.fixture(scope="module", autouse=True)
def site() -> None:
    """The site; its pages without the tutorials' outputs where `make docs` was not called."""
    if not (SITE / "index.html").is_file():
        quick = os.environ | {"MULTIVI_NF_DOCS_EXECUTE": "off"}
        subprocess.run(["make", "docs"], cwd=SITE.parents[2], env=quick, check=True)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_fits_and_follows_the_colour_scheme(tmp_path, page, width, dark):
    (tmp_path / "measure.html").write_text(MEASURE % ((SITE / page).as_uri(), width))
    seen = noted(tmp_path / "measure.html", dark=dark, budget=9000)
    assert seen["overflow"] <= 0, "the page scrolls sideways"
    assert seen["broken"] == []
    assert (brightness(seen["background"]) < 80) == dark
    assert abs(brightness(seen["ink"]) - brightness(seen["background"])) > 120, "text stands off its ground"
    if page.startswith("explanation"):
        assert seen["equations"] > 5 and seen["typeset"] == seen["equations"], "equations are typeset without network"
    if page.startswith("tutorials") and seen["outputs"]:  # none at all: the site was built without running them
        assert seen["pictures"] >= 2, "the tutorial ran"


def test_no_page_asks_the_network():
    """Scripts, styles, fonts and pictures are the site's own; links that a reader clicks may go elsewhere."""
    own = re.compile(
        r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)"|<link[^>]+rel="stylesheet"[^>]+href="(https?:[^"]+)"'
    )
    asked = {
        f"{page.relative_to(SITE)}: {found}"
        for page in SITE.rglob("*.html")
        for found in own.findall(page.read_text(encoding="utf-8"))
    }
    assert asked == set()
    assert len(list(SITE.rglob("*.html"))) > 40
