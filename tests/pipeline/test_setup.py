"""Set-up: what it refuses, what it takes from the machine, and that a second call does nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tools.setup
from tests.conftest import skip_or_fail
from tests.pipeline.nextflow_runs import BIN, REPOSITORY
from tools import jaspar

from multivi_nf.regulation.motif_files import PSEUDOCOUNT, read_motifs


@pytest.fixture
def setup(monkeypatch, tmp_path):
    """tools/setup.py, with a cache of its own."""
    monkeypatch.setenv("MULTIVI_NF_CACHE", str(tmp_path / "cache"))
    return tools.setup


def program(folder: Path, name: str, says: str, stream: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat >&{stream} <<'END'\n{says}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("what", "value"), [("machine", "aarch64"), ("system", "Darwin"), ("python_implementation", "PyPy")]
)
def test_other_machines_are_refused_by_name(setup, monkeypatch, what, value):
    monkeypatch.setattr(setup.platform, what, lambda: value)
    if what == "python_implementation":
        monkeypatch.setattr(setup.sys, "version_info", (3, 10, 4))
    with pytest.raises(setup.SetupError, match=rf"(?s)ERROR: this is .*{value}.*Why it matters.*What to do"):
        setup.check_machine()


def test_this_machine_is_not_refused(setup):
    setup.check_machine()


@pytest.mark.parametrize(("version", "taken"), [("24.10.6", False), ("25.04.8", True), ("26.10.0", True)])
def test_a_nextflow_on_path_is_taken_if_new_enough(setup, monkeypatch, tmp_path, version, taken):
    found = program(tmp_path / "bin", "nextflow", f"\n      N E X T F L O W\n      version {version} build 1\n")
    monkeypatch.setenv("PATH", f"{found.parent}:/usr/bin:/bin")
    text = setup.nextflow_on_path(tmp_path / "cache")
    assert (str(found) in text and "export NXF_HOME" not in text) if taken else text is None


@pytest.mark.parametrize("complete", [True, False])
def test_a_foreign_launcher_keeps_its_home_and_is_probed_as_it_will_be_started(setup, monkeypatch, tmp_path, complete):
    """The official one keeps the program itself in NXF_HOME, and fetches it where that is empty."""
    home = tmp_path / "home" / ".nextflow"
    if complete:
        (home / "framework").mkdir(parents=True)
    found = tmp_path / "bin" / "nextflow"
    found.parent.mkdir()
    found.write_text(
        '#!/bin/bash\n[ -d "${NXF_HOME:-$HOME/.nextflow}/framework" ] || { echo "no network" >&2; exit 1; }\n'
        '[ "$NXF_OFFLINE" = true ] || exit 2\necho "version 25.04.8 build 1"\n'
    )
    found.chmod(0o755)
    monkeypatch.setenv("PATH", f"{found.parent}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NXF_HOME", raising=False)
    text = setup.nextflow_on_path(tmp_path / "cache")
    assert (text is not None) == complete
    if complete:
        written = tmp_path / "written"
        written.write_text(text)
        done = subprocess.run(["bash", written, "-version"], capture_output=True, text=True, check=True)
        assert "25.04.8" in done.stdout


@pytest.mark.parametrize("offline", ["true", "false"])
@pytest.mark.parametrize("plugin", [True, False])
def test_a_token_alone_asks_for_no_network(setup, monkeypatch, tmp_path, offline, plugin):
    """With TOWER_ACCESS_TOKEN, which many have in their shell's profile, Nextflow fetches a plugin before it starts."""
    found = program(tmp_path / "bin", "nextflow", "version 25.04.8 build 1")
    found.write_text(found.read_text() + '\necho "token ${TOWER_ACCESS_TOKEN:-none}"\n')
    if plugin:
        (tmp_path / "home/plugins/nf-tower-1.11.3").mkdir(parents=True)
    for name, value in {
        "PATH": f"{found.parent}:/usr/bin:/bin",
        "TOWER_ACCESS_TOKEN": "x",
        "NXF_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
        "NXF_OFFLINE": offline,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NXF_PLUGINS_DIR", raising=False)
    (tmp_path / "written").write_text(setup.nextflow_on_path(tmp_path / "cache"))
    done = subprocess.run(["bash", tmp_path / "written", "run"], capture_output=True, text=True, check=True)
    kept = plugin or offline == "false"
    assert ("token x" in done.stdout) == kept and ("TOWER_ACCESS_TOKEN is left out" in done.stderr) != kept


@pytest.mark.parametrize("home", [None, "/proc/none", "/proc"])
def test_without_a_home_that_can_be_written_the_cache_lies_in_the_clone(setup, monkeypatch, home):
    monkeypatch.delenv("MULTIVI_NF_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    assert setup.cache_root() == setup.CLONE / ".cache"


@pytest.mark.parametrize(
    ("said", "version"), [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_292"', 8), ("no", 0)]
)
def test_versions_of_java(setup, tmp_path, said, version):
    assert setup.java_version(program(tmp_path, "java", said, stream=2)) == version


def test_a_java_that_fits_is_taken_from_the_machine(setup, monkeypatch, tmp_path):
    old = program(tmp_path / "old", "java", 'openjdk version "11.0.1"', stream=2)
    program(tmp_path / "home" / "bin", "java", 'openjdk version "21.0.1"', stream=2)
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    monkeypatch.delenv("NXF_JAVA_HOME", raising=False)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert setup.find_java() == str(tmp_path / "home" / "bin" / "java")


def test_pips_own_settings_reach_the_installer(setup, tmp_path):
    pip = program(tmp_path, "pip", "global.index-url='https://mirror.example.org/simple'\n:env:.cert='/etc/own.pem'")
    environment = setup.installer_environment([str(pip)])
    assert environment["UV_DEFAULT_INDEX"] == "https://mirror.example.org/simple"
    assert Path(environment["UV_CACHE_DIR"]).is_relative_to(tmp_path)


def test_a_failure_shows_the_command_and_the_way_out(setup):
    with pytest.raises(setup.SetupError, match=r"(?s)`sh -c .*exit code 7.*no route to host.*Why it .*PIP_INDEX_URL"):
        setup.run(["sh", "-c", "echo no route to host; exit 7"], "it is needed")


def test_an_interrupted_environment_is_never_taken_for_whole(setup, tmp_path):
    folder = tmp_path / "env"
    with pytest.raises(RuntimeError), setup.once(folder) as partial:
        partial.mkdir()
        raise RuntimeError
    assert not folder.exists()
    with setup.once(folder) as partial:
        partial.mkdir()
    assert folder.is_dir()
    with setup.once(folder) as partial:
        assert partial is None


def test_a_program_starts_python_isolated(setup, tmp_path):
    """MACS3's version is asked for in the task, beside whatever PYTHONPATH a site has set."""
    (tmp_path / "lent").mkdir()
    (tmp_path / "lent" / "json.py").write_text("print('lent')\n")
    script = tmp_path / "program"
    script.write_text(f"#!{BIN / 'python'}\nimport json, sys\nprint(sys.flags.isolated)\n")
    script.chmod(0o755)

    def said():
        lent = os.environ | {"PYTHONPATH": str(tmp_path / "lent")}
        return subprocess.run([script], env=lent, stdout=subprocess.PIPE, text=True, check=True).stdout.split()

    assert said() == ["lent", "0"], "the negative control"
    for _ in range(2):
        setup.isolate(script)
        assert said() == ["1"] and script.read_text().count("-I") == 1
    (tmp_path / "shell").write_text("#!/bin/sh\n")
    setup.isolate(tmp_path / "shell")
    assert (tmp_path / "shell").read_text() == "#!/bin/sh\n"


def test_a_stand_in_for_ps(setup, tmp_path):
    stand_in = tmp_path / "ps"
    stand_in.write_text(setup.PS)
    said = subprocess.run(["bash", stand_in], stdout=subprocess.PIPE, text=True, check=True).stdout
    parents = dict(line.split() for line in said.splitlines())
    me = Path("/proc/self/stat").read_text().rsplit(") ", 1)[1].split()[1]
    assert parents[str(os.getpid())] == me


def clone(folder: Path) -> Path:
    """What set-up needs of a clone; `.venv` of the clone under test serves the tests beside and is left alone."""
    for part in ("tools", "locks", "python/multivi_nf"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def set_up(folder: Path) -> str:
    """Set a clone up with the machine's own cache; gives what it says."""
    command = [Path(sys.executable).resolve(), folder / "tools" / "setup.py"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_a_second_call_does_nothing_and_a_venv_made_anew_holds_all_programs(tmp_path):
    if not BIN.is_dir():
        skip_or_fail("there is no .venv: type `make setup`")
    here = clone(tmp_path / "clone")
    held = {path.name for path in BIN.iterdir()} - {"peers-python"}
    made = here / ".venv" / "bin"
    assert "ready" in set_up(here)
    assert held <= {path.name for path in made.iterdir()}
    before = {path: path.lstat().st_mtime_ns for path in made.iterdir()}
    assert set_up(here) == ""
    assert before == {path: path.lstat().st_mtime_ns for path in made.iterdir()}

    # made anew, as when another Java is on the path: what `make lint` and `make macs3` put there is there again
    (here / ".venv" / "stamp").unlink()
    assert "ready" in set_up(here)
    assert set(before) == set(made.iterdir())


class Jaspar:
    """A motif as pyjaspar gives it."""

    def __init__(self, matrix_id, name, counts):
        self.matrix_id, self.name, self.counts = matrix_id, name, dict(zip("ACGT", counts))


def test_jaspars_motifs_are_written_as_they_are_read(tmp_path):
    counts = [[4.0, 19.0], [16.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    written = tmp_path / "motifs.meme"
    written.write_text(jaspar.meme([Jaspar("MA2.1", "JUN::FOS", counts), Jaspar("MA1.3", "Arnt", counts)]))
    found = read_motifs(written)
    assert [(motif.id, motif.name) for motif in found] == [("MA1.3", "Arnt"), ("MA2.1", "JUN::FOS")]
    expected = (np.array(counts) + jaspar.PSEUDOCOUNT / 4) / (20 + jaspar.PSEUDOCOUNT)
    assert np.allclose(found[0].probabilities, expected, atol=1e-5) and jaspar.PSEUDOCOUNT == PSEUDOCOUNT
