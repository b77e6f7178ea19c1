"""Distributed training: start processes, and synchronised batch norm."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from maskline._progress import log_to_terminal
from maskline.errors import MasklineError

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

T = TypeVar("T")
R = TypeVar("R")


def count(requested: int) -> int:
    """Number of training processes: as requested, unless torchrun or similar has already started them."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else requested


def is_first() -> bool:
    """Whether this is the process that writes the results."""
    return os.environ.get("RANK", "0") == "0"


def run(function: Callable[[T], R], job: T, processes: int, threads: int | None = None) -> R | None:
    """Call ``function(job)`` in a group of processes, and wait for all.

    A single process is this one. If one fails, the others are stopped.

    Args:
        threads: CPU threads per process; None: torch's number, divided among the processes.

    Returns:
        Result of the function if this process has called it, else None.

    Raises:
        MasklineError: the first such error in one of the processes.
    """
    if processes == 1 or "RANK" in os.environ:  # this is one of the processes
        usual = torch.get_num_threads()
        torch.set_num_threads(threads or usual)
        try:
            return function(job)
        finally:
            torch.set_num_threads(usual)
    faults = multiprocessing.get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    talk = bool(logging.getLogger().handlers)  # if this process does
    threads = threads or max(torch.get_num_threads() // processes, 1)
    try:
        start_processes(
            _child, (function, job, processes, port, threads, talk, faults), processes, start_method="spawn"
        )
    except (ProcessRaisedException, ProcessExitedException) as error:
        if not faults.empty():
            kind, message = faults.get()
            raise kind(message) from None
        if isinstance(error, ProcessRaisedException):  # unexpected: with its traceback
            raise
        raise MasklineError(f"a training process was killed: {error}; resume the run") from None
    return None


def _child(
    rank: int,
    function: Callable[[T], object],
    job: T,
    processes: int,
    port: int,
    threads: int,
    talk: bool,
    faults: SimpleQueue[tuple[type[MasklineError], str]],
) -> None:
    if rank == 0 and talk:
        log_to_terminal()
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # accelerate would set 1, with a message
    torch.set_num_threads(threads)
    try:
        function(job)
    except MasklineError as error:
        faults.put((type(error), str(error)))
        raise SystemExit(1) from None
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with statistics over the batches of all processes, on every device.

    ``torch.nn.SyncBatchNorm`` supports GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            mean = all_reduce_mean(values.mean(dim=(0, 2, 3)))
            centred = values - mean[:, None, None]
            variance = all_reduce_mean(centred.square().mean(dim=(0, 2, 3)))
            self._update_statistics(mean.detach(), variance.detach(), x.numel() // x.shape[1])
            scaled = centred * torch.rsqrt(variance + self.eps)[:, None, None]
            normed = scaled * self.weight[:, None, None] + self.bias[:, None, None]
        return normed.to(x.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update running statistics, with the unbiased variance as in torch."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        total = count * distributed.get_world_size()
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (total / (total - 1)), self.momentum)
        self.num_batches_tracked += 1


def all_reduce_mean(x: Tensor) -> Tensor:
    """Differentiable mean over processes, with equal shapes."""
    mean: Tensor = _Mean.apply(x)  # type: ignore[no-untyped-call]
    return mean


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _mean(gradient)


def _mean(x: Tensor) -> Tensor:
    summed = x.clone()
    distributed.all_reduce(summed)
    return summed / distributed.get_world_size()


def convert_sync_batchnorm(network: nn.Module) -> None:
    """Convert every `nn.BatchNorm2d` to `SyncBatchNorm`, in place."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm  # keeps parameters and hooks; torch's makes new modules, for GPUs only
