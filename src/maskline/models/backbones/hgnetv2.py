"""PP-HGNetV2: a convolutional backbone whose blocks aggregate the outputs of all their layers.

Source: the PP-HGNetV2 backbones of RT-DETR (arXiv 2304.08069, section 4.1) and PaddleClas.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.layers import ConvNorm

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class HGNetV2Config:
    """Widths and depths. Tuples of four have an entry per stage (strides 4, 8, 16, 32)."""

    stem_channels: tuple[int, int]  # inside and output
    out_channels: tuple[int, int, int, int]
    mid_channels: tuple[int, int, int, int]  # of the layers in a block
    num_blocks: tuple[int, int, int, int]
    num_layers: int  # per block


class Stem(nn.Module):
    """Two strided convolutions, to stride 4, with parallel pooled and convolved branches in between."""

    def __init__(self, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.down1 = ConvNorm(3, mid_channels, 3, stride=2, activation=F.relu)
        self.branch1 = ConvNorm(mid_channels, mid_channels // 2, 2, activation=F.relu)
        self.branch2 = ConvNorm(mid_channels // 2, mid_channels, 2, activation=F.relu)
        self.down2 = ConvNorm(2 * mid_channels, mid_channels, 3, stride=2, activation=F.relu)
        self.project = ConvNorm(mid_channels, out_channels, 1, activation=F.relu)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down1(x)
        convolved = self.branch2(pad_end(self.branch1(pad_end(x))))
        pooled = F.max_pool2d(pad_end(x), 2, stride=1)  # x >= 0, so the zero padding never is the maximum
        projected: Tensor = self.project(self.down2(torch.cat([pooled, convolved], dim=1)))
        return projected


def pad_end(x: Tensor) -> Tensor:
    """Pad a row of zeros below and a column right: same padding for a 2x2 kernel."""
    return F.pad(x, (0, 1, 0, 1))


class LightConv(nn.Module):
    """Pointwise convolution without activation, then 5x5 depthwise convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pointwise = ConvNorm(in_channels, out_channels, 1)
        self.depthwise = ConvNorm(out_channels, out_channels, 5, groups=out_channels, activation=F.relu)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.depthwise(self.pointwise(x))
        return out


class Block(nn.Module):
    """A chain of layers; the input and all outputs are concatenated and reduced to the output width."""

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, *, num_layers: int, light: bool, residual: bool
    ) -> None:
        super().__init__()
        widths = [in_channels] + [mid_channels] * num_layers
        self.layers = nn.ModuleList(
            LightConv(n, m) if light else ConvNorm(n, m, 3, activation=F.relu) for n, m in pairwise(widths)
        )
        self.squeeze = ConvNorm(sum(widths), out_channels // 2, 1, activation=F.relu)
        self.excite = ConvNorm(out_channels // 2, out_channels, 1, activation=F.relu)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        aggregated: Tensor = self.excite(self.squeeze(torch.cat(outputs, dim=1)))
        return x + aggregated if self.residual else aggregated


class Stage(nn.Module):
    """Optional downsampling by 2, then blocks; all but the first have a shortcut."""

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        num_blocks: int,
        num_layers: int,
        light: bool,
        down: bool,
    ) -> None:
        super().__init__()
        self.down = ConvNorm(in_channels, in_channels, 3, stride=2, groups=in_channels) if down else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                Block(
                    out_channels if i else in_channels,
                    mid_channels,
                    out_channels,
                    num_layers=num_layers,
                    light=light,
                    residual=i > 0,
                )
                for i in range(num_blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.down(x))
        return out


class HGNetV2(nn.Module):
    """Image (B, 3, H, W) to four maps (B, out_channels[i], H / STRIDES[i], W / STRIDES[i]); H, W multiples of 32."""

    def __init__(self, config: HGNetV2Config) -> None:
        super().__init__()
        self.stem = Stem(*config.stem_channels)
        widths = (config.stem_channels[1], *config.out_channels)
        self.stages = nn.ModuleList(
            Stage(
                widths[i], config.mid_channels[i], config.out_channels[i],
                num_blocks=config.num_blocks[i], num_layers=config.num_layers, light=i >= 2, down=i > 0,
            )
            for i in range(4)
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]
