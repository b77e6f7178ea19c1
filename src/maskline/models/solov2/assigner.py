"""Assignment of objects to grid cells: those around the centre of mass, on the grids for the object's scale.

Sources: SOLO (arXiv 1912.04488, section 3.3), SOLOv2 (arXiv 2003.10152, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskline.models.network import Target

REACH = 1  # largest distance to the cell with the centre of mass, in cells

Ranges = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class AssignerConfig:
    """PaddleDetection's values. ``scale_ranges`` has an entry per grid."""

    scale_ranges: Ranges = (
        (1, 96),
        (48, 192),
        (96, 384),
        (192, 768),
        (384, 2048),
    )  # sqrt of box area, pixels, inclusive
    centre_fraction: float = 0.2  # of a box's sides: size of the centre region


class Assignment(NamedTuple):
    """P pairs of a cell and its object, in order of images; a cell may have several objects."""

    image: Tensor  # (P,) int64
    cell: Tensor  # (P,) int64: index over all grids, row by row
    object: Tensor  # (P,) int64: index among all objects of the batch


class Centres(NamedTuple):
    """Centres of n objects, on the CPU in float64, because rounding could move a point across a cell border."""

    at: Tensor  # (n, 2) y x of the centre of mass, relative to the input's height and width; NaN for an empty mask
    reach: Tensor  # (n, 2) y x: half the centre region, relative to the input
    side: Tensor  # (n,) sqrt of the box's area, in pixels


@torch.no_grad()
def assign(targets: list[Target], size: tuple[int, int], grids: tuple[int, ...], config: AssignerConfig) -> Assignment:
    """Assign the objects of a batch to grid cells.

    Args:
        size: (height, width) of the padded input that the grids cover; masks may be smaller.
        grids: cells per side of each grid.
    """
    parts, before = [], 0
    for i, target in enumerate(targets):
        cells, rows = assign_one(centres_of(target, size, config.centre_fraction), grids, config.scale_ranges)
        parts.append(torch.stack([torch.full_like(rows, i), cells, rows + before]))
        before += len(target.labels)
    return Assignment(*torch.cat(parts, dim=1).to(targets[0].labels.device))


def centres_of(target: Target, size: tuple[int, int], share: float) -> Centres:
    """Centres of the objects of an image. Pixel coordinates are corners, not centres, as in PaddleDetection."""
    sums = [target.masks.sum(dim=dim) for dim in (2, 1)]  # (n, H) and (n, W) int64
    moments = torch.stack([(s * torch.arange(s.shape[1], device=s.device)).sum(dim=1) for s in sums], dim=1)
    at = moments.cpu().double() / sums[0].sum(dim=1, keepdim=True).cpu()
    sides = (target.boxes[:, [3, 2]] - target.boxes[:, [1, 0]]).cpu()
    whole = torch.tensor(size, dtype=torch.float64)
    return Centres(at / whole, 0.5 * share * sides.double() / whole, sides.prod(dim=1).sqrt())


def assign_one(centres: Centres, grids: tuple[int, ...], sizes: Ranges) -> tuple[Tensor, Tensor]:
    """Assign the objects of one image: cell indices over all grids (P,) and object indices (P,)."""
    cells, rows, first = [], [], 0
    for grid, (least, most) in zip(grids, sizes, strict=True):
        chosen = (centres.side >= least) & (centres.side <= most) & ~centres.at.isnan().any(dim=1)
        row = torch.nonzero(chosen).flatten()
        at, reach = centres.at[row], centres.reach[row]
        own, low, high = (cell_at(x, grid) for x in (at, at - reach, at + reach))  # (m, 2)
        near = own[..., None] + torch.arange(-REACH, REACH + 1)  # (m, 2, 3)
        legal = (near >= low.clamp(min=0)[..., None]) & (near <= high.clamp(max=grid - 1)[..., None])
        which, y, x = torch.nonzero(legal[:, 0, :, None] & legal[:, 1, None], as_tuple=True)
        cells.append(first + near[which, 0, y] * grid + near[which, 1, x])
        rows.append(row[which])
        first += grid * grid
    return torch.cat(cells), torch.cat(rows)


def cell_at(position: Tensor, grid: int) -> Tensor:
    """Index of the cell, of ``grid`` equal ones in [0, 1], that a position is in; not clipped."""
    return torch.div(position, 1 / grid, rounding_mode="floor").long()


def reduced(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Downsample masks (n, H, W) of 0 and 1, padded to ``size``, by 4: (n, height / 4, width / 4).

    A cell is 1 if at least two of its four central pixels are: bilinear interpolation, rounded.
    """
    H, W = masks.shape[-2:]
    if size != (H, W):
        masks = F.pad(masks, (0, size[1] - W, 0, size[0] - H))
    rows = masks[:, 1::4] + masks[:, 2::4]
    return (rows[..., 1::4] + rows[..., 2::4] >= 2).to(torch.uint8)
