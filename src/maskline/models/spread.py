"""A network with its scores and boxes moved far apart, so that rounding decides nothing of what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from maskline.instances import FloatArray
from maskline.models.deployed import Deployed

FACTOR = 1 << 9  # that outputs of a convolution may be stretched by before their rounding decides what is found


class Decisive(NamedTuple):
    """A layer whose outputs decide what is found, and the mean and deviation over an image that each channel is to get.

    ``last``: measured over the layer's last call only, unless its outputs are constant. ``largest``: the most that they
    may be stretched by, a power of two up to 2^15, where half precision ends.
    """

    layer: nn.Module
    mean: float
    deviation: float
    last: bool = False
    largest: int = FACTOR


class Move(NamedTuple):
    """How the C output channels of a layer change: minus the centre, times the factor, plus the shift.

    Channels that are constant over the image, because they have learned nothing, get noise in their weights first.
    The centre is subtracted from the bias: from the output, it would cost digits. Factors are powers of two, so that
    they round nothing, and all values that a graph stores fit half precision, as its weights may.
    """

    centre: FloatArray  # (C,)
    factor: FloatArray  # (C,)
    shift: float
    noise: FloatArray | None  # in the weight's shape

    def bias(self, bias: FloatArray) -> FloatArray:
        """The layer's bias (C,) after the move."""
        return (bias - self.centre).astype(np.float16).astype(np.float32)


@contextmanager
def spread(deployed: Deployed, pixels: npt.NDArray[np.generic]) -> Iterator[Mapping[str, Move]]:
    """Stretch the outputs of the network's decisive layers while the context lasts.

    By how much follows from their outputs for one image. The change is invertible: two networks that differ before it
    differ after it too, mostly by more.

    Args:
        pixels: the image (H, W, 3), as `Preprocess.apply` gives it.

    Yields:
        The changes, by the layer's name in the network.
    """
    names = {layer: name for name, layer in deployed.network.named_modules()}
    moves: dict[str, Move] = {}
    with ExitStack() as stack:
        for wanted in deployed.network.decisive():  # type: ignore[operator]
            noises = []
            for one, outputs in zip(wanted, _outputs(deployed, wanted, pixels), strict=True):
                noise = _noise(one.layer, _centre_deviation(outputs)[1] < one.deviation / one.largest)
                noises.append(noise)
                if noise is not None:
                    stack.enter_context(_replaced(one.layer, "weight", _array(one.layer, "weight") + noise))
            for one, outputs, noise in zip(wanted, _outputs(deployed, wanted, pixels), noises, strict=True):
                moves[names[one.layer]] = move = _move(outputs, one, noise)
                stack.enter_context(_replaced(one.layer, "bias", move.bias(_array(one.layer, "bias"))))
                stack.enter_context(one.layer.register_forward_hook(_stretched(move)))
        yield moves


def _outputs(
    deployed: Deployed, wanted: list[Decisive], pixels: npt.NDArray[np.generic]
) -> list[list[npt.NDArray[np.float64]]]:
    """The outputs of layers for an image: of each call (C, values)."""
    seen: list[list[npt.NDArray[np.float64]]] = [[] for _ in wanted]
    with ExitStack() as hooks:
        for (layer, *_), calls in zip(wanted, seen, strict=True):

            def keep(layer: nn.Module, _: object, x: Tensor, calls: list[npt.NDArray[np.float64]] = calls) -> None:
                axis = 1 if isinstance(layer, nn.Conv2d) else -1
                calls.append(x.movedim(axis, 0).flatten(1).double().cpu().numpy())

            hooks.enter_context(layer.register_forward_hook(keep))
        deployed.run(pixels[None])
    return seen


def _centre_deviation(calls: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Means of the calls' means and of their deviations, (2, C): each call is of other things."""
    some = [values for values in calls if values.shape[1] > 1] or [np.zeros((len(calls[0]), 2))]
    mean: npt.NDArray[np.float64] = np.mean([(values.mean(axis=1), values.std(axis=1)) for values in some], axis=0)
    return mean


def _noise(layer: nn.Module, channels: npt.NDArray[np.bool_]) -> FloatArray | None:
    """What to add to the weights of these channels, always the same; None where there are none."""
    if not channels.any():
        return None
    shape = _array(layer, "weight").shape
    noise = np.random.default_rng(0).normal(0, np.prod(shape[1:]) ** -0.5, shape)
    noise[~channels] = 0
    return noise.astype(np.float16).astype(np.float32)


def _move(calls: list[npt.NDArray[np.float64]], wanted: Decisive, noise: FloatArray | None) -> Move:
    centre, deviation = _centre_deviation(calls)
    last_centre, last_deviation = _centre_deviation(calls[-1:])
    if wanted.last and (last_deviation * wanted.largest >= wanted.deviation).all():
        centre, deviation = last_centre, last_deviation
    factor = np.exp2(np.round(np.log2(wanted.deviation / np.maximum(deviation, wanted.deviation / wanted.largest))))
    return Move(centre.astype(np.float32), factor.astype(np.float32), wanted.mean, noise)


def _array(layer: nn.Module, name: str) -> FloatArray:
    array: FloatArray = layer.get_parameter(name).detach().float().cpu().numpy()
    return array


@contextmanager
def _replaced(layer: nn.Module, name: str, values: FloatArray) -> Iterator[None]:
    kept = layer.get_parameter(name)
    setattr(layer, name, nn.Parameter(torch.from_numpy(values).to(kept), requires_grad=kept.requires_grad))
    try:
        yield
    finally:
        setattr(layer, name, kept)


def _stretched(move: Move) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def hook(layer: nn.Module, _: object, x: Tensor) -> Tensor:
        factor = torch.from_numpy(move.factor).to(x)
        return x * (factor.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else factor) + move.shift

    return hook
