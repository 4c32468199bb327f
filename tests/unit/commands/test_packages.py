"""Packages: what ran is told, and a file that is not the locked one is never installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tools import setup

from multivi_nf.commands import main

REPOSITORY = Path(__file__).resolve().parents[3]


def test_versions_of_what_computes_are_told(capsys):
    main(["--packages"])
    told = dict(word.split("=") for word in capsys.readouterr().out.split())
    assert told["numpy"] == importlib.metadata.version("numpy") and told["torch"].startswith("2.")
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))


def wheel(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lent-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in {
            "lent.py": content,
            "lent-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: lent\nVersion: 1.0\n",
            "lent-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "lent-1.0.dist-info/RECORD": "",
        }.items():
            file.writestr(zipfile.ZipInfo(name), text)
    return path


@pytest.mark.parametrize("tampered", [False, True])
def test_a_tampered_wheel_is_refused(tmp_path, tampered):
    """As tools/setup.py installs: by lock file and hash, here from a folder and without network."""
    python = setup.bootstrap() / "bin/python"  # the pip that installs everything else
    good = wheel(tmp_path / "good", "value = 1\n")
    (tmp_path / "lock").write_text(f"lent==1.0 --hash=sha256:{hashlib.sha256(good.read_bytes()).hexdigest()}\n")
    source = wheel(tmp_path / "bad", "value = 2\n").parent if tampered else good.parent
    command = [python, "-m", "pip", "install", "--require-hashes", "--no-index", "--no-deps", "--quiet"]
    command += ["--find-links", source, "--target", tmp_path / "site", "-r", tmp_path / "lock"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == tampered, done.stderr
    assert (tmp_path / "site/lent.py").exists() != tampered
    assert not tampered or "DO NOT MATCH THE HASHES" in done.stderr
