"""The page in a real browser: light and dark, narrow and wide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conftest import skip_or_fail

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
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        skip_or_fail("no Chromium on PATH (Debian: apt-get install chromium)")
    (folder / "measure.html").write_text(MEASURE % width)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    flags += [
        "--disable-sync",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,1000",
    ]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=4000", "--dump-dom"]
    dom = subprocess.run(
        [browser, *flags, (folder / "measure.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    return json.loads(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1))


def brightness(colour: str) -> float:
    return sum(int(v) for v in re.findall(r"\d+", colour)[:3]) / 3


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
