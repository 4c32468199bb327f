"""The page in a real browser: light and dark, narrow and wide."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chromium import brightness, noted

from multivi_nf.report import write_report

MEASURE = """<!doctype html><iframe id=f src="r.html" style="width:%dpx;height:900px;border:0"></iframe><script>
f.onload=()=>{const d=f.contentDocument,s=f.contentWindow.getComputedStyle(d.body);
const pre=document.createElement('pre');pre.id='out';
pre.textContent=JSON.stringify({overflow:d.documentElement.scrollWidth-d.documentElement.clientWidth,background:s.backgroundColor,
ink:s.color,figures:[...d.querySelectorAll('.figure')].map(e=>e.getBoundingClientRect().width),
drawn:getComputedStyle(d.querySelector('svg text')).fill,broken:[...d.images].filter(i=>!i.complete).length});
document.body.append(pre)}</script>"""


def measured(folder: Path, width: int, dark: bool) -> dict:
    """Load the page in an iframe `width` pixels wide and return what the browser laid out."""
    (folder / "measure.html").write_text(MEASURE % width)
    return noted(folder / "measure.html", dark=dark, budget=4000)


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_layout_fits_and_figures_follow_the_colour_scheme(results_folder, tmp_path, width, dark):
    write_report(results_folder, tmp_path / "r.html")
    page = measured(tmp_path, width, dark)
    assert page["overflow"] <= 0, "the page scrolls sideways"
    assert len(page["figures"]) >= 6 and all(0 < w <= width for w in page["figures"])
    assert (brightness(page["background"]) < 80) == dark
    assert abs(brightness(page["ink"]) - brightness(page["background"])) > 120, "text stands off its ground"
    assert abs(brightness(page["drawn"]) - brightness(page["background"])) > 120, "so do the figures' labels"
