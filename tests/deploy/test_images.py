"""The images: what is in them, who they run as, and that they need neither network nor a home."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def inside(images: dict[str, str], container_environment: dict[str, str]):
    """Run a shell line in an image, without network, as the image's own or another user."""

    def run(image: str, line: str, *options: str) -> str:
        alone = ["--rm", "--network", "none", "--http-proxy=false"]  # as the profile `podman` starts tasks
        command = ["podman", "run", *alone, *options, images[image], "bash", "-euc", line]
        done = subprocess.run(
            command, env=os.environ | container_environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("image", ["cpu", "macs3", "cuda"])
def test_content(inside, image: str, version: str) -> None:
    assert inside(image, "multivi-nf --version").split()[-1] == version
    assert inside(image, "ps -p 1 -o comm= && bash --version").startswith("bash")
    assert inside(image, "id -u").strip() not in ("", "0"), "runs as root"
    assert inside(image, "command -v gcc g++ cc make pip uv || echo none").strip() == "none", "build tools"
    has_torch = inside(image, "python -c 'import torch' 2> /dev/null && echo yes || echo no").strip()
    assert has_torch == ("yes" if image == "cuda" else "no")
    if image == "macs3":
        assert inside(image, "macs3 --version").startswith("macs3 3.")
    if image == "cpu":
        assert int(inside(image, "grep -c ^MOTIF /opt/multivi-nf/share/multivi-nf/jaspar.meme")) > 1000


def test_seurat_as_debian_has_it(inside) -> None:
    packages = 'c("Seurat", "rhdf5", "irlba", "RANN", "jsonlite")'
    assert inside("seurat", f"Rscript --vanilla -e 'for (p in {packages}) print(packageVersion(p))'").count("[1]") == 5
    assert inside("seurat", "ps -p 1 -o comm= && bash --version").startswith("bash")
    assert inside("seurat", "id -u").strip() not in ("", "0"), "runs as root"


def test_every_image_that_a_process_names_is_built(processes: dict) -> None:
    named = {label.removeprefix("image_") for labels in processes.values() for label in labels if "image_" in label}
    targets = set(re.findall(r"^FROM \S+ AS (\S+)", (REPOSITORY / "containers/Dockerfile").read_text(), re.MULTILINE))
    assert named <= targets
    built = re.search(r"\|\| set -- (.+)", (REPOSITORY / "tools/images.sh").read_text()).group(1).split()
    assert named == set(built)


@pytest.mark.parametrize("image", ["cpu", "macs3", "cuda"])
def test_launcher_refuses_an_image_of_another_version(inside, image: str, version: str) -> None:
    bound = ("-v", f"{REPOSITORY}/bin:/launchers:ro", "-e", "MULTIVI_NF_VERSION=9.9.9")
    said = inside(image, "! /launchers/multivi-nf-train --help 2>&1", *bound)
    assert f"version {version}, the pipeline is version 9.9.9" in said


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_any_user_without_home_or_network(inside, image: str) -> None:
    """A scheduler's user is unknown to the image: no passwd entry, no home, nothing writable but /tmp."""
    line = "cd /tmp; python -c 'import numba, matplotlib.pyplot, scanpy, umap; import multivi_nf.counts; print(1)'"
    assert inside(image, line, "--user", "54321:54321", "--read-only", "--tmpfs", "/tmp").strip() == "1"
    assert inside(image, "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '").split() == ["lo"]


def test_a_whole_run_as_a_user_without_rights_and_without_network(
    images: dict[str, str], container_environment: dict[str, str], tmp_path: Path
) -> None:
    """Nextflow and all tasks in one container: no passwd entry, no home, no network, a system that is read-only."""
    launcher = (REPOSITORY / ".venv/bin/nextflow").read_text()
    jar = re.search(r"-jar (\S+)", launcher)[1]
    java = Path(re.search(r"^exec (\S+)", launcher, re.MULTILINE)[1]).resolve().parents[1]
    place = tmp_path / "run"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    held = {REPOSITORY: "/pipeline", jar: "/nextflow.jar", java: java}  # whatever lies in a home is not to be reached
    held |= {path: path for path in Path("/etc").glob("java-*") if path.is_dir()}
    told = {"NXF_HOME": "/run_here/home", "NXF_OFFLINE": "true", "NXF_DISABLE_CHECK_LATEST": "true"}
    told |= {"NXF_ANSI_LOG": "false", "LC_ALL": "C.UTF-8"}
    command = [
        *("podman", "run", "--rm", "--network", "none", "--http-proxy=false", "--user", "54321:54321", "--read-only"),
        *("--tmpfs", "/tmp", "-v", f"{place}:/run_here", "-w", "/run_here"),
        *(word for path, inside in held.items() for word in ("-v", f"{path}:{inside}:ro")),
        *(word for name, value in told.items() for word in ("-e", f"{name}={value}")),
        *(
            images["cuda"],
            str(java / "bin/java"),
            "-XX:TieredStopAtLevel=1",
            "-jar",
            "/nextflow.jar",
            "run",
            "/pipeline",
        ),
        *("-profile", "test", "--peak_source", "samples", "--max_epochs", "2", "--impute", "none"),
        *("--outdir", "/run_here/results"),
    ]
    done = subprocess.run(
        command, env=os.environ | container_environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert {path.stat().st_uid for path in (place / "results").rglob("*")} == {54321}
    assert {"report.html", "multivi.h5mu", "manifest.tsv"} <= {path.name for path in (place / "results").iterdir()}


def test_labels_and_size(images: dict[str, str], container_environment: dict[str, str], version: str) -> None:
    for image, name in images.items():
        shown = subprocess.run(
            ["podman", "image", "inspect", name],
            env=os.environ | container_environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(shown.stdout)[0]
        labels = found["Labels"]
        assert labels["org.opencontainers.image.version"] == version
        assert labels["org.opencontainers.image.revision"] not in ("", "unknown")
        print(f"{name}: {found['Size'] / 1e9:.2f} GB")
        if image == "cpu":
            assert found["Size"] <= 1.5e9


def test_nothing_of_this_machine_is_in_the_image(inside) -> None:
    assert inside("cpu", "ls /run/secrets 2> /dev/null || true").strip() == ""
    assert inside("cpu", "env | grep -i -E 'proxy|cert|token' || echo none").strip() == "none"
    own = "/opt/multivi-nf/lib/python3*/site-packages/multivi_nf*"  # the package, and where it says it came from
    for path, places in ((REPOSITORY, "/opt /etc /home"), (Path.home(), own)):
        assert inside("cpu", f"grep -rIlF -- '{path}/' {places} 2> /dev/null || true").strip() == ""


def test_archive_is_an_oci_layout(images: dict[str, str], container_environment: dict[str, str], version: str) -> None:
    subprocess.run(
        [REPOSITORY / "tools/images.sh", "archive", "cpu"], env=os.environ | container_environment, check=True
    )
    with tarfile.open(REPOSITORY / f"dist/multivi-nf-cpu-{version}.oci.tar") as archive:
        names = archive.getnames()
        assert {"oci-layout", "index.json"} <= set(names)
        layout = json.load(archive.extractfile("oci-layout"))
    assert layout["imageLayoutVersion"] == "1.0.0"


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["build", "gpu"], {}, ["there is no image 'gpu'", "cpu, macs3, cuda, peers and seurat"]),
        (["push"], {}, ["no registry was given", "make push REGISTRY="]),
        (
            ["archive", "cuda"],
            {"CONTAINER_ENGINE": "false"},
            ["there is no image localhost/multivi-nf-cuda", "make images"],
        ),
        (
            ["build"],
            {"CONTAINER_ENGINE": "", "PATH": "/usr/bin:/bin", "NO_ENGINE": "1"},
            ["neither podman nor a running docker"],
        ),
    ],
)
def test_refusals_have_three_parts(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], said: list[str]
) -> None:
    if "NO_ENGINE" in environment:  # the tools the script needs, and no engine
        for tool in ("bash", "dirname", "sed", "id", "git", "env", "printf"):
            (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
        environment = {"PATH": str(tmp_path), "CONTAINER_ENGINE": ""}
    done = subprocess.run(
        ["/bin/bash", REPOSITORY / "tools/images.sh", *arguments],
        env=os.environ | {"CONTAINER_ENGINE": "podman"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 3
    for words in said:
        assert words in done.stderr
