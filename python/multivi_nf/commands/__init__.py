"""The command line: `multivi-nf STEP`. One module a step; each holds a click command named `command`.

Modules are imported when their step is called, so that steps before TRAIN never import torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from multivi_nf import __version__
from multivi_nf.commands._trouble import of_the_machine, trouble_of, with_origin
from multivi_nf.errors import InputError, Interrupted
from multivi_nf.io.caches import writable_caches
from multivi_nf.io.files import written_whole
from multivi_nf.io.outputs import check_file
from multivi_nf.io.streams import forgiven

STEPS = {
    "simulate": "a mosaic with known truth",
    "check-samplesheet": "the samplesheet and the contrasts, all problems at once",
    "preflight": "one sample's files, in seconds",
    "check-inputs": "all samples' problems at once; which peak set the run uses",
    "qc-rna": "cells of an RNA matrix",
    "qc-protein": "cells of a protein matrix",
    "qc-fragments": "every barcode of a fragment file; candidate cells",
    "qc-atac": "cells of a peak matrix",
    "call-peaks": "peaks by MACS3 on cut sites",
    "merge-peaks": "peaks of all samples to one fixed-width set",
    "count-peaks": "cells by peaks from fragments",
    "mosaic": "all cells of all samples in one h5mu",
    "train": "a MultiVI model",
    "embed": "latent, map, clusters, transferred labels",
    "calibrate": "error bars against held-out pairs",
    "controls": "what chance gives, beside the results",
    "impute": "what was not measured, with its uncertainty",
    "gather-imputed": "chunks of imputed cells to one store",
    "differential": "genes, peaks or proteins between groups",
    "export": "h5ad, tables, markers",
    "links": "peaks that go with a gene near them",
    "motifs": "motifs in peaks, deviations of cells",
    "tracks": "accessibility of groups as bigWig",
    "group-peaks": "peaks of groups by MACS3",
    "gene-activity": "accessibility over genes",
    "evaluate": "results against truth",
    "report": "one page for a run",
    "benchmark-split": "the paper's experiments: parts of a mosaic hidden",
    "benchmark-run": "one of the package's own methods on a split",
    "benchmark-collect": "the pipeline's steps on a split, as a result like any method's",
    "benchmark-score": "one method's scores on a split",
    "benchmark-page": "all scores in one table and one page",
}
"""Every step and what it makes or reads; `qc-rna` lives in the module `qc_rna`."""


class Steps(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the steps."""
        return list(STEPS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of one step."""
        if name not in STEPS:
            return None
        return importlib.import_module(f"multivi_nf.commands.{name.replace('-', '_')}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of steps without importing any."""
        with formatter.section("Steps"):
            formatter.write_dl(list(STEPS.items()))


TOLD = {
    "--packages": "Print NAME=VERSION of Python and of what computes here, and leave.",
    "--purls": "Print the package URLs of all that is installed here, and leave.",
    "--sbom": "Print a bill of materials (CycloneDX 1.6) of all that is installed here, and leave.",
}


def told_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :data:`TOLD`; nothing of what they name is imported."""

    def tell(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
        if wanted:
            from multivi_nf.io.packages import QUESTIONS

            click.echo(QUESTIONS[parameter.opts[0]]())
            context.exit()

    for name, text in reversed(TOLD.items()):
        command = click.option(name, is_flag=True, is_eager=True, expose_value=False, callback=tell, help=text)(command)
    return command


@click.group(cls=Steps, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="multivi-nf")
@told_options
@click.option(
    "--resources",
    type=click.Path(path_type=Path),
    help="Write the step's wall seconds and peak memory to this JSON file (read by `report`).",
)
@click.pass_context
def cli(ctx: click.Context, resources: Path | None) -> None:
    """MultiVI from raw fragments and count matrices to imputation and differential analysis."""
    if resources is not None:
        check_file(resources, "json", "--resources")
    ctx.obj = resources


def write_resources(path: Path, step: str, seconds: float) -> None:
    """Write what the step cost: wall seconds, CPU seconds and peak resident memory (bytes) with its children."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cost = {
        "step": step,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in (own, children)), 3),
        "peak_memory": max(own.ru_maxrss, children.ru_maxrss) * 1024,
    }
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(cost, indent=1) + "\n")


def without_settings_of_others() -> None:
    """Take out of the environment what would change the bytes of results, or end in a library's own traceback."""
    for name in [name for name in os.environ if name.startswith(("ZARR_", "ANNDATA_"))]:
        del os.environ[name]
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not (threads.isdecimal() and int(threads) > 0):
        del os.environ["NUMBA_NUM_THREADS"]


def main(arguments: list[str] | None = None) -> None:
    """Run one step and leave with its exit code, see :func:`exit_code`."""
    # Between two loops torch's threads wait by spinning, which on a machine that others use too made training take four
    # times the time; asleep at once, they made two threads slower than one on an idle machine. So they spin briefly.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    writable_caches()
    without_settings_of_others()
    os.environ["MPLBACKEND"] = "Agg"  # a notebook that starts the pipeline hands on its own, which no step can load
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning)
    with forgiven(), ended_by_sigterm():
        code = exit_code(sys.argv[1:] if arguments is None else arguments)
    if code and arguments is None:
        os._exit(code)  # HDF5 would try once more to write what no longer fits, and end in a segmentation fault
    if code:
        sys.exit(code)


UNREADABLE = "change its permissions (chmod, chown), or give a copy that you may read"


def exit_code(arguments: list[str]) -> int:
    """Run one step, tell what went wrong on stderr, and give the exit code.

    0 done; 1 a bug (the exception is raised); 2 wrong input, or the machine is in the way and more memory would not
    help; 75 stopped after a checkpoint; 130 Ctrl-C; 137 out of memory.
    """
    started = time.monotonic()
    try:
        with cli.make_context("multivi-nf", arguments) as context:
            cli.invoke(context)
            if context.obj is not None:
                write_resources(context.obj, str(context.invoked_subcommand), time.monotonic() - started)
    except (InputError, Interrupted) as error:
        error = with_origin(of_the_machine(error)) if isinstance(error, InputError) else error
        click.echo(str(error), err=True)
        return error.code
    except click.ClickException as error:
        if isinstance(error, click.BadParameter) and error.message.endswith("is not readable."):
            click.echo(str(InputError(error.message.rstrip("."), "the step reads it", UNREADABLE)), err=True)
        else:
            error.show()
        return 2
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped by Ctrl-C; nothing half-written was left under a final name", err=True)
        return 130
    except Exception as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        click.echo(str(trouble), err=True)
        return trouble.code
    return 0


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the step as an exception does, so that nothing half-written stays; TRAIN has its own handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
