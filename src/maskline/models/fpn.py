"""Feature pyramid network (arXiv 1612.03144): top-down pathway with lateral connections."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32, 64)  # of the levels, P2 … P6
SIZE_DIVISOR = 32  # pixels: image sides are padded to a multiple, as in PaddleDetection

#: PaddleDetection's parameter names to ours; see `maskline.models.rcnn.weights`.
RENAME = (
    *((rf"^neck\.fpn_inner_res{i + 2}_sum(?:_lateral)?\.", f"neck.lateral.{i}.") for i in range(4)),
    *((rf"^neck\.fpn_res{i + 2}_sum\.", f"neck.output.{i}.") for i in range(4)),
)


class FPN(nn.Module):
    """Backbone maps at strides 4, 8, 16, 32 to five levels of equal width, at strides 4 to 64.

    Index 0 of every list is stride 4.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        """in_channels: of the four maps; channels: of each level."""
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(n, channels, 1) for n in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps: strides 4, 8, 16, 32, each (B, C, h, w); sizes need not halve exactly."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:], mode="nearest")
        levels = [output(x) for output, x in zip(self.output, levels, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]
