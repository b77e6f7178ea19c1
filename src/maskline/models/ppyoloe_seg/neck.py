"""The neck of PP-YOLOE: a path aggregation network of CSP stages (arXiv 2203.16250, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.backbones.cspresnet import Block
from maskline.models.layers import ConvNorm

POOLS = (5, 9, 13)


class SpatialPyramid(nn.Module):
    """Spatial pyramid pooling: max pooling at three sizes, concatenated, and a 1x1 convolution (arXiv 1406.4729)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels * (1 + len(POOLS)), channels, 1, activation=F.silu)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in POOLS]
        mixed: Tensor = self.conv(torch.cat([x, *pooled], dim=1))
        return mixed


class CSPStage(nn.Module):
    """Two 1x1 branches, one with blocks without shortcut, concatenated; ``pyramid``: pooling between the blocks."""

    def __init__(self, in_channels: int, out_channels: int, *, num_blocks: int, pyramid: bool) -> None:
        super().__init__()
        mid = out_channels // 2
        self.conv1 = ConvNorm(in_channels, mid, 1, activation=F.silu)
        self.conv2 = ConvNorm(in_channels, mid, 1, activation=F.silu)
        self.blocks = nn.ModuleList(Block(mid, shortcut=False, weighted=False) for _ in range(num_blocks))
        self.pyramid = SpatialPyramid(mid) if pyramid else nn.Identity()
        self.conv3 = ConvNorm(2 * mid, out_channels, 1, activation=F.silu)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.conv2(x)
        for i, block in enumerate(self.blocks):
            deep = block(deep)
            if i == (len(self.blocks) - 1) // 2:
                deep = self.pyramid(deep)
        out: Tensor = self.conv3(torch.cat([self.conv1(x), deep], dim=1))
        return out


class PathAggregation(nn.Module):
    """Backbone maps at strides 8, 16, 32 to three levels, **coarsest first**: strides 32, 16, 8.

    Index 0 of every list of levels is stride 32.
    """

    def __init__(
        self, in_channels: tuple[int, int, int], out_channels: tuple[int, int, int], *, num_blocks: int
    ) -> None:
        """in_channels: of strides 8, 16, 32; out_channels: of strides 32, 16, 8."""
        super().__init__()
        c8, c16, c32 = in_channels
        out = out_channels
        joined = (c32, c16 + out[0] // 2, c8 + out[1] // 2)
        self.top_down = nn.ModuleList(
            CSPStage(joined[i], out[i], num_blocks=num_blocks, pyramid=i == 0) for i in range(len(out))
        )
        self.lateral = nn.ModuleList(ConvNorm(n, n // 2, 1, activation=F.silu) for n in out[:2])
        self.down = nn.ModuleList(ConvNorm(n, n, 3, stride=2, activation=F.silu) for n in out[1:])
        self.bottom_up = nn.ModuleList(
            CSPStage(out[i] + out[i + 1], out[i], num_blocks=num_blocks, pyramid=False) for i in range(2)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps: strides 8, 16, 32, each (B, C, H/stride, W/stride)."""
        x8, x16, x32 = maps
        x32 = self.top_down[0](x32)
        x16 = self.top_down[1](torch.cat([enlarge(self.lateral[0](x32)), x16], dim=1))
        x8 = self.top_down[2](torch.cat([enlarge(self.lateral[1](x16)), x8], dim=1))
        x16 = self.bottom_up[1](torch.cat([self.down[1](x8), x16], dim=1))
        x32 = self.bottom_up[0](torch.cat([self.down[0](x16), x32], dim=1))
        return [x32, x16, x8]


def enlarge(x: Tensor) -> Tensor:
    """Upsample by 2, nearest."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
