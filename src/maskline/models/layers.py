"""Layers shared by several networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, optional activation; same padding."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Return the equivalent convolution with bias, and activation, for eval mode."""
        weight, bias = self.fused_kernel()
        conv = copy.deepcopy(self.conv)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        return Activated(conv, self.activation)

    def fused_kernel(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution with the batch norm folded in."""
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        return self.conv.weight * scale[:, None, None, None], self.norm.bias - self.norm.running_mean * scale


class Activated(nn.Module):
    """A layer and an optional activation."""

    def __init__(self, layer: nn.Module, activation: Activation | None) -> None:
        super().__init__()
        self.layer, self.activation = layer, activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x if self.activation is None else self.activation(x)


class RepVGG(nn.Module):
    """Parallel 3x3 and 1x1 convolutions, summed (arXiv 2101.03697); ``weighted``: with a learned weight for 1x1."""

    def __init__(self, channels: int, *, weighted: bool = False) -> None:
        super().__init__()
        self.dense = ConvNorm(channels, channels, 3)
        self.pointwise = ConvNorm(channels, channels, 1)
        self.alpha = nn.Parameter(torch.ones(1)) if weighted else None

    def forward(self, x: Tensor) -> Tensor:
        pointwise = self.pointwise(x)
        return F.silu(self.dense(x) + (pointwise if self.alpha is None else self.alpha * pointwise))

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Return the equivalent 3x3 convolution with bias, and SiLU, for eval mode."""
        (dense, dense_bias), (pointwise, pointwise_bias) = self.dense.fused_kernel(), self.pointwise.fused_kernel()
        alpha = 1.0 if self.alpha is None else self.alpha
        conv = nn.Conv2d(dense.shape[1], dense.shape[0], 3, padding=1, dtype=dense.dtype, device=dense.device)
        assert conv.bias is not None
        conv.weight.copy_(dense + alpha * F.pad(pointwise, (1, 1, 1, 1)))
        conv.bias.copy_(dense_bias + alpha * pointwise_bias)
        return nn.Sequential(conv, nn.SiLU())


class MLP(nn.Module):
    """Linear layers with ReLU in between."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        last: Tensor = self.layers[-1](x)
        return last


class SelfAttention(nn.Module):
    """Multi-head self-attention; the position is added to queries and keys only (DETR, section 3.2)."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.out_proj = nn.Linear(hidden_dim, hidden_dim)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)

    def forward(self, x: Tensor, position: Tensor, may_attend: Tensor | None = None) -> Tensor:
        """x, position: (B, N, C); may_attend: (N, N) bool, True where row may attend to column. Returns (B, N, C)."""
        B, N, C = x.shape
        weight_qk, weight_v = torch.split(self.in_proj.weight, [2 * C, C])
        bias_qk, bias_v = torch.split(self.in_proj.bias, [2 * C, C])
        q, k = F.linear(x + position, weight_qk, bias_qk).chunk(2, dim=-1)
        v = F.linear(x, weight_v, bias_v)
        q, k, v = (t.view(B, N, self.num_heads, C // self.num_heads).transpose(1, 2) for t in (q, k, v))
        # now (B, num_heads, N, C / num_heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=may_attend)
        projected: Tensor = self.out_proj(out.transpose(1, 2).reshape(B, N, C))
        return projected


def to_fp32(x: Tensor) -> Tensor:
    """Cast half precision to float32, because sums over thousands of cells lose too much; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) of x clipped to [0, 1]; numerator and denominator are at least ``eps``."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def clip_probabilities(x: Tensor) -> Tensor:
    """Clip x to the range in which `inverse_sigmoid` is invertible: about [1e-5, 1 - 1e-5]."""
    return torch.sigmoid(inverse_sigmoid(x))


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert boxes (..., 4) from centre and size to ``x1 y1 x2 y2``."""
    centre, size = torch.split(boxes, 2, dim=-1)
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert boxes (..., 4) from ``x1 y1 x2 y2`` to centre and size."""
    first, second = torch.split(boxes, 2, dim=-1)
    return torch.cat([(first + second) / 2, second - first], dim=-1)
