"""The checkpoint folder of one run: `<root>/<hash of data and configuration>/`, with one owner."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from multivi_nf.errors import InputError, option
from multivi_nf.io.files import DiskFull
from multivi_nf.training.checkpoint import store
from multivi_nf.training.checkpoint.lease import Owner, make_writable, seconds_from_environment
from multivi_nf.training.device import World
from multivi_nf.training.history import History

INTERVAL = 240.0
"""Seconds between two checkpoints: with the time of saving itself, less than five minutes."""


@dataclass
class Keeping:
    """What is kept of a run, and where.

    Attributes
    ----------
    output
        Folder of the model, saved before checkpoints are removed; None saves none. A checkpoint made for the same
        output with other data or configuration is refused.
    folder
        Checkpoints go to a subfolder of this; None keeps none.
    interval
        Seconds between them.
    resume
        Go on from a checkpoint of the same data and configuration; otherwise one that is there is removed.
    time_limit
        Seconds from now after which to save a checkpoint and stop.
    """

    output: str | os.PathLike[str] | None = None
    folder: str | os.PathLike[str] | None = None
    interval: float = INTERVAL
    resume: bool = False
    time_limit: float | None = None


class Vault:
    """Checkpoints of one run.

    Parameters
    ----------
    keep
        Where, and how often.
    identity
        All that the weights depend on.
    world
        Only the first process writes.
    say
        Called with one line for the log.
    stop
        Asked while waiting for another owner.
    """

    def __init__(
        self,
        keep: Keeping,
        identity: store.Identity,
        world: World,
        say: Callable[[str], None],
        stop: Callable[[], str] = lambda: "",
    ) -> None:
        self.root = Path(keep.folder or "")
        self.identity = identity
        self.output = "" if keep.output is None else str(Path(keep.output).absolute())
        self.world = world
        self.say = say
        self.interval = seconds_from_environment("MULTIVI_NF_CHECKPOINT_SECONDS", keep.interval)
        self.folder = self.root / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
        self._wanted = resume = keep.resume
        self._last = time.monotonic()
        self._told = False
        self._owner: Owner | None = None
        if world.first:
            make_writable(self.root)
            if resume:
                self._refuse_other()
            self._owner = Owner(self.folder, say).acquire(lambda: bool(stop()))
            store.sweep(self.folder)
            if not resume and store.read_info(self.folder) is not None:
                how = option("resume", True)
                say(f"a checkpoint of the same run is in {self.folder}; starting anew, since {how} was not given")
                store.remove(self.folder)
                make_writable(self.folder)
        world.barrier()

    def _refuse_other(self) -> None:
        """Name the difference if this output's checkpoint was made with other data or configuration."""
        others = []
        for path in sorted(self.root.iterdir()):
            if path == self.folder or not path.is_dir():
                continue
            info = store.read_info(path)
            if info is not None and self.output and info.get("output") == self.output:
                store.refuse_other(self.identity, store.identity_of(info), path)
            elif info is not None:
                others.append((path, info))
        if others and store.read_info(self.folder) is None:
            path, info = min(others, key=lambda o: len(store.differences(self.identity, store.identity_of(o[1]))))
            found = store.differences(self.identity, store.identity_of(info))
            self.say(f"{len(others)} checkpoints of other runs are in {self.root}; the nearest: {'; '.join(found[:5])}")

    def newest(self) -> store.Checkpoint | None:
        """The newest checkpoint, if going on was asked for and there is one."""
        found = store.newest(self.folder, self.say) if self._wanted else None
        if found is None:
            if self._wanted:
                self.say(f"no checkpoint of this run in {self.root}: starting at the beginning")
            return None
        store.refuse_other(self.identity, found.identity, self.folder)
        threads, info = torch.get_num_threads(), found.info
        if info.get("threads") != threads or info.get("processes") != self.world.size:
            self.say(
                f"the checkpoint was made with {info.get('processes')} processes of {info.get('threads')} threads, "
                f"this run has {self.world.size} of {threads}: the result will agree to rounding, not byte for byte"
            )
        return found

    @contextmanager
    def holding_together(self) -> Iterator[None]:
        """Word what goes wrong while a run takes a checkpoint over: its parts are not of one training."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (InputError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            how = error.what if isinstance(error, InputError) else f"{type(error).__name__}: {str(error)[:200]}"
            raise InputError(
                f"the checkpoint in {self.folder} does not hold together ({how})",
                "it was changed, or something else wrote it; going on from it would train another model",
                f"delete that folder, or start anew without {option('resume', True)}",
            ) from error

    def due(self) -> bool:
        """Whether it is time for a checkpoint; stops if another run took the folder over."""
        if self._owner is not None and self._owner.lost:
            self._owner.check()
        return time.monotonic() - self._last >= self.interval

    def save(self, state: Callable[[], store.Checkpoint]) -> bool:
        """Write a checkpoint; where that is not possible (a full disk) say so once, and let the training go on.

        Returns
        -------
        Whether this process need not fear for its state: it was written, or another process writes it.
        """
        saved = True
        if self._owner is not None:
            self._owner.check()
            checkpoint = state()
            checkpoint.info.update(
                identity=self.identity,
                output=self.output,
                threads=torch.get_num_threads(),
                processes=self.world.size,
            )
            number = 1_000_000 * cast("int", checkpoint.info["epoch"]) + cast("int", checkpoint.info["step"])
            saved = self._written(lambda: store.save(self.folder, number, checkpoint))
        self._last = time.monotonic()
        return saved

    def history(self, history: History) -> None:
        """Keep `history.tsv` beside the checkpoint, so that one can see how a run does."""
        if self._owner is not None and not self._owner.lost:
            self._written(lambda: history.write(self.folder / "history.tsv"))

    def _written(self, write: Callable[[], object]) -> bool:
        """Write beside a healthy training: a disk that fails costs the checkpoint, not the training."""
        try:
            write()
        except (OSError, DiskFull) as error:
            if not self._told:
                self._told = True
                self.say(
                    f"WARNING: checkpoints cannot be written to {self.folder}: {str(error).splitlines()[0]}. "
                    "Training goes on; if it is stopped it starts again from the last checkpoint. Free space there, or "
                    f"name another folder with {option('checkpoint_dir')} next time"
                )
            return False
        return True

    def finish(self, state: Callable[[], store.Checkpoint]) -> None:
        """Remove the checkpoints of a run that is done; leave the last one to a run that waits for it."""
        if self._owner is not None and not self._owner.lost:
            if self._owner.wanted():
                self.save(state)
                self.say("another run waits for these checkpoints: the last one is left to it")
            else:
                store.remove(self.folder)

    def close(self) -> None:
        """Give up ownership."""
        if self._owner is not None:
            self._owner.release()
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()
