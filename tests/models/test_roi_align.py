"""RoIAlign is the operator's definition, in torch and in a graph; and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from fixtures import graphs
from torch import Tensor, nn

from maskline.models.roi_align import Regions, roi_align

STRIDES = (8, 16)
WIDE, HIGH = 240, 160  # pixels of the input

#: x1 y1 x2 y2: no area, narrow, tiny, the whole image, elongated either way, across borders, beyond them.
ODD = (
    (0.0, 0.0, 0.0, 0.0),
    (50.0, 60.0, 50.0, 90.0),
    (5.0, 5.0, 5.2, 5.1),
    (0.0, 0.0, WIDE, HIGH),
    (-30.0, 40.0, 270.0, 43.0),
    (100.0, -70.0, 103.0, 230.0),
    (-40.0, -40.0, 20.0, 30.0),
    (230.0, 150.0, 260.0, 190.0),
    (WIDE + 30.0, 10.0, WIDE + 90.0, 60.0),
    (10.0, -90.0, 60.0, -20.0),
    (-500.0, -500.0, 900.0, 700.0),
)


def some_maps(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Two images, three channels."""
    return [torch.randn(2, 3, HIGH // s, WIDE // s, dtype=dtype) for s in STRIDES]


def some_regions(number: int, seed: int = 0) -> tuple[Regions, Tensor]:
    """The odd ones first, then others anywhere, of either image; and from which level."""
    rng = torch.Generator().manual_seed(seed)
    ends = torch.rand(number, 2, 2, generator=rng) * torch.tensor([WIDE + 60, HIGH + 60]) - 40
    boxes = torch.cat([torch.tensor(ODD), torch.cat([ends.amin(dim=1), ends.amax(dim=1)], dim=1)])[:number]
    image, level = (torch.randint(2, (number,), generator=rng) for _ in range(2))
    return Regions(boxes, image), level


def pooled(maps: Sequence[Tensor], regions: Regions, level: Tensor, side: int = 3, aligned: bool = True) -> Tensor:
    return roi_align(maps, regions, level, strides=STRIDES[: len(maps)], side=side, aligned=aligned)


def defined(maps: Sequence[Tensor], regions: Regions, level: Tensor, side: int, aligned: bool) -> np.ndarray:
    """Box by box, bin by bin, point by point, in double precision."""
    out = np.zeros((len(level), maps[0].shape[1], side, side))
    for r, (box, image, at) in enumerate(zip(*(t.tolist() for t in regions), level.tolist(), strict=True)):
        values = maps[at][image].double().numpy()
        x1, y1, x2, y2 = (v / STRIDES[at] - 0.5 * aligned for v in box)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        across, down = math.ceil(w / side), math.ceil(h / side)
        for i, j, a, c in np.ndindex(side, side, down, across):
            y, x = y1 + (i + (a + 0.5) / down) * h / side, x1 + (j + (c + 0.5) / across) * w / side
            out[r, :, i, j] += interpolated(values, y, x) / (down * across)
    return out


def interpolated(values: np.ndarray, y: float, x: float) -> np.ndarray:
    """A map (C, h, w) at a point in cells; up to a cell outside its border goes on, further off is 0."""
    _, h, w = values.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return np.zeros(len(values))
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    upper = values[:, top, left] * (left + 1 - x) + values[:, top, right] * (x - left)
    lower = values[:, bottom, left] * (left + 1 - x) + values[:, bottom, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


# The definition


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("side", [1, 2, 7])
def test_bins_are_the_definition_s(side: int, aligned: bool) -> None:
    torch.manual_seed(0)
    maps, (regions, level) = some_maps(torch.float64), some_regions(30)
    regions = regions._replace(boxes=regions.boxes.double())
    found = pooled(maps, regions, level, side, aligned)
    assert found.shape == (30, 3, side, side)
    np.testing.assert_allclose(found.numpy(), defined(maps, regions, level, side, aligned), rtol=0, atol=1e-12)


@pytest.mark.parametrize("aligned", [True, False])
def test_boxes_of_any_shape_give_what_is_defined_for_them(aligned: bool) -> None:
    """Each alone, from either level: none owes its numbers to a larger box next to it."""
    torch.manual_seed(0)
    maps = some_maps()
    for box in ODD:
        for at in range(2):
            region, level = Regions(torch.tensor([box]), torch.tensor([1])), torch.tensor([at])
            found = pooled(maps, region, level, aligned=aligned).numpy()
            np.testing.assert_allclose(found, defined(maps, region, level, 3, aligned), rtol=0, atol=2e-5, err_msg=box)


def test_a_box_without_area_has_nothing_when_aligned_and_a_cell_when_not() -> None:
    maps = [torch.ones_like(m) for m in some_maps()]
    region, level = Regions(torch.tensor([[50.0, 60, 50, 90]]), torch.tensor([0])), torch.tensor([0])
    assert not pooled(maps, region, level).any()
    assert (pooled(maps, region, level, aligned=False) == 1).all()


def test_bins_of_a_slope_are_the_slope_at_their_centres() -> None:
    """Where aligned, a cell's value belongs to its centre: pixels 8 n + 4 of a map of stride 8."""
    column = (torch.arange(WIDE // 8) * 8 + 4.0).expand(1, 1, HIGH // 8, -1)
    region = Regions(torch.tensor([[40.0, 40, 100, 80]]), torch.tensor([0]))
    found = roi_align([column], region, torch.tensor([0]), strides=(8,), side=3, aligned=True)
    torch.testing.assert_close(found[0, 0], torch.tensor([50.0, 70, 90]).expand(3, 3))


def test_no_boxes_are_legal() -> None:
    maps, (regions, level) = some_maps(), some_regions(0)
    for m in maps:
        m.requires_grad_()
    found = pooled(maps, regions, level, 7)
    assert found.shape == (0, 3, 7, 7) and found.dtype == torch.float32
    found.sum().backward()
    assert all(m.grad is not None and not m.grad.any() for m in maps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_are_summed_in_float(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    maps, (regions, level) = some_maps(dtype), some_regions(30)
    found = pooled(maps, regions, level)
    assert found.dtype == torch.float32
    assert torch.equal(found, pooled([m.float() for m in maps], regions, level))


def test_a_box_sees_its_own_map_alone() -> None:
    """Whatever is in the other image, in the other level, and whatever other boxes there are."""
    torch.manual_seed(0)
    maps, (regions, level) = some_maps(), some_regions(60)
    together = pooled(maps, regions, level)
    for image in range(2):
        for at in range(2):
            own = (regions.image == image) & (level == at)
            lonely = [torch.full_like(m, torch.nan) for m in maps]
            lonely[at][image] = maps[at][image]
            assert own.sum() > 5
            torch.testing.assert_close(pooled(lonely, regions.select(own), level[own]), together[own])


def test_more_boxes_than_fit_on_one_map() -> None:
    """Order does not matter."""
    torch.manual_seed(0)
    maps, (regions, level) = some_maps(), some_regions(500)
    order = torch.randperm(500)
    shuffled = pooled(maps, regions.select(order), level[order])
    torch.testing.assert_close(shuffled, pooled(maps, regions, level)[order])


# The gradient


@pytest.mark.parametrize("aligned", [True, False])
def test_gradients_are_those_of_the_numbers(aligned: bool) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    regions, level = some_regions(14)
    regions = regions._replace(boxes=regions.boxes.double() / 4)
    assert torch.autograd.gradcheck(lambda *m: pooled(m, regions, level, 2, aligned), maps, fast_mode=True)


def test_each_cell_a_box_takes_is_reported() -> None:
    """A box on cells 5 … 9 of 10 rows: nothing else has a gradient, and the shares of a mean add up to one."""
    maps = [torch.zeros(2, 1, 20, 30, requires_grad=True), torch.zeros(2, 1, 10, 15, requires_grad=True)]
    region = Regions(torch.tensor([[40.0, 40, 80, 80]]), torch.tensor([1]))
    pooled(maps, region, torch.tensor([0]), 5).sum().backward()
    gradient, other = (m.grad for m in maps)
    assert gradient is not None and other is not None and not other.any() and not gradient[0].any()
    inside = torch.zeros(20, 30)
    inside[5:10, 5:10] = 1
    torch.testing.assert_close(gradient[1, 0], inside)


# The graph


class Pooled(nn.Module):
    """The operator in a network, from two maps or one."""

    def __init__(self, aligned: bool, levels: int) -> None:
        super().__init__()
        self.aligned, self.levels = aligned, levels

    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor, image: Tensor, level: Tensor) -> Tensor:
        maps = [fine, coarse][: self.levels]
        return pooled(maps, Regions(boxes, image), level, side=3, aligned=self.aligned)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_the_graph_gives_what_torch_gives(aligned: bool, levels: int) -> None:
    torch.manual_seed(0)
    maps, (regions, level) = some_maps(), some_regions(20)
    module = Pooled(aligned, levels)
    session = graphs.open_graph(module, (*maps, *regions, level), free=[(0, 2, 3), (0, 2, 3), (0,), (0,), (0,)])
    for number in (0, 1, 7, 80):
        regions, level = some_regions(number, seed=number)
        level = level.clamp(max=levels - 1)
        (found,) = graphs.run(session, *maps, *regions, level)[:1]
        assert found.shape == (number, 3, 3, 3)
        np.testing.assert_allclose(found, module(*maps, *regions, level).numpy(), rtol=0, atol=2e-5)
    for at in range(levels):  # all boxes in one level
        regions, level = some_regions(20)
        level = torch.full_like(level, at)
        (found,) = graphs.run(session, *maps, *regions, level)
        np.testing.assert_allclose(found, module(*maps, *regions, level).numpy(), rtol=0, atol=2e-5)
