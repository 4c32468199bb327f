"""What runs here: names and versions for `software_versions.yml`, and a bill of materials in CycloneDX's form.

Only the standard library: a task asks for it once, at its end, without importing anything of what it names.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from multivi_nf import __version__

CHOSEN = (
    "anndata h5py igraph isal jinja2 leidenalg matplotlib mudata numba numpy pandas pysam safetensors scanpy "
    "scikit-learn scipy torch umap-learn zarr"
).split()
"""Those whose version a user of the results asks for; the bill of materials names all."""

DPKG = Path("/var/lib/dpkg/status")
IMAGE = Path("/opt/multivi-nf")
"""Where the images have their environment: there, the system's packages are part of what was shipped."""


def versions() -> list[str]:
    """`NAME=VERSION` of this package, of Python and of what computes here."""
    found = [f"multivi-nf={__version__}", f"python={platform.python_version()}"]
    for name in CHOSEN:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name}={metadata.version(name)}")
    return found


def purls() -> list[str]:
    """Package URL of everything in this environment, in MACS3's where there is one, and of an image's system."""
    found = {_pypi(name, version) for name, version, _ in _python_packages()}
    found |= {f"pkg:generic/python@{platform.python_version()}"}
    if Path(sys.prefix) == IMAGE:
        found |= set(_system_packages())
    return sorted(found)


def bill() -> dict[str, Any]:
    """The bill of materials (CycloneDX 1.6), without time or serial number: same packages, same bytes."""
    licences = {_pypi(name, version): licence for name, version, licence in _python_packages()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(_pypi("multivi-nf", __version__), kind="application")},
        "components": [component(purl, licences.get(purl, "")) for purl in purls()],
    }


def component(purl: str, licence: str = "", kind: str = "library") -> dict[str, Any]:
    """One entry of the bill."""
    kind_of, _, rest = purl.removeprefix("pkg:").partition("/")
    name, _, version = rest.partition("?")[0].rpartition("@")
    entry = {"type": kind, "bom-ref": purl, "name": name.rpartition("/")[2], "version": version, "purl": purl}
    if kind_of == "deb":
        entry["group"] = "debian"
    return entry | ({"licenses": [{"license": {"name": licence}}]} if licence else {})


QUESTIONS: dict[str, Callable[[], str]] = {
    "--packages": lambda: " ".join(versions()),
    "--purls": lambda: " ".join(purls()),
    "--sbom": lambda: json.dumps(bill(), indent=1),
}
"""What `multivi-nf` answers without running a step."""


def _python_packages() -> Iterable[tuple[str, str, str]]:
    """Name, version and licence of each distribution."""
    for one in [*metadata.distributions(), *metadata.distributions(path=_beside_macs3())]:
        if one.metadata["Name"] and one.version:
            fields = [field for field in ("License-Expression", "License") if field in one.metadata]
            licence = next((text for field in fields if (text := one.metadata[field])), "")
            yield one.metadata["Name"], one.version, licence.strip().splitlines()[0][:80] if licence.strip() else ""


def _beside_macs3() -> list[str]:
    """MACS3 has an environment of its own."""
    program = shutil.which("macs3")
    return (
        [str(path) for path in Path(program).resolve().parents[1].glob("lib/python3*/site-packages")] if program else []
    )


def _pypi(name: str, version: str) -> str:
    plain = re.sub(r"[-_.]+", "-", name).lower()
    return f"pkg:pypi/{plain}@{version.replace('+', '%2B')}"


def _system_packages() -> Iterable[str]:
    """Debian's packages that are installed."""
    if not DPKG.is_file():
        return
    for block in DPKG.read_text(errors="replace").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version|Architecture): (.*)$", block, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            version = fields["Version"].replace("+", "%2B").replace(":", "%3A")
            yield f"pkg:deb/debian/{fields['Package']}@{version}?arch={fields['Architecture']}"
