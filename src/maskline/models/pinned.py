"""Run a network with the outputs of its decisive layers replaced, so that rounding can't change what is detected."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from maskline.instances import FloatArray
from maskline.models.network import Decisive, Network


class Call(NamedTuple):
    """One call of a decisive layer: its output, and what replaced it."""

    layer: str  # its name in the network
    number: int  # index of the call among this layer's, from 0
    output: FloatArray
    replacement: FloatArray  # of the same shape


@contextmanager
def pinned(network: Network) -> Iterator[list[Call]]:
    """Replace the outputs of the network's decisive layers by random numbers within the context.

    The numbers depend only on the layer's name, the index of the call and the shape.

    Yields:
        The calls so far, in order.
    """
    names = {layer: name for name, layer in network.named_modules()}
    calls: list[Call] = []
    with ExitStack() as stack:
        for decisive in network.decisive():
            hook = _replaced(names[decisive.layer], decisive, calls)
            stack.enter_context(decisive.layer.register_forward_hook(hook))
        yield calls


def _replaced(name: str, decisive: Decisive, calls: list[Call]) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def hook(_: nn.Module, __: object, x: Tensor) -> Tensor:
        number = sum(call.layer == name for call in calls)
        rng = np.random.default_rng(zlib.crc32(f"{name}/{number}".encode()))
        numbers = rng.standard_normal(tuple(x.shape), dtype=np.float32)
        replacement = np.float32(decisive.mean) + np.float32(decisive.deviation) * numbers
        calls.append(Call(name, number, x.detach().cpu().numpy(), replacement))
        return torch.from_numpy(replacement).to(x)

    return hook
