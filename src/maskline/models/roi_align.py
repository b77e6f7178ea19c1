"""RoIAlign (Mask R-CNN, arXiv 1703.06870, section 3), from one map or a feature pyramid.

A bin's value is the mean of bilinear interpolations at regular points: a weighted sum of cells, whose weights are
products of one along y and one along x. In torch, all bins of all boxes are one differentiable `F.embedding_bag` over
the cells of all maps. The exporter sees one operator, ``maskline::roi_align``, and writes an ONNX RoiAlign per level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskline.models.layers import to_fp32


class Regions(NamedTuple):
    """R boxes in the images of a batch, which features are pooled for."""

    boxes: Tensor  # (R, 4) x1 y1 x2 y2, in pixels of the network's input
    image: Tensor  # (R,) int64: index of the image

    def select(self, rows: Tensor) -> Regions:
        """Return a subset, by index or mask."""
        return Regions(self.boxes[rows], self.image[rows])


def roi_align(
    maps: Sequence[Tensor], regions: Regions, level: Tensor, *, strides: Sequence[int], side: int, aligned: bool
) -> Tensor:
    """Pool features of boxes into ``side`` x ``side`` bins; points per bin: its size in cells, rounded up.

    Args:
        maps: (B, C, h, w) per level.
        regions: the boxes.
        level: (R,) int64, index of the map to pool from.
        strides: of the levels, in pixels.
        side: bins along either axis.
        aligned: whether a cell's value is at its centre. False is the original operator: values are at corners, and
            boxes are at least one cell wide and high.

    Returns:
        (R, C, side, side), at least float32.
    """
    if torch.compiler.is_exporting():
        pooled: Tensor = torch.ops.maskline.roi_align(
            list(maps), *regions, level, [float(stride) for stride in strides], side, aligned
        )
        return pooled
    return _pool(maps, *regions, level, strides, side, aligned)


def _pool(
    maps: Sequence[Tensor],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    strides: Sequence[float],
    side: int,
    aligned: bool,
) -> Tensor:
    cells = torch.cat([to_fp32(m).permute(0, 2, 3, 1).flatten(0, 2) for m in maps])
    heights, widths, scale, first = (_per_level(values, boxes) for values in zip(*_layout(maps, strides), strict=True))
    height, width = heights[level].long(), widths[level].long()
    on_map = (boxes * scale[level, None]).to(cells.dtype) - (0.5 if aligned else 0.0)
    x, y = (_axis(on_map[:, i], on_map[:, i + 2], n, side, aligned) for i, n in ((0, width), (1, height)))
    start = first[level].long() + image * height * width
    index, weight, offsets = _bags(x, y, start, height, width)
    pooled = F.embedding_bag(index, cells, offsets, mode="sum", per_sample_weights=weight)
    return pooled.view(len(boxes), side, side, cells.shape[1]).permute(0, 3, 1, 2).contiguous()


def _per_level(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def _layout(maps: Sequence[Tensor], strides: Sequence[float]) -> list[tuple[int, int, float, int]]:
    """For each map: height, width, cells per pixel, and the index of its first cell among all cells."""
    layout, first = [], 0
    for m, stride in zip(maps, strides, strict=True):
        B, _, h, w = m.shape
        layout.append((h, w, 1 / stride, first))
        first += B * h * w
    return layout


class _Axis(NamedTuple):
    """Cells of each bin along one axis: ``run`` cells from ``start``, with weights; 0 beyond the run.

    A bin with points at 3.2 and 3.9 weights cell 3 by 0.45 and cell 4 by 0.55: (0.8 + 0.1) / 2 and (0.2 + 0.9) / 2.
    """

    start: Tensor  # (R, side) int64, inside the map
    weights: Tensor  # (R, side, longest run)
    run: Tensor  # (R,) int64


def _axis(low: Tensor, high: Tensor, cells: Tensor, side: int, aligned: bool) -> _Axis:
    """low, high: (R,) interval in cells, on maps with ``cells`` (R,) cells along the axis."""
    length = high - low if aligned else (high - low).clamp(min=1)
    points = torch.ceil(length / side).clamp(min=0)  # per bin, at most one cell apart
    longest = int(points.max()) if len(points) else 0
    number = torch.arange(longest, device=low.device)
    bins = torch.arange(side, device=low.device)[:, None]
    at = (
        low[:, None, None]
        + (bins + (number + 0.5) / points.clamp(min=1)[:, None, None]) * (length / side)[:, None, None]
    )
    last = (cells - 1)[:, None, None]
    used = (number < points[:, None, None]) & (at >= -1) & (at <= last + 1)  # beyond, a point counts as 0
    at = at.clamp(min=0).minimum(last.to(at.dtype))
    before = at.floor().long()
    share = at - before
    start = before[..., 0] if longest else before.new_zeros(len(low), side)
    weights = at.new_zeros(len(low), side, longest + 1)
    each = used / points.clamp(min=1)[:, None, None]
    place = before - start[..., None]
    weights.scatter_add_(2, place, each * (1 - share)).scatter_add_(2, (place + 1).clamp(max=longest), each * share)
    return _Axis(start, weights, torch.where(points > 0, points + 1, 0).long())


def _bags(x: _Axis, y: _Axis, first: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For all bins, by box and row: cell indices, their weights, and the offset of each bin's first cell."""
    R, side = x.start.shape
    per_bin = (x.run * y.run)[:, None].expand(R, side * side).flatten()
    offsets = per_bin.cumsum(0) - per_bin
    owner = torch.repeat_interleave(per_bin)  # the bin of each entry
    box, row, column = owner // (side * side), owner // side % side, owner % side
    entry = torch.arange(len(owner), device=owner.device) - offsets[owner]
    down, across = entry // x.run[box], entry % x.run[box]
    weight = y.weights[box, row, down] * x.weights[box, column, across]
    cell_y = (y.start[box, row] + down).minimum(height[box] - 1)
    cell_x = (x.start[box, column] + across).minimum(width[box] - 1)
    return first[box] + cell_y * width[box] + cell_x, weight, offsets


_roi_align = torch.library.custom_op("maskline::roi_align", _pool, mutates_args=())


@_roi_align.register_fake
def _(
    maps: Sequence[Tensor],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    strides: Sequence[float],
    side: int,
    aligned: bool,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], maps[0].shape[1], side, side)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX translation of the operator in this module, for `torch.onnx.export`."""
    import onnxscript

    op: Any = onnxscript.opset18

    def pooled(
        maps: Any, boxes: Any, image: Any, level: Any, strides: Sequence[float], side: int, aligned: bool
    ) -> Any:
        def at(number: int, some: Any, where: Any) -> Any:
            return op.RoiAlign(
                maps[number],
                some,
                where,
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                output_height=side,
                output_width=side,
                sampling_ratio=0,
                spatial_scale=1 / strides[number],
            )

        if len(maps) == 1:
            return at(0, boxes, image)
        rows, features = [], []
        for number in range(len(maps)):
            here = op.Equal(level, op.Constant(value_int=number))
            found = op.Reshape(op.NonZero(here), op.Constant(value_ints=[-1]))
            rows.append(found)
            features.append(at(number, op.Gather(boxes, found), op.Gather(image, found)))
        order, count = op.Concat(*rows, axis=0), op.Shape(level)
        place = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
        back = op.ScatterElements(place, order, place, axis=0)
        return op.Gather(op.Concat(*features, axis=0), back)

    return {torch.ops.maskline.roi_align.default: pooled}
