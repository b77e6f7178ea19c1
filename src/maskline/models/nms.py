"""Non-maximum suppression of boxes, the same in torch and in an ONNX graph.

In torch it is an operator of its own, ``maskline::suppress``, so that an exporter meets one node whose output has a
fixed shape; `onnx_translations` tells the exporter to write the standard's NonMaxSuppression for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maskline.models.overlap import box_iou


def suppress(boxes: Tensor, scores: Tensor, *, candidates: int, score: float, overlap: float, keep: int) -> Tensor:
    """Scores in which everything is 0 that a better box of the same image and class makes superfluous.

    Args:
        boxes: (B, N, 4) ``x1 y1 x2 y2``, shared by all classes.
        scores: (B, C, N) in [0, 1].
        candidates: of each class, only so many best scores are looked at.
        score: scores up to this become 0.
        overlap: a box goes where its IoU with a better one that stays is more than this.
        keep: how many of an image are going to be used: the best ``keep`` of the result are right, others may be 0.

    Returns:
        (B, C, N).
    """
    if candidates < scores.shape[2]:
        least = scores.topk(candidates, dim=2).values[..., -1:]
        scores = torch.where(scores >= least, scores, 0)
    kept: Tensor = torch.ops.maskline.suppress(boxes, scores, score, overlap, keep)
    return kept


@torch.library.custom_op("maskline::suppress", mutates_args=())
def _suppress(boxes: Tensor, scores: Tensor, score: float, overlap: float, keep: int) -> Tensor:
    kept = torch.zeros_like(scores)
    for i in range(len(scores)):
        label, box = torch.nonzero(scores[i] > score, as_tuple=True)
        order = scores[i][label, box].argsort(descending=True, stable=True)
        label, box = label[order], box[order]
        stays = greedy(boxes[i][box], label, overlap, keep)
        label, box = label[stays], box[stays]
        kept[i, label, box] = scores[i, label, box]
    return kept


@_suppress.register_fake
def _(boxes: Tensor, scores: Tensor, score: float, overlap: float, keep: int) -> Tensor:
    return torch.empty_like(scores)


def greedy(boxes: Tensor, labels: Tensor, overlap: float, keep: int) -> Tensor:
    """Rows (at most ``keep``) of boxes (N, 4), best first, that no row before them of the same label suppresses."""
    rest = torch.arange(len(boxes), device=boxes.device)
    stays: list[Tensor] = []
    while len(rest) and len(stays) < keep:
        best, rest = rest[0], rest[1:]
        stays.append(best)
        rest = rest[(box_iou(boxes[best], boxes[rest]) <= overlap) | (labels[rest] != labels[best])]
    return torch.stack(stays) if stays else rest


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export`: how operators of this project are written in ONNX."""
    import onnxscript

    op: Any = onnxscript.opset18

    def suppression(boxes: Any, scores: Any, score: float, overlap: float, keep: int) -> Any:
        chosen = op.NonMaxSuppression(
            boxes,
            scores,
            op.Constant(value_ints=[keep]),
            op.Constant(value_floats=[overlap]),
            op.Constant(value_floats=[score]),
        )
        nothing = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
        return op.ScatterND(nothing, chosen, op.GatherND(scores, chosen))

    return {torch.ops.maskline.suppress.default: suppression}
