"""`make audit`: are the locks whole, is what is installed what they name, and is a weakness of any of it known?

The first two need no network. The third asks a database by pip-audit, itself locked: what it could not ask about is
told, and never counts as healthy. Exit code 0: all looked at, nothing found; 1: something found; 2: not all looked at.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

try:
    from tools import setup
except ImportError:  # started as a script
    import setup

ENVIRONMENTS = {"test": "env"}
"""Environments of another name than their lock."""

NOT_ASKED = """ERROR: {what}
  Why it matters: {why}
  What to do: {remedy}"""


def read_lock(lock):
    """Give name -> versions of a lock file (some hold one for each Python), and what is wrong with it.

    Parameters
    ----------
    lock
        Path of requirements as `uv pip compile --generate-hashes` writes them.

    Returns
    -------
    The versions by canonical name, and sentences: an entry that is not pinned, or has no SHA-256.
    """
    found, faults = {}, []
    for entry in re.split(r"(?<!\\)\n", lock.read_text()):
        words = entry.replace("\\\n", " ").split("#")[0].split()
        if not words:
            continue
        name, equals, version = words[0].partition("==")
        if not equals or not version:
            faults.append(f"{lock.name}: {words[0]!r} is not pinned to one version")
        elif not any(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in words):
            faults.append(f"{lock.name}: {words[0]!r} has no SHA-256")
        found.setdefault(canonical(name), set()).add(version)
    return found, faults


def canonical(name):
    """Give a package's name without what index and metadata spell differently."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


def look_at(environment, locked):
    """Compare an environment with its lock, and each of its files with the hash noted when it was installed.

    Returns
    -------
    Sentences about what differs; scripts of `bin` are not looked at, since set-up writes their first line anew.
    """
    faults = []
    (site,) = environment.glob("lib/python3.*/site-packages")
    for package in metadata.distributions(path=[str(site)]):
        name, version = canonical(package.metadata["Name"]), package.version
        if name not in ("pip", "setuptools") and version not in locked.get(name, ()):
            faults.append(f"{environment.name}: {name} {version} is not in the lock")
        for file in package.files or ():
            place = Path(file.locate())
            if file.hash is None or file.hash.mode != "sha256" or not place.resolve().is_relative_to(site.resolve()):
                continue
            try:
                digest = hashlib.sha256(place.read_bytes()).digest()
            except OSError:
                faults.append(f"{environment.name}: {file} of {name} is gone")
                continue
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                faults.append(f"{environment.name}: {file} of {name} was changed after it was installed")
    return faults


def ask(auditor, lock, options):
    """Ask the database about all packages of a lock.

    Returns
    -------
    Sentences about known weaknesses, and of each package that nothing was learned about: why.
    """
    command = [str(auditor), "--require-hashes", "--disable-pip", "--progress-spinner", "off", "-f", "json", *options]
    done = subprocess.run([*command, "-r", str(lock)], capture_output=True, text=True)
    try:
        rows = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        return [], dict.fromkeys(read_lock(lock)[0], last[:200])
    weak = [
        f"{lock.name}: {row['name']} {row.get('version')}: {one['id']}"
        + (f" (mended in {', '.join(one['fix_versions'])})" if one.get("fix_versions") else "")
        for row in rows
        for one in row.get("vulns", ())
    ]
    return weak, {row["name"]: row["skip_reason"] for row in rows if "skip_reason" in row}


def main(arguments=None):
    """Look at the locks that are named, or all; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("locks", nargs="*", type=Path, default=[], help="default: all of locks/")
    parser.add_argument("--offline", action="store_true", help="ask no database")
    parser.add_argument("--auditor", help="a pip-audit; default: the locked one, which is installed")
    parser.add_argument("--service", default="pypi", help="pip-audit's: pypi or osv")
    given = parser.parse_args(arguments)
    locks = given.locks or sorted(setup.LOCKS.glob("*.lock"))
    found, unknown, n_packages, n_environments = [], {}, 0, 0
    for lock in locks:
        locked, faults = read_lock(lock)
        n_packages += len(locked)
        environment = setup.cache_root() / setup.environment_name(ENVIRONMENTS.get(lock.stem, lock.stem), lock)
        if environment.exists():
            n_environments += 1
            faults += look_at(environment, locked)
        found += faults
    whole = f"{len(locks)} locks, {n_packages} packages pinned with hashes; {n_environments} environments as locked"
    print(f"audit: {len(found)} differences" if found else f"audit: {whole}", flush=True)
    if not given.offline:
        auditor = (
            given.auditor or setup.install("audit", setup.LOCKS / "audit.lock", "install pip-audit") / "bin/pip-audit"
        )
        for lock in locks:
            weak, lacking = ask(auditor, lock, ["--vulnerability-service", given.service])
            found += weak
            unknown |= lacking
    for line in found:
        print(line)
    if unknown:
        name, why = next(iter(unknown.items()))
        told = NOT_ASKED.format(
            what=f"nothing was learned about {len(unknown)} packages, {name} the first: {why}",
            why="a weakness of theirs may be known and is not told here: this is no all-clear",
            remedy="give the command where the public package index itself can be reached (or, with --service osv, the "
            "database of open-source vulnerabilities): mirrors seldom have it; --offline leaves it out",
        )
        print(told, file=sys.stderr)
    elif not found and not given.offline:
        print("audit: no weakness of any is known to the database")
    return 1 if found else 2 if unknown else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except setup.SetupError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
