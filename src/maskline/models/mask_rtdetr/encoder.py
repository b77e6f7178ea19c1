"""The neck of Mask-RT-DETR: hybrid encoder (RT-DETR, arXiv 2304.08069, section 4.2) and mask prototypes.

One transformer encoder runs on a single level; convolutions then fuse the levels top-down and bottom-up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.layers import ConvNorm, RepVGG, SelfAttention


class EncoderLayer(nn.Module):
    """Transformer encoder layer, post-norm."""

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(hidden_dim, num_heads)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x, position))
        out: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return out


def sincos_position(height: int, width: int, channels: int, *, like: Tensor) -> Tensor:
    """Fixed position embedding (1, height * width, channels): sine and cosine of the row, then of the column."""
    frequency = 10000.0 ** -(torch.arange(channels // 4, device=like.device, dtype=torch.float32) / (channels // 4))
    rows, columns = (torch.arange(n, device=like.device, dtype=torch.float32) for n in (height, width))
    angle_row = rows.repeat_interleave(width)[:, None] * frequency
    angle_column = columns.repeat(height)[:, None] * frequency
    parts = [angle_row.sin(), angle_row.cos(), angle_column.sin(), angle_column.cos()]
    return torch.cat(parts, dim=1)[None].to(like.dtype)


class TransformerEncoder(nn.Module):
    """Self-attention over all positions of one map (B, C, h, w)."""

    def __init__(self, num_layers: int, hidden_dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(hidden_dim, num_heads, feedforward_dim) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        B, C, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # (B, h*w, C)
        position = sincos_position(h, w, C, like=tokens)
        for layer in self.layers:
            tokens = layer(tokens, position)
        return tokens.transpose(1, 2).reshape(B, C, h, w)


class CSPRepLayer(nn.Module):
    """Two 1x1 branches, one with RepVGG blocks, summed; then a 1x1 convolution unless ``expansion`` is 1."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: float, num_blocks: int = 3) -> None:
        super().__init__()
        inner = int(out_channels * expansion)
        self.conv1 = ConvNorm(in_channels, inner, 1, activation=F.silu)
        self.blocks = nn.Sequential(*(RepVGG(inner) for _ in range(num_blocks)))
        self.conv2 = ConvNorm(in_channels, inner, 1, activation=F.silu)
        widen = inner != out_channels
        self.conv3 = ConvNorm(inner, out_channels, 1, activation=F.silu) if widen else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(self.blocks(self.conv1(x)) + self.conv2(x))
        return out


class MaskFeatures(nn.Module):
    """Prototypes at stride 4 from the encoder's three levels and the backbone's stride-4 map."""

    def __init__(
        self, hidden_dim: int, stride4_channels: int, mid_channels: int, out_channels: int, num_prototypes: int
    ) -> None:
        super().__init__()
        self.stride8 = ConvNorm(hidden_dim, mid_channels, 3, activation=F.silu)
        self.stride16 = ConvNorm(hidden_dim, mid_channels, 3, activation=F.silu)
        self.stride32 = nn.ModuleList(
            ConvNorm(n, mid_channels, 3, activation=F.silu) for n in (hidden_dim, mid_channels)
        )
        self.merge = ConvNorm(mid_channels, out_channels, 3, activation=F.silu)
        self.lateral = ConvNorm(stride4_channels, out_channels, 3, activation=F.silu)
        self.smooth = ConvNorm(out_channels, out_channels, 3, activation=F.silu)
        self.project = nn.Conv2d(out_channels, num_prototypes, 1)

    def forward(self, stride4: Tensor, levels: list[Tensor]) -> Tensor:
        """stride4: (B, C4, H/4, W/4); levels: strides 8, 16, 32. Returns prototypes (B, P, H/4, W/4)."""
        x8 = self.stride8(levels[0])
        x16 = double(self.stride16(levels[1]))
        x32 = double(self.stride32[1](double(self.stride32[0](levels[2]))))
        x4 = double(self.merge(x8 + x16 + x32)) + self.lateral(stride4)
        prototypes: Tensor = self.project(self.smooth(x4))
        return prototypes


def double(x: Tensor) -> Tensor:
    """Upsample by 2, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class HybridEncoder(nn.Module):
    """Backbone maps (strides 4, 8, 16, 32) to three encoded levels (strides 8, 16, 32) and mask prototypes."""

    def __init__(
        self,
        in_channels: tuple[int, int, int, int],
        *,
        hidden_dim: int,
        num_heads: int,
        attention_stride: int,
        num_layers: int,
        feedforward_dim: int,
        expansion: float,
        mask_channels: tuple[int, int],
        num_prototypes: int,
    ) -> None:
        super().__init__()
        self.attention_level = (8, 16, 32).index(attention_stride)
        self.project = nn.ModuleList(ConvNorm(n, hidden_dim, 1) for n in in_channels[1:])
        self.encoder = TransformerEncoder(num_layers, hidden_dim, num_heads, feedforward_dim)
        # Top-down, index 0 merges strides 32 and 16, index 1 the result and 8; bottom-up: 8 and 16, then 16 and 32.
        self.lateral = nn.ModuleList(ConvNorm(hidden_dim, hidden_dim, 1, activation=F.silu) for _ in range(2))
        self.top_down = nn.ModuleList(CSPRepLayer(2 * hidden_dim, hidden_dim, expansion=expansion) for _ in range(2))
        self.down = nn.ModuleList(ConvNorm(hidden_dim, hidden_dim, 3, stride=2, activation=F.silu) for _ in range(2))
        self.bottom_up = nn.ModuleList(CSPRepLayer(2 * hidden_dim, hidden_dim, expansion=expansion) for _ in range(2))
        self.mask_features = MaskFeatures(hidden_dim, in_channels[0], *mask_channels, num_prototypes)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the levels, each (B, hidden_dim, H/stride, W/stride), and prototypes (B, P, H/4, W/4)."""
        stride4, *deeper = maps
        levels = [project(x) for project, x in zip(self.project, deeper, strict=True)]
        levels[self.attention_level] = self.encoder(levels[self.attention_level])
        x8, x16, x32 = levels

        x32 = self.lateral[0](x32)
        x16 = self.lateral[1](self.top_down[0](torch.cat([enlarge(x32), x16], dim=1)))
        x8 = self.top_down[1](torch.cat([enlarge(x16), x8], dim=1))
        x16 = self.bottom_up[0](torch.cat([self.down[0](x8), x16], dim=1))
        x32 = self.bottom_up[1](torch.cat([self.down[1](x16), x32], dim=1))

        levels = [x8, x16, x32]
        return levels, self.mask_features(stride4, levels)


def enlarge(x: Tensor) -> Tensor:
    """Upsample by 2, nearest."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
