"""`make audit`: what is not pinned, not as locked, changed, weak or not asked about is told, never passed over."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

import pytest
from tools import audit, setup

HASH = "--hash=sha256:" + "0" * 64


def site_of(environment: Path) -> Path:
    return environment / "lib/python3.11/site-packages"


def install(environment: Path, name: str, version: str, content: str = "value = 1\n") -> Path:
    """A package as an installer leaves it."""
    site = site_of(environment)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    module = site / f"{name}.py"
    module.write_text(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{name}.py,sha256={digest},{len(content)}\n../../../bin/{name},sha256=x,1\n")
    return module


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of two packages, installed as it says."""
    monkeypatch.setenv("MULTIVI_NF_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tried.lock"
    path.write_text(
        f"one_x==1.0 \\\n    {HASH} \\\n    {HASH}\n# why\ntwo==2.0 ; python_version < '4' \\\n    {HASH}\n"
    )
    environment = tmp_path / "cache" / setup.environment_name("tried", path)
    install(environment, "one_x", "1.0")
    install(environment, "two", "2.0")
    return path


def environment(lock: Path) -> Path:
    return setup.cache_root() / setup.environment_name("tried", lock)


def auditor(folder: Path, says: str, code: int = 0, complaint: str = "") -> Path:
    """Stands for pip-audit."""
    path = folder / "auditor"
    words = f"print({says!r}); print({complaint!r}, file=sys.stderr); sys.exit({code})"
    path.write_text(f"#!{sys.executable}\nimport sys\n{words}\n")
    path.chmod(0o755)
    return path


def test_what_is_as_locked_and_known_to_be_healthy(lock: Path, tmp_path: Path, capsys) -> None:
    rows = [{"name": name, "version": "1", "vulns": []} for name in ("one-x", "two")]
    healthy = auditor(tmp_path, json.dumps({"dependencies": rows}))
    assert audit.main([str(lock), "--auditor", str(healthy)]) == 0
    told = capsys.readouterr()
    assert "2 packages pinned with hashes; 1 environments as locked" in told.out and "no weakness" in told.out
    assert audit.main([str(lock), "--offline"]) == 0
    assert "no weakness" not in capsys.readouterr().out, "nobody was asked"


@pytest.mark.parametrize(
    ("line", "told"),
    [("three>=1", "not pinned"), ("three==1", "has no SHA-256"), ("three==1 --hash=md5:0", "no SHA-256")],
)
def test_an_entry_that_is_not_pinned_by_hash(lock: Path, capsys, line: str, told: str) -> None:
    lock.write_text(f"{lock.read_text()}{line}\n")
    assert audit.main([str(lock), "--offline"]) == 1
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("change", ["changed", "gone", "other", "version"])
def test_an_environment_that_is_not_as_locked(lock: Path, capsys, change: str) -> None:
    module = site_of(environment(lock)) / "two.py"
    if change == "changed":
        module.write_text("value = 2\n")
    elif change == "gone":
        module.unlink()
    elif change == "other":
        install(environment(lock), "stranger", "1.0")
    else:
        install(environment(lock), "two", "9.0")
    assert audit.main([str(lock), "--offline"]) == 1
    told = capsys.readouterr().out
    wanted = {
        "changed": "two.py of two was changed",
        "gone": "is gone",
        "other": "stranger 1.0 is not in the lock",
        "version": "two 9.0 is not in the lock",
    }
    assert wanted[change] in told


def test_a_weakness_is_told_by_name(lock: Path, tmp_path: Path, capsys) -> None:
    weak = {"name": "two", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
    found = auditor(tmp_path, json.dumps({"dependencies": [weak]}), 1)
    assert audit.main([str(lock), "--auditor", str(found)]) == 1
    assert "tried.lock: two 2.0: PYSEC-1 (mended in 2.1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("says", "code", "complaint", "told"),
    [
        (json.dumps({"dependencies": [{"name": "two", "skip_reason": "not found"}]}), 0, "", "about 1 packages, two"),
        ("", 1, "Traceback\nConnectionError: no route", "about 2 packages, one-x the first: ConnectionError: no route"),
        ("[]", 0, "", "about 2 packages"),
    ],
)
def test_a_database_that_does_not_answer_is_no_all_clear(
    lock: Path, tmp_path: Path, capsys, says: str, code: int, complaint: str, told: str
) -> None:
    """pip-audit itself ends with 0 and "no known vulnerabilities" where a mirror has no database."""
    silent = auditor(tmp_path, says, code, complaint)
    assert audit.main([str(lock), "--auditor", str(silent)]) == 2
    said = capsys.readouterr()
    assert told in said.err and "this is no all-clear" in said.err and "What to do: " in said.err
    assert "no weakness" not in said.out


def test_the_locks_of_this_clone_are_pinned_by_hash() -> None:
    for path in sorted(setup.LOCKS.glob("*.lock")):
        packages, faults = audit.read_lock(path)
        assert packages and not faults, faults
