"""The decoder of Mask-RT-DETR: query selection, deformable decoder layers, and shared heads.

Sources: RT-DETR (arXiv 2304.08069), Deformable DETR (arXiv 2010.04159), and Mask DINO (arXiv 2206.02777) for the mask
head and for initial boxes from predicted masks. Boxes are centre and size, relative to the input.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskline.models.layers import MLP, ConvNorm, SelfAttention, box_xyxy_to_cxcywh, clip_probabilities, inverse_sigmoid
from maskline.models.mask_rtdetr.denoising import Denoising, Noise, UnitTarget, denoising_queries

ANCHOR_SIZE = 0.05  # relative to the input, at stride 8; doubles with each level
ANCHOR_MARGIN = 0.01  # anchors closer to the border are not used
SCORE_PRIOR = 0.01  # initial class score


class Prediction(NamedTuple):
    """Predictions of Q queries."""

    logits: Tensor  # (B, Q, classes), before the sigmoid
    boxes: Tensor  # (B, Q, 4) in [0, 1]
    masks: Tensor  # (B, Q, h, w) logits at stride 4


class TrainingOutput(NamedTuple):
    """All predictions that enter the loss."""

    encoder: Prediction  # for the selected queries, before the decoder
    layers: list[Prediction]  # initial (only with denoising), and after each decoder layer
    denoising: list[Prediction]  # the same for denoising queries; may be empty
    groups: Denoising | None  # the denoising queries and their objects


class DeformableAttention(nn.Module):
    """Each query samples ``num_points`` around its reference box on every level (Deformable DETR, section 4.1)."""

    def __init__(self, hidden_dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(hidden_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(hidden_dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(hidden_dim, hidden_dim)
        self.output_proj = nn.Linear(hidden_dim, hidden_dim)
        self._reset()

    def _reset(self) -> None:
        """Initialise with a direction per head, a distance per point, and equal weights."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)[:, None]
        offsets = direction[:, None, None] * distance  # (num_heads, 1, num_points, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.data.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, boxes: Tensor, memory: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        """query (B, Q, C), boxes (B, Q, 4) in [0, 1], memory (B, sum of h*w, C); ``shapes``: (h, w) of its levels."""
        B, Q, C = query.shape
        M, L, P = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(memory).transpose(1, 2).reshape(B * M, C // M, -1)  # (B*M, C/M, sum of h*w)
        offsets = self.sampling_offsets(query).view(B, Q, M, L * P, 2)
        weights = self.attention_weights(query).view(B, Q, M, L * P).softmax(dim=-1)
        centre, size = torch.split(boxes[:, :, None, None], 2, dim=-1)
        locations = centre + offsets * (0.5 / P) * size  # (B, Q, M, L*P, 2), x and y, in [0, 1] inside the input
        grid = (2 * locations - 1).transpose(1, 2).reshape(B * M, Q, L, P, 2)
        sampled = [
            F.grid_sample(v.view(B * M, C // M, h, w), grid[:, :, i], padding_mode="zeros", align_corners=False)
            for i, ((h, w), v) in enumerate(
                zip(shapes, torch.split(value, [h * w for h, w in shapes], -1), strict=True)
            )
        ]  # L of (B*M, C/M, Q, P)
        weights = weights.transpose(1, 2).reshape(B * M, 1, Q, L * P)
        out = (torch.cat(sampled, dim=-1) * weights).sum(dim=-1)  # (B*M, C/M, Q)
        projected: Tensor = self.output_proj(out.view(B, C, Q).transpose(1, 2))
        return projected


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward; post-norm."""

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(hidden_dim, num_heads)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.cross_attn = DeformableAttention(hidden_dim, num_heads, num_levels, num_points)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        boxes: Tensor,
        memory: Tensor,
        shapes: list[tuple[int, int]],
        may_attend: Tensor | None,
    ) -> Tensor:
        query = self.norm1(query + self.self_attn(query, position, may_attend))
        query = self.norm2(query + self.cross_attn(query + position, boxes, memory, shapes))
        out: Tensor = self.norm3(query + self.linear2(F.relu(self.linear1(query))))
        return out


class QueryDecoder(nn.Module):
    """Encoded levels and prototypes to classes, boxes and masks of ``num_queries`` queries."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_prototypes: int,
        hidden_dim: int,
        num_heads: int,
        num_layers: int,
        feedforward_dim: int,
        num_points: int,
        num_queries: int,
        noise: Noise,
    ) -> None:
        super().__init__()
        self.num_queries, self.noise = num_queries, noise
        self.project = nn.ModuleList(ConvNorm(in_channels, hidden_dim, 1) for _ in range(3))
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_dim, num_heads, feedforward_dim, 3, num_points) for _ in range(num_layers)
        )
        self.label_embedding = nn.Embedding(num_classes, hidden_dim)
        self.position_head = MLP(4, 2 * hidden_dim, hidden_dim)
        self.memory_head = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.LayerNorm(hidden_dim))
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_head = nn.Linear(hidden_dim, num_classes)
        self.box_head = MLP(hidden_dim, hidden_dim, hidden_dim, 4)
        self.mask_head = MLP(hidden_dim, hidden_dim, hidden_dim, num_prototypes)
        self._reset()

    def _reset(self) -> None:
        nn.init.constant_(self.class_head.bias, -math.log(1 / SCORE_PRIOR - 1))
        for parameter in self.box_head.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, levels: list[Tensor], prototypes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inference.

        Args:
            levels: (B, C, h, w) at strides 8, 16, 32.
            prototypes: (B, prototypes, h, w) at stride 4.

        Returns:
            Class logits (B, Q, classes), boxes (B, Q, 4) in [0, 1], mask embeddings (B, Q, prototypes): its
            product with the prototypes is the query's mask (`masks_from`).
        """
        memory, shapes = self.flatten(levels)
        tokens, logits, _ = self.score_tokens(memory, shapes)
        content = gather(tokens, self.select(logits))
        query, boxes = content, self.boxes_of_masks(masks_from(self.mask_head(self.norm(content)), prototypes))
        for layer in self.layers:
            query = layer(query, self.position_head(boxes), boxes, memory, shapes, None)
            boxes = torch.sigmoid(self.box_head(query) + inverse_sigmoid(boxes))
        query = self.norm(query)
        return self.class_head(query), boxes, self.mask_head(query)

    def forward_train(self, levels: list[Tensor], prototypes: Tensor, targets: list[UnitTarget]) -> TrainingOutput:
        """Return the predictions of all layers, for matched and denoising queries."""
        memory, shapes = self.flatten(levels)
        tokens, logits, anchors = self.score_tokens(memory, shapes)
        chosen = self.select(logits)
        content = gather(tokens, chosen)
        encoder_boxes = torch.sigmoid(self.box_head(content) + gather(anchors.expand(len(content), -1, -1), chosen))
        encoder = self.predict(content, encoder_boxes, prototypes)

        query, boxes = content.detach(), self.boxes_of_masks(encoder.masks.detach())
        groups = denoising_queries(targets, self.label_embedding.weight, self.num_queries, self.noise)
        if groups is not None:
            query = torch.cat([groups.content, query], dim=1)
            boxes = torch.cat([groups.boxes, boxes], dim=1)
        else:  # every parameter needs a gradient in every step for distributed training
            query = query + 0 * self.label_embedding.weight.sum()
        outputs = [self.predict(query, boxes, prototypes)] if groups is not None else []
        outputs += self._decode(query, boxes, memory, shapes, prototypes, groups)
        split = groups.content.shape[1] if groups is not None else 0
        return TrainingOutput(
            encoder,
            [Prediction(*(t[:, split:] for t in p)) for p in outputs],
            [Prediction(*(t[:, :split] for t in p)) for p in outputs] if split else [],
            groups,
        )

    def _decode(
        self,
        query: Tensor,
        boxes: Tensor,
        memory: Tensor,
        shapes: list[tuple[int, int]],
        prototypes: Tensor,
        groups: Denoising | None,
    ) -> list[Prediction]:
        """Run all decoder layers. Reference boxes are detached between layers; predicted boxes keep the gradient of the
        previous layer (look forward twice, DINO, arXiv 2203.03605, section 3.5)."""
        outputs, previous = [], boxes
        for layer in self.layers:
            position = self.position_head(boxes)
            query = layer(query, position, boxes, memory, shapes, groups.may_attend if groups is not None else None)
            delta = self.box_head(query)
            outputs.append(self.predict(query, torch.sigmoid(delta + inverse_sigmoid(previous)), prototypes))
            previous = torch.sigmoid(delta + inverse_sigmoid(boxes))
            boxes = previous.detach()
        return outputs

    def predict(self, query: Tensor, boxes: Tensor, prototypes: Tensor) -> Prediction:
        """Predict class and mask of queries (B, Q, C), with heads shared by all layers."""
        query = self.norm(query)
        return Prediction(self.class_head(query), boxes, masks_from(self.mask_head(query), prototypes))

    def flatten(self, levels: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Flatten levels to one memory (B, sum of h*w, C); also return their (h, w)."""
        projected = [project(x) for project, x in zip(self.project, levels, strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in projected]
        return torch.cat([x.flatten(2) for x in projected], dim=2).transpose(1, 2), shapes

    def score_tokens(self, memory: Tensor, shapes: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return content (B, T, C) and class logits (B, T, classes) of all tokens, and anchors (1, T, 4) as logits."""
        anchors, usable = anchor_logits(shapes, like=memory)
        tokens = self.memory_head(memory * usable)
        return tokens, self.class_head(tokens), anchors

    def select(self, logits: Tensor) -> Tensor:
        """Indices (B, Q) of the tokens with the highest class score, best first."""
        return logits.amax(dim=-1).topk(self.num_queries, dim=1).indices

    @staticmethod
    def boxes_of_masks(masks: Tensor) -> Tensor:
        """Boxes (B, Q, 4) around the positive cells of masks, clipped inside (0, 1); nearly 0 for an empty mask."""
        x1, x2 = extent(masks.amax(dim=-2) > 0)
        y1, y2 = extent(masks.amax(dim=-1) > 0)
        return clip_probabilities(box_xyxy_to_cxcywh(torch.stack([x1, y1, x2, y2], dim=-1))).to(masks.dtype)


def extent(covered: Tensor) -> tuple[Tensor, Tensor]:
    """Start and end of the True values along the last axis, as fractions of its length; 0 if none."""
    n = covered.shape[-1]
    covered = covered.to(torch.float32)
    index = torch.arange(n, dtype=torch.float32, device=covered.device)
    last = (covered * (index + 1)).amax(dim=-1)
    first = n - (covered * (n - index)).amax(dim=-1)
    return torch.where(last > 0, first, 0.0) / n, last / n


def masks_from(embedding: Tensor, prototypes: Tensor) -> Tensor:
    """Embeddings (B, Q, D) and prototypes (B, D, h, w) to mask logits (B, Q, h, w)."""
    (B, Q, _), (h, w) = embedding.shape, prototypes.shape[-2:]
    return torch.bmm(embedding, prototypes.flatten(2)).view(B, Q, h, w)


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather tokens (B, T, C) at ``index`` (B, Q): (B, Q, C)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def anchor_logits(shapes: list[tuple[int, int]], *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Anchor boxes of all tokens, as logits (1, T, 4), and whether they are usable, (1, T, 1), 1 or 0.

    Anchors too close to the border are unusable; their logits are infinite."""
    anchors = []
    for level, (h, w) in enumerate(shapes):
        y = (torch.arange(h, dtype=torch.float32, device=like.device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=like.device) + 0.5) / w
        centre = torch.stack([x.repeat(h), y.repeat_interleave(w)], dim=-1)
        anchors.append(torch.cat([centre, torch.full_like(centre, ANCHOR_SIZE * 2**level)], dim=-1))
    boxes = torch.cat(anchors)[None]
    usable = ((boxes > ANCHOR_MARGIN) & (boxes < 1 - ANCHOR_MARGIN)).all(dim=-1, keepdim=True)
    logits = torch.where(usable, torch.log(boxes / (1 - boxes)), torch.inf)
    return logits.to(like.dtype), usable.to(like.dtype)
