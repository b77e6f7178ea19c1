"""ResNet and ResNeXt with bottleneck blocks.

Sources: ResNet (arXiv 1512.03385); variants b (stride in the 3x3 convolution) and d (also three stem convolutions and
pooled shortcuts), arXiv 1812.01187, section 4.2; ResNeXt (arXiv 1611.05431).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.layers import ConvNorm

STRIDES = (4, 8, 16, 32)
EXPANSION = 4  # output channels of a block / its inner channels
PLAIN_WIDTH = 64  # of a ResNet's stem, which ``width_per_group`` refers to


#: PaddleDetection's parameter names to ours; see `maskline.models.rcnn.weights`.
RENAME = (
    # batch norm
    (r"\._mean$", ".running_mean"),
    (r"\._variance$", ".running_var"),
    # stem
    (r"^backbone\.conv1\.conv1(?:_1)?\.", "backbone.stem.0."),
    (r"^backbone\.conv1\.conv1_2\.", "backbone.stem.1."),
    (r"^backbone\.conv1\.conv1_3\.", "backbone.stem.2."),
    # stages
    (r"^backbone\.res2\.res2", "backbone.stages.0."),
    (r"^backbone\.res3\.res3", "backbone.stages.1."),
    (r"^backbone\.res4\.res4", "backbone.stages.2."),
    (r"^backbone\.res5\.res5", "backbone.stages.3."),
    # blocks: a, b, c …; or, in a long stage, a, b1, b2 …
    *((rf"^(backbone\.stages\.\d)\.{letter}\.", rf"\g<1>.{i}.") for i, letter in enumerate("abcdef")),
    (r"^(backbone\.stages\.\d)\.b(\d+)\.", r"\1.\2."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
    (r"\.short\.conv\.(conv|norm)\.", r".shortcut.\1."),
    (r"\.short\.", ".shortcut."),
)


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Depths and widths. Tuples have an entry per stage (strides 4, 8, 16, 32).

    Attributes:
        variant: ``d`` (Paddle's "vd"): a stem of three convolutions, and shortcuts that pool before the projection.
        groups: of each 3x3 convolution.
        width_per_group: channels per group in the first stage, at ``width`` 64; doubles with each stage.
        width: output channels of the stem; all others are proportional.
    """

    num_blocks: tuple[int, int, int, int]
    variant: Literal["b", "d"] = "b"
    groups: int = 1
    width_per_group: int = 64
    width: int = PLAIN_WIDTH

    @property
    def out_channels(self) -> tuple[int, int, int, int]:
        """Output channels of each stage."""
        first = EXPANSION * self.width
        return first, 2 * first, 4 * first, 8 * first

    @property
    def mid_channels(self) -> tuple[int, int, int, int]:
        """Inner channels of the blocks of each stage."""
        first = self.width * self.width_per_group * self.groups // PLAIN_WIDTH
        return first, 2 * first, 4 * first, 8 * first


class Block(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut.

    Args:
        pooled: the shortcut downsamples by 2x2 average pooling, not by stride.
        project: the shortcut has a 1x1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        stride: int,
        groups: int,
        pooled: bool,
        project: bool,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, mid_channels, 1, activation=F.relu)
        self.conv2 = ConvNorm(mid_channels, mid_channels, 3, stride=stride, groups=groups, activation=F.relu)
        self.conv3 = ConvNorm(mid_channels, out_channels, 1)
        self.pooled = pooled
        self.shortcut = (
            ConvNorm(in_channels, out_channels, 1, stride=1 if pooled else stride) if project else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        short = self.shortcut(F.avg_pool2d(x, 2) if self.pooled else x)
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + short)


class ResNet(nn.Module):
    """Image (B, 3, H, W) to maps (B, out_channels[i], H / STRIDES[i], W / STRIDES[i]).

    H and W are multiples of 32; variant ``b`` takes any and rounds sizes up.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        width = config.width
        layers = (
            ((3, width // 2), (width // 2, width // 2), (width // 2, width)) if config.variant == "d" else ((3, width),)
        )
        self.stem = nn.Sequential(
            *(
                ConvNorm(n, m, 3 if config.variant == "d" else 7, stride=1 if i else 2, activation=F.relu)
                for i, (n, m) in enumerate(layers)
            )
        )
        self.stages = nn.ModuleList(make_stage(config, i) for i in range(4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image: Tensor, stages: int = 4) -> list[Tensor]:
        """Return the maps of the first ``stages`` stages."""
        maps = [F.max_pool2d(self.stem(image), 3, stride=2, padding=1)]
        for stage in self.stages[:stages]:
            maps.append(stage(maps[-1]))
        return maps[1:]


def make_stage(config: ResNetConfig, index: int) -> nn.Sequential:
    """Build a stage; its first block changes the width and, except in stage 0, downsamples by 2."""
    before = (config.width, *config.out_channels)[index]
    out, stride = config.out_channels[index], 2 if index else 1
    return nn.Sequential(
        *(
            Block(
                out if i else before,
                config.mid_channels[index],
                out,
                stride=1 if i else stride,
                groups=config.groups,
                pooled=config.variant == "d" and index > 0 and i == 0,
                project=i == 0,
            )
            for i in range(config.num_blocks[index])
        )
    )
