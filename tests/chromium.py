"""A real browser, without a window, for the tests of pages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import skip_or_fail

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",
    "--window-size=1400,1000",
    "--dump-dom",
)


def program() -> str:
    """The browser's program; skips, or fails in CI, where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        skip_or_fail("no Chromium on PATH (Debian: apt-get install chromium)")
    return found


def noted(page: Path, *, dark: bool, budget: int) -> dict[str, Any]:
    """Open a page for `budget` ms of its own time; give the JSON that its script left in `<pre id="out">`."""
    own = [f"--user-data-dir={page.parent / 'profile'}", f"--virtual-time-budget={budget}"]
    own += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", page.as_uri()]
    command = [program(), *FLAGS, *own]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    text = re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1)
    return json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def brightness(colour: str) -> float:
    """Of a colour as CSS gives it, 0 to 255."""
    return sum(int(v) for v in re.findall(r"\d+", colour)[:3]) / 3
