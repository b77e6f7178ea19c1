"""The head of SOLOv2: a category and a kernel for each cell of five grids, and the map that kernels are applied to.

Source: SOLOv2 (arXiv 2003.10152, section 3); coordinates as further channels, CoordConv (arXiv 1807.03247).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32  # of group norm
PRIOR = 0.01  # every class's score before training


class Predictions(NamedTuple):
    """Of B images. A list has one entry for each grid, g x g cells that together cover the padded input."""

    classes: list[Tensor]  # (B, C, g, g) logits
    kernels: list[Tensor]  # (B, E, g, g)
    features: Tensor  # (B, E, H/4, W/4): a cell's kernel times these is its mask, as logits


class ConvGroupNorm(nn.Module):
    """Convolution without bias that keeps the size, group norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        # not by calling the norm: it asks whether there is a single value, which an exporter can't tell
        x = torch.group_norm(self.conv(x), GROUPS, self.norm.weight, self.norm.bias, self.norm.eps)
        return F.relu(x)


class Head(nn.Module):
    """Five levels to category and kernel of each cell of as many grids; the weights are the same for all of them."""

    def __init__(self, channels: int, width: int, *, num_convs: int, kernel_dim: int, num_classes: int) -> None:
        """kernel_dim: numbers in a kernel; num_convs: convolutions of ``width`` before the last one."""
        super().__init__()
        inputs = [channels] + [width] * (num_convs - 1)
        self.category_convs = nn.Sequential(*(ConvGroupNorm(n, width, 3) for n in inputs))
        self.kernel_convs = nn.Sequential(*(ConvGroupNorm(n + 2 * (i == 0), width, 3) for i, n in enumerate(inputs)))
        self.category = nn.Conv2d(width, num_classes, 3, padding=1)
        self.kernel = nn.Conv2d(width, kernel_dim, 3, padding=1)

    def reset(self) -> None:
        """Draw the weights training starts from: scores of PRIOR."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        assert self.kernel.bias is not None and self.category.bias is not None
        nn.init.zeros_(self.kernel.bias)
        nn.init.constant_(self.category.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, levels: list[Tensor], grids: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """levels: strides 4, 8, 16, 32, 64, each (B, C, h, w). Returns classes and kernels as in `Predictions`."""
        p2, p3, p4, p5, p6 = levels
        classes, kernels = [], []
        for x, grid in zip((resized(p2, p3), p3, p4, p5, resized(p6, p5)), grids, strict=True):
            cells = F.interpolate(with_coordinates(x), size=(grid, grid), mode="bilinear")
            kernels.append(self.kernel(self.kernel_convs(cells)))
            classes.append(self.category(self.category_convs(cells[:, :-2])))
        return classes, kernels


class MaskFeatures(nn.Module):
    """Levels of strides 4, 8, 16, 32 to one map of stride 4: each is convolved and doubled until it fits, then added.

    In ``levels`` index 0 belongs to stride 4.
    """

    def __init__(self, channels: int, width: int, out: int) -> None:
        super().__init__()
        inputs = (channels, channels, channels, channels + 2)  # the coarsest knows where it is
        self.levels = nn.ModuleList(
            nn.ModuleList(ConvGroupNorm(width if j else n, width, 3) for j in range(max(i, 1)))
            for i, n in enumerate(inputs)
        )
        self.merge = ConvGroupNorm(width, out, 1)

    def reset(self) -> None:
        """Draw the weights training starts from."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """levels: strides 4, 8, 16, 32, each (B, C, h, w)."""
        total: Tensor = self.levels.get_submodule("0.0")(levels[0])
        for i in range(1, len(self.levels)):
            x = levels[i] if i < len(self.levels) - 1 else with_coordinates(levels[i])
            for j in range(i):
                x = resized(self.levels.get_submodule(f"{i}.{j}")(x), levels[i - j - 1])
            total = total + x
        merged: Tensor = self.merge(total)
        return merged


def resized(x: Tensor, other: Tensor) -> Tensor:
    """x at the size of another map, bilinear."""
    return F.interpolate(x, size=other.shape[-2:], mode="bilinear")


def with_coordinates(x: Tensor) -> Tensor:
    """x (B, C, h, w) with two more channels: x and y of each place, each from -1 (first) to 1 (last)."""
    B, _, h, w = x.shape
    down, across = (from_minus_one(n, x) for n in (h, w))
    return torch.cat([x, across.expand(B, 1, h, w), down[:, None].expand(B, 1, h, w)], dim=1)


def from_minus_one(number: int, like: Tensor) -> Tensor:
    """(number,) from -1 to 1 in equal steps; a single one is -1."""
    steps = torch.arange(number, device=like.device, dtype=torch.float32)
    return (2 * steps / steps.amax(dim=0).clamp(min=1) - 1).to(like.dtype)
