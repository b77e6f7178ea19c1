"""Which cell answers for which object: those around its centre of mass, on the grids made for its size.

Source: SOLO (arXiv 1912.04488, section 3.3), SOLOv2 (arXiv 2003.10152, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskline.models.network import Target

REACH = 1  # cells from the one with the centre of mass, at most

Ranges = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class AssignerConfig:
    """The reference's values. ``sizes`` has one entry for each grid."""

    sizes: Ranges = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))  # pixels: root of a box's area, inclusive
    share: float = 0.2  # of a box's sides: cells as near to the centre of mass as half of it answer


class Assignment(NamedTuple):
    """The P pairs of a cell and an object it answers for, image after image; a cell may be in several."""

    image: Tensor  # (P,) int64
    cell: Tensor  # (P,) int64: its number over all grids, row by row
    object: Tensor  # (P,) int64: its row among all objects of the batch, image after image


class Centres(NamedTuple):
    """Of n objects, on the CPU in double precision, as it is about which side of a line a point is on."""

    at: Tensor  # (n, 2) y x of the centre of mass, as a share of the input's height and width; NaN of an empty mask
    reach: Tensor  # (n, 2) along y and x: how far from it cells answer, as such a share
    side: Tensor  # (n,) root of the box's area, in pixels


@torch.no_grad()
def assign(targets: list[Target], size: tuple[int, int], grids: tuple[int, ...], config: AssignerConfig) -> Assignment:
    """Find the cells that answer for objects, in every image of a batch.

    Args:
        size: (height, width) of the padded input that the grids cover; masks may be smaller.
        grids: cells along a side.
    """
    parts, before = [], 0
    for i, target in enumerate(targets):
        cells, rows = assign_one(centres_of(target, size, config.share), grids, config.sizes)
        parts.append(torch.stack([torch.full_like(rows, i), cells, rows + before]))
        before += len(target.labels)
    return Assignment(*torch.cat(parts, dim=1).to(targets[0].labels.device))


def centres_of(target: Target, size: tuple[int, int], share: float) -> Centres:
    """Where the objects of an image are. Pixels count from 0, as in the reference, not from their centres."""
    sums = [target.masks.sum(dim=dim) for dim in (2, 1)]  # (n, H) and (n, W) int64
    moments = torch.stack([(s * torch.arange(s.shape[1], device=s.device)).sum(dim=1) for s in sums], dim=1)
    at = moments.cpu().double() / sums[0].sum(dim=1, keepdim=True).cpu()
    sides = (target.boxes[:, [3, 2]] - target.boxes[:, [1, 0]]).cpu()
    whole = torch.tensor(size, dtype=torch.float64)
    return Centres(at / whole, 0.5 * share * sides.double() / whole, sides.prod(dim=1).sqrt())


def assign_one(centres: Centres, grids: tuple[int, ...], sizes: Ranges) -> tuple[Tensor, Tensor]:
    """Cells (P,), by their number over all grids, and the objects (P,) they answer for."""
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
    """Which of ``grid`` equal parts of [0, 1] a position is in; beyond it goes on counting."""
    return torch.div(position, 1 / grid, rounding_mode="floor").long()


def reduced(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, H, W) of 0 and 1 at a quarter of ``size``, which is at least theirs: (n, height / 4, width / 4).

    A cell is 1 if at least two of the four pixels in its middle are: linear interpolation, rounded.
    """
    H, W = masks.shape[-2:]
    if size != (H, W):
        masks = F.pad(masks, (0, size[1] - W, 0, size[0] - H))
    rows = masks[:, 1::4] + masks[:, 2::4]
    return (rows[..., 1::4] + rows[..., 2::4] >= 2).to(torch.uint8)
