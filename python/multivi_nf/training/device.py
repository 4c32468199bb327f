"""Which device trains, and which processes train together."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from multivi_nf.errors import InputError, option
from multivi_nf.io.processors import memory_left, number_from_environment

DEVICES = ("auto", "cpu", "cuda")


def choose_device(device: str, say: Callable[[str], None]) -> torch.device:
    """Resolve `auto`, `cpu` or `cuda`; a process of a distributed run takes the GPU of its local rank.

    Raises
    ------
    InputError
        If a GPU is asked for and none can be used.
    """
    if device not in DEVICES:
        raise InputError(
            f"{option('device')} is {device!r}", "it is not a kind of device", f"choose one of {', '.join(DEVICES)}"
        )
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and n == 0:
        raise InputError(
            f"{option('device')} is 'cuda', but no CUDA device can be used on this machine",
            "training on the processor instead would take many times longer than you expect",
            f"run where a GPU is (pipeline: -profile gpu), or give {option('device', 'auto')} or cpu",
        )
    if device == "cpu" or n == 0:
        if device == "auto":
            how = option("device", "auto")
            say(f"NO GPU FOUND: running on the processor with {torch.get_num_threads()} threads ({how})")
        return torch.device("cpu")
    rank = number_from_environment("LOCAL_RANK", 0)
    if rank >= n:
        raise InputError(
            f"process {rank + 1} of this machine has no GPU: there are {n}",
            "each process of a distributed training needs its own",
            f"start no more than there are GPUs: {option('n_devices', n)}",
        )
    torch.cuda.set_device(rank)
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda", rank)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left; torch has no class for the latter."""
    full = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in full)


@contextmanager
def allocations_within_limits(device: torch.device) -> Iterator[None]:
    """Let what a control group's memory limit has no room for fail as an allocation, on the processor.

    At such a limit the kernel kills the process, which nothing can answer; an allocation that fails is answered by
    steps in smaller parts. Without a limit, and on a GPU (whose driver reserves addresses at will), nothing is done.
    """
    left = memory_left() if device.type == "cpu" else None
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if left is not None:
        words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        most = int(words["VmData"].split()[0]) * 1024 + left // max(1, number_from_environment("LOCAL_WORLD_SIZE", 1))
        lower = [most, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_DATA, (min(lower), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@dataclass
class World:
    """The processes that train one model together; one process alone where there is no `torchrun`.

    Gradients are summed by one all-reduce a step, each process's weighted by its share of the step's cells. This is
    what DistributedDataParallel does, but it holds for steps in which a process has no cell of some modality, unequal
    shares and gradient accumulation, so that several processes compute the gradient that one would.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> World:
        """Join the processes that `torchrun` started."""
        size = number_from_environment("WORLD_SIZE", 1)
        if size == 1 or "RANK" not in os.environ:
            return cls()
        if not distributed.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            try:
                distributed.init_process_group(backend, timeout=timedelta(hours=2))
            except ValueError as error:  # MASTER_ADDR or MASTER_PORT is not set, or not what it should be
                raise InputError(
                    f"WORLD_SIZE is {size}, but the processes cannot meet ({error})",
                    "a process that trained alone would write a model that others believe to be theirs too",
                    "start by torchrun, which sets all that is needed, or `unset WORLD_SIZE RANK` to train alone",
                ) from error
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum_all(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sum tensors by name over processes, in one go."""
        flat = self.sum(torch.cat([part.reshape(-1) for part in tensors.values()]))
        parts = flat.split([part.numel() for part in tensors.values()])
        return {name: one.view_as(part) for (name, part), one in zip(tensors.items(), parts)}

    def sum_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Sum gradients over processes; a parameter that has none in any process keeps none."""
        if self.size == 1:
            return
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in parameters]
        used = parts[0].new_tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([*parts, used])
        distributed.all_reduce(flat)
        start = 0
        for p, n_users in zip(parameters, flat[-len(parameters) :].tolist()):
            part = flat[start : start + p.numel()].view_as(p)
            start += p.numel()
            if n_users:
                p.grad = part.clone() if p.grad is None else p.grad.copy_(part)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Leave the group that :meth:`join` entered."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
