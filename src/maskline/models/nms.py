"""Non-maximum suppression of boxes, the same in torch and in an ONNX graph.

In torch it is an operator of its own, ``maskline::suppress``, so that an exporter meets one node whose output has a
fixed shape; `onnx_translations` tells the exporter to write the standard's NonMaxSuppression for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskline.models.overlap import box_iou

LOWEST = -1e30  # a score that any real one is above
BLOCK = 1024  # boxes compared at a time


def suppress(boxes: Tensor, scores: Tensor, *, score: float = LOWEST, overlap: float, keep: int) -> Tensor:
    """Which boxes stay: those that no better box of the same group and class, which stays itself, overlaps too much.

    Args:
        boxes: (G, N, 4) ``x1 y1 x2 y2`` of G groups, such as images, shared by all classes.
        scores: (G, C, N).
        score: boxes of a class with scores up to this don't take part.
        overlap: a box goes where its IoU with a better one that stays is more than this.
        keep: how many of a group are going to be used: the best ``keep`` of a group are right, others may be missing.

    Returns:
        (G, C, N) bool.
    """
    stays: Tensor = torch.ops.maskline.suppress(boxes, scores, score, overlap, keep)
    return stays


@torch.library.custom_op("maskline::suppress", mutates_args=())
def _suppress(boxes: Tensor, scores: Tensor, score: float, overlap: float, keep: int) -> Tensor:
    stays = torch.zeros_like(scores, dtype=torch.bool)
    taking_part = scores > score
    for i in torch.nonzero(taking_part.flatten(1).any(dim=1)).flatten().tolist():
        label, box = torch.nonzero(taking_part[i], as_tuple=True)
        order = scores[i][label, box].argsort(descending=True, stable=True)
        label, box = label[order], box[order]
        rows = greedy(boxes[i][box], label, overlap, keep)
        stays[i, label[rows], box[rows]] = True
    return stays


@_suppress.register_fake
def _(boxes: Tensor, scores: Tensor, score: float, overlap: float, keep: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def greedy(boxes: Tensor, labels: Tensor, overlap: float, keep: int) -> Tensor:
    """Rows (at most ``keep``) of boxes (N, 4), best first, that no row before them of the same label suppresses.

    Block by block: first what earlier blocks suppress goes, then what the block itself does.
    """
    stays = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    for rows in torch.split(torch.arange(len(boxes), device=boxes.device), BLOCK):
        rest = rows[~_suppresses(boxes, labels, stays, rows, overlap).any(dim=0)]
        stays = torch.cat([stays, rest[_settled(_suppresses(boxes, labels, rest, rest, overlap).triu(1))]])
        if len(stays) >= keep:
            break
    return stays[:keep]


def _suppresses(boxes: Tensor, labels: Tensor, better: Tensor, worse: Tensor, overlap: float) -> Tensor:
    """(len(better), len(worse)) bool."""
    alike = labels[better, None] == labels[worse]
    return (box_iou(boxes[better, None], boxes[worse]) > overlap) & alike


def _settled(suppresses: Tensor) -> Tensor:
    """Which of n rows stay, given which suppresses which (n, n), better rows first.

    One after the other, because a row that goes suppresses nothing; in NumPy, where such a step costs least.
    """
    rows = suppresses.cpu().numpy()
    stays = np.ones(len(rows), np.bool_)
    for i, row in enumerate(rows):
        if stays[i]:
            stays &= ~row
    return torch.from_numpy(stays).to(suppresses.device)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export`: how operators of this project are written in ONNX."""
    import onnxscript
    from onnx import TensorProto

    op: Any = onnxscript.opset18

    def suppression(boxes: Any, scores: Any, score: float, overlap: float, keep: int) -> Any:
        chosen = op.NonMaxSuppression(
            boxes,
            scores,
            op.Constant(value_ints=[keep]),
            op.Constant(value_floats=[overlap]),
            op.Constant(value_floats=[score]),
        )
        none = op.Cast(op.Expand(op.Constant(value_float=0.0), op.Shape(scores)), to=TensorProto.BOOL)
        rows = op.Shape(chosen, start=0, end=1)
        return op.ScatterND(none, chosen, op.Cast(op.Expand(op.Constant(value_float=1.0), rows), to=TensorProto.BOOL))

    return {torch.ops.maskline.suppress.default: suppression}
