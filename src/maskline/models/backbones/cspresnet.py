"""CSPResNet: residual blocks with a RepVGG convolution, on half the channels of each stage.

Source: PP-YOLOE (arXiv 2203.16250, section 2.2); the weighted 1x1 branch of its blocks is from PP-YOLOE+.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.layers import ConvNorm, RepVGG

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class CSPResNetConfig:
    """Widths and depths. Tuples have an entry per stage (strides 4, 8, 16, 32)."""

    stem_channels: int  # output of the stem, at stride 2; half of it inside
    out_channels: tuple[int, int, int, int]
    num_blocks: tuple[int, int, int, int]


class Block(nn.Module):
    """3x3 convolution and RepVGG, with an optional shortcut; ``weighted`` as in `RepVGG`."""

    def __init__(self, channels: int, *, shortcut: bool, weighted: bool) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, activation=F.silu)
        self.rep = RepVGG(channels, weighted=weighted)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rep(self.conv(x))
        return x + out if self.shortcut else out


class ChannelAttention(nn.Module):
    """Channel attention by effective squeeze-excitation (arXiv 1911.06667)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean(dim=(2, 3), keepdim=True)))


class Stage(nn.Module):
    """Downsample by 2; half the channels pass through the blocks, half bypass them."""

    def __init__(self, in_channels: int, out_channels: int, *, num_blocks: int) -> None:
        super().__init__()
        mid = (in_channels + out_channels) // 2
        half = mid // 2
        self.down = ConvNorm(in_channels, mid, 3, stride=2, activation=F.silu)
        self.conv1 = ConvNorm(mid, half, 1, activation=F.silu)
        self.conv2 = ConvNorm(mid, half, 1, activation=F.silu)
        self.blocks = nn.Sequential(*(Block(half, shortcut=True, weighted=True) for _ in range(num_blocks)))
        self.attention = ChannelAttention(2 * half)
        self.conv3 = ConvNorm(2 * half, out_channels, 1, activation=F.silu)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        x = torch.cat([self.conv1(x), self.blocks(self.conv2(x))], dim=1)
        out: Tensor = self.conv3(self.attention(x))
        return out


class CSPResNet(nn.Module):
    """Image (B, 3, H, W) to four maps (B, out_channels[i], H / STRIDES[i], W / STRIDES[i]); H, W multiples of 32."""

    def __init__(self, config: CSPResNetConfig) -> None:
        super().__init__()
        half = config.stem_channels // 2
        self.stem = nn.Sequential(
            ConvNorm(3, half, 3, stride=2, activation=F.silu),
            ConvNorm(half, half, 3, activation=F.silu),
            ConvNorm(half, config.stem_channels, 3, activation=F.silu),
        )
        widths = (config.stem_channels, *config.out_channels)
        self.stages = nn.ModuleList(Stage(widths[i], widths[i + 1], num_blocks=config.num_blocks[i]) for i in range(4))

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]
