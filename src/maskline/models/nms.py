"""Non-maximum suppression of boxes, with equal results in torch and in an ONNX graph.

In torch it is a custom operator, ``maskline::batched_nms``, so that the exporter sees one node with an output of fixed
shape; `onnx_translations` maps it to ONNX NonMaxSuppression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskline.models.iou import box_iou

LOWEST = -1e30  # below every score
BLOCK = 1024  # boxes compared at a time


def batched_nms(
    boxes: Tensor, scores: Tensor, *, score_threshold: float = LOWEST, iou_threshold: float, max_detections: int
) -> Tensor:
    """Keep-mask of greedy non-maximum suppression, per group and class.

    Args:
        boxes: (G, N, 4) ``x1 y1 x2 y2``, N boxes in each of G groups (such as images), shared by all classes.
        scores: (G, C, N).
        score_threshold: boxes with at most this score in a class are dropped.
        iou_threshold: a box is dropped if its IoU with a better, kept box is above this.
        max_detections: only the best ``max_detections`` of a group are exact; others may be missing.

    Returns:
        (G, C, N) bool.
    """
    stays: Tensor = torch.ops.maskline.batched_nms(boxes, scores, score_threshold, iou_threshold, max_detections)
    return stays


@torch.library.custom_op("maskline::batched_nms", mutates_args=())
def _batched_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, max_detections: int
) -> Tensor:
    stays = torch.zeros_like(scores, dtype=torch.bool)
    taking_part = scores > score_threshold
    for i in torch.nonzero(taking_part.flatten(1).any(dim=1)).flatten().tolist():
        label, box = torch.nonzero(taking_part[i], as_tuple=True)
        order = scores[i][label, box].argsort(descending=True, stable=True)
        label, box = label[order], box[order]
        rows = greedy_nms(boxes[i][box], label, iou_threshold, max_detections)
        stays[i, label[rows], box[rows]] = True
    return stays


@_batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, max_detections: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def greedy_nms(boxes: Tensor, labels: Tensor, iou_threshold: float, max_detections: int) -> Tensor:
    """Indices of at most ``max_detections`` of the boxes (N, 4), sorted best first, that greedy NMS per label keeps.

    Works in blocks: each is suppressed by the boxes kept so far, then by itself.
    """
    stays = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    for rows in torch.split(torch.arange(len(boxes), device=boxes.device), BLOCK):
        rest = rows[~_suppresses(boxes, labels, stays, rows, iou_threshold).any(dim=0)]
        stays = torch.cat([stays, rest[_settled(_suppresses(boxes, labels, rest, rest, iou_threshold).triu(1))]])
        if len(stays) >= max_detections:
            break
    return stays[:max_detections]


def _suppresses(boxes: Tensor, labels: Tensor, better: Tensor, worse: Tensor, iou_threshold: float) -> Tensor:
    """Whether each better box suppresses each worse one: (len(better), len(worse)) bool."""
    alike = labels[better, None] == labels[worse]
    return (box_iou(boxes[better, None], boxes[worse]) > iou_threshold) & alike


def _settled(suppresses: Tensor) -> Tensor:
    """Keep-mask (n,) from the pairwise suppression (n, n) of rows sorted best first.

    Sequential, because a suppressed row suppresses nothing; in NumPy, whose overhead per step is smallest.
    """
    rows = suppresses.cpu().numpy()
    stays = np.ones(len(rows), np.bool_)
    for i, row in enumerate(rows):
        if stays[i]:
            stays &= ~row
    return torch.from_numpy(stays).to(suppresses.device)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX translation of the operator in this module, for `torch.onnx.export`."""
    import onnxscript
    from onnx import TensorProto

    op: Any = onnxscript.opset18

    def non_max_suppression(
        boxes: Any, scores: Any, score_threshold: float, iou_threshold: float, max_detections: int
    ) -> Any:
        chosen = op.NonMaxSuppression(
            boxes,
            scores,
            op.Constant(value_ints=[max_detections]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[score_threshold]),
        )
        none = op.Cast(op.Expand(op.Constant(value_float=0.0), op.Shape(scores)), to=TensorProto.BOOL)
        rows = op.Shape(chosen, start=0, end=1)
        return op.ScatterND(none, chosen, op.Cast(op.Expand(op.Constant(value_float=1.0), rows), to=TensorProto.BOOL))

    return {torch.ops.maskline.batched_nms.default: non_max_suppression}
