"""The head of SOLOv2: category and kernel of each cell of five grids, and the mask features.

Sources: SOLOv2 (arXiv 2003.10152, section 3); coordinate channels, CoordConv (arXiv 1807.03247).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32  # of group norm
PRIOR = 0.01  # initial class score


class Predictions(NamedTuple):
    """Predictions for B images. Lists have an entry per grid of g x g cells, which covers the padded input."""

    classes: list[Tensor]  # (B, C, g, g) logits
    kernels: list[Tensor]  # (B, E, g, g)
    features: Tensor  # (B, E, H/4, W/4): their product with a cell's kernel is its mask, as logits


class ConvGroupNorm(nn.Module):
    """Convolution without bias, same padding; group norm; ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        # calling the module would check for a single value per channel, which can't be exported
        x = torch.group_norm(self.conv(x), GROUPS, self.norm.weight, self.norm.bias, self.norm.eps)
        return F.relu(x)


class Head(nn.Module):
    """Five levels to category and kernel of the cells of five grids, with shared weights."""

    def __init__(self, channels: int, width: int, *, num_convs: int, kernel_dim: int, num_classes: int) -> None:
        """kernel_dim: size of a kernel; num_convs: convolutions of ``width`` channels before the last."""
        super().__init__()
        inputs = [channels] + [width] * (num_convs - 1)
        self.category_convs = nn.Sequential(*(ConvGroupNorm(n, width, 3) for n in inputs))
        self.kernel_convs = nn.Sequential(*(ConvGroupNorm(n + 2 * (i == 0), width, 3) for i, n in enumerate(inputs)))
        self.category = nn.Conv2d(width, num_classes, 3, padding=1)
        self.kernel = nn.Conv2d(width, kernel_dim, 3, padding=1)

    def reset(self) -> None:
        """Initialise the weights; all scores are PRIOR."""
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
    """Levels at strides 4, 8, 16, 32 to one map at stride 4: convolved, upsampled and summed.

    Index 0 of ``levels`` is stride 4.
    """

    def __init__(self, channels: int, width: int, out: int) -> None:
        super().__init__()
        inputs = (channels, channels, channels, channels + 2)  # the coarsest has coordinate channels
        self.levels = nn.ModuleList(
            nn.ModuleList(ConvGroupNorm(width if j else n, width, 3) for j in range(max(i, 1)))
            for i, n in enumerate(inputs)
        )
        self.merge = ConvGroupNorm(width, out, 1)

    def reset(self) -> None:
        """Initialise the weights."""
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
    """Resize x to the size of another map, bilinear."""
    return F.interpolate(x, size=other.shape[-2:], mode="bilinear")


def with_coordinates(x: Tensor) -> Tensor:
    """Append x and y coordinates, from -1 to 1, to x (B, C, h, w): (B, C + 2, h, w)."""
    B, _, h, w = x.shape
    down, across = (from_minus_one(n, x) for n in (h, w))
    return torch.cat([x, across.expand(B, 1, h, w), down[:, None].expand(B, 1, h, w)], dim=1)


def from_minus_one(number: int, like: Tensor) -> Tensor:
    """``number`` equally spaced values from -1 to 1; -1 if there is one."""
    steps = torch.arange(number, device=like.device, dtype=torch.float32)
    return (2 * steps / steps.amax(dim=0).clamp(min=1) - 1).to(like.dtype)
