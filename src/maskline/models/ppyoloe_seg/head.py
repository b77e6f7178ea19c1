"""The head of PP-YOLOE-seg: class, box and mask coefficients of every anchor point, and mask prototypes.

Sources: the efficient task-aligned head of PP-YOLOE (arXiv 2203.16250, section 2.2), distances as distributions
(arXiv 2006.04388), prototypes and coefficients (YOLACT, arXiv 1904.02689).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.layers import ConvNorm

STRIDES = (32, 16, 8)  # of the levels, in the order of anchor points
BINS = 17  # a distance is the mean of a distribution over 0 ... 16 strides
PRIOR = 0.01  # initial class score


class Predictions(NamedTuple):
    """Predictions for B images at L anchor points: all levels, coarsest first, row by row."""

    classes: Tensor  # (B, C, L) logits
    distances: Tensor  # (B, 4 * BINS, L) logits of left, top, right, bottom
    coefficients: Tensor  # (B, M, L)
    prototypes: Tensor  # (B, M, H/4, W/4)
    anchor_points: AnchorPoints


class AnchorPoints(NamedTuple):
    """L anchor points of the input."""

    points: Tensor  # (L, 2) x y of a cell's centre, in pixels
    strides: Tensor  # (L,) pixels


class ChannelGate(nn.Module):
    """Channel attention, then a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.conv = ConvNorm(channels, channels, 1, activation=F.silu)

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """x: (B, C, h, w); mean: (B, C, 1, 1) of x."""
        out: Tensor = self.conv(x * torch.sigmoid(self.fc(mean)))
        return out


class Prototypes(nn.Module):
    """Mask prototypes, at twice the resolution of the input map."""

    def __init__(self, in_channels: int, mid_channels: int, num_prototypes: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, mid_channels, 3, activation=F.silu)
        self.enlarge = nn.ConvTranspose2d(mid_channels, mid_channels, 2, stride=2)
        self.conv2 = ConvNorm(mid_channels, mid_channels, 3, activation=F.silu)
        self.conv3 = ConvNorm(mid_channels, num_prototypes, 1, activation=F.silu)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(self.conv2(self.enlarge(self.conv1(x))))
        return out


class Head(nn.Module):
    """Levels at strides 32, 16, 8 to predictions. Index 0 of every list is stride 32."""

    bins: Tensor

    def __init__(
        self, channels: tuple[int, int, int], *, num_classes: int, num_prototypes: int, prototype_channels: int
    ) -> None:
        super().__init__()
        self.class_gates = nn.ModuleList(ChannelGate(n) for n in channels)
        self.box_gates = nn.ModuleList(ChannelGate(n) for n in channels)
        self.mask_gates = nn.ModuleList(ChannelGate(n) for n in channels)
        self.class_heads = nn.ModuleList(nn.Conv2d(n, num_classes, 3, padding=1) for n in channels)
        self.box_heads = nn.ModuleList(nn.Conv2d(n, 4 * BINS, 3, padding=1) for n in channels)
        self.mask_heads = nn.ModuleList(nn.Conv2d(n, num_prototypes, 3, padding=1) for n in channels)
        self.prototypes = Prototypes(channels[-1], prototype_channels, num_prototypes)
        # PaddleDetection stores them with the weights, as a convolution that is not trained.
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1))

    def reset(self) -> None:
        """Initialise the weights: all scores are PRIOR, distances uniform, gates at 0.5."""
        for module in self.modules():
            if isinstance(module, ChannelGate):
                nn.init.normal_(module.fc.weight, std=1e-3)
        for heads, bias in ((self.class_heads, -math.log((1 - PRIOR) / PRIOR)), (self.box_heads, 1.0)):
            for parameter in heads.parameters():
                nn.init.constant_(parameter, bias if parameter.ndim == 1 else 0.0)

    def forward(self, levels: list[Tensor]) -> Predictions:
        """levels: strides 32, 16, 8, each (B, C, H/stride, W/stride)."""
        classes, distances, coefficients = [], [], []
        for i, x in enumerate(levels):
            mean = x.mean(dim=(2, 3), keepdim=True)
            classes.append(self.class_heads[i](self.class_gates[i](x, mean) + x).flatten(2))
            distances.append(self.box_heads[i](self.box_gates[i](x, mean)).flatten(2))
            coefficients.append(self.mask_heads[i](self.mask_gates[i](x, mean) + x).flatten(2))
        return Predictions(
            torch.cat(classes, dim=2),
            torch.cat(distances, dim=2),
            torch.cat(coefficients, dim=2),
            self.prototypes(levels[-1]),
            anchor_points(levels),
        )


def anchor_points(levels: list[Tensor]) -> AnchorPoints:
    """Return the centres of all cells of the levels (strides 32, 16, 8)."""
    points, strides = [], []
    for x, stride in zip(levels, STRIDES, strict=True):
        height, width = x.shape[-2:]
        kind = torch.promote_types(x.dtype, torch.float32)  # half precision can't resolve pixels
        rows, columns = ((torch.arange(n, device=x.device, dtype=kind) + 0.5) * stride for n in (height, width))
        points.append(torch.stack([columns.repeat(height), rows.repeat_interleave(width)], dim=1))
        strides.append(torch.full((height * width,), stride, device=x.device, dtype=kind))
    return AnchorPoints(torch.cat(points), torch.cat(strides))


def mean_distances(logits: Tensor, bins: Tensor) -> Tensor:
    """Means (B, L, 4), in strides, of distributions (B, 4 * BINS, L) over ``bins`` (1, BINS, 1, 1)."""
    B, _, L = logits.shape
    shares = logits.view(B, 4, BINS, L).softmax(dim=2)
    return (shares * bins.view(1, 1, BINS, 1)).sum(dim=2).transpose(1, 2)


def boxes_from_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) ``x1 y1 x2 y2`` from points (..., 2) and distances (..., 4) of left, top, right, bottom."""
    near, far = torch.split(distances, 2, dim=-1)
    return torch.cat([points - near, points + far], dim=-1)
