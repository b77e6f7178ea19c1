"""Padding of images inside a network, to a multiple of its largest stride.

The exporter sees one operator, ``maskline::pad``, whose output sides are known multiples, so that all later sizes stay
simple expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad an image (B, C, H, W) with zeros, below and right, to multiples of ``multiple``."""
    if torch.compiler.is_exporting():
        padded: Tensor = torch.ops.maskline.pad(image, multiple)
        return padded
    return _padded(image, multiple)


def _padded(image: Tensor, multiple: int) -> Tensor:
    bottom, right = (-side % multiple for side in image.shape[2:])
    return F.pad(image, (0, right, 0, bottom))


@torch.library.custom_op("maskline::pad", mutates_args=())
def _pad(image: Tensor, multiple: int) -> Tensor:
    return _padded(image, multiple).clone()


@_pad.register_fake
def _(image: Tensor, multiple: int) -> Tensor:
    context = torch.library.get_ctx()
    rows, columns = (context.new_dynamic_size(min=1) for _ in range(2))
    return image.new_empty(image.shape[0], image.shape[1], multiple * rows, multiple * columns)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX translation of the operator in this module, for `torch.onnx.export`."""
    import onnxscript

    op: Any = onnxscript.opset18

    def pad(image: Any, multiple: int) -> Any:
        sides = op.Shape(image, start=2, end=4)
        missing = op.Mod(op.Neg(sides), op.Constant(value_ints=[multiple]))  # has the sign of the divisor
        nothing = op.Constant(value_ints=[0, 0])
        return op.Pad(image, op.Concat(nothing, nothing, nothing, missing, axis=0))

    return {torch.ops.maskline.pad.default: pad}
