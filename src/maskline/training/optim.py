"""Optimizer, learning-rate schedule and EMA.

Epochs and steps of a recipe are scaled to the length of the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskline.catalog import Constant, Cosine, Recipe, Schedule, Steps

EMA_RAMP = 2000  # time constant, in updates, of the decay's rise (RT-DETR's recipe)
EMA_SHARE = 0.05  # of a run: longest time constant of the EMA
WARMUP_SHARE = 0.1  # of a run: longest warm-up


def scaled_learning_rate(recipe: Recipe, images: int) -> float:
    """Scale the recipe's learning rate to batches of ``images`` images.

    Linear for SGD (arXiv 1706.02677), square root for AdamW (arXiv 2205.10287).
    """
    ratio = images / (recipe.batch_size * recipe.devices)
    return recipe.learning_rate * (ratio if recipe.optimizer == "momentum" else math.sqrt(ratio))


def make_optimizer(
    network: nn.Module, recipe: Recipe, learning_rate: float, *, pretrained: bool = True
) -> torch.optim.Optimizer:
    """Make the recipe's optimizer for all trainable parameters.

    Parameter groups differ in learning rate, by backbone stage, and in weight decay, none for norms and biases. Each
    has a ``base_lr``, which `set_learning_rate` multiplies.

    Args:
        pretrained: the backbone is pretrained, so it has lower learning rates.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            factor = stage_factor(name, recipe) if pretrained else 1.0
            groups.setdefault((learning_rate * factor, decay), []).append(parameter)
    described = [{"params": p, "lr": lr, "base_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(described)
    return torch.optim.SGD(described, momentum=recipe.momentum)


def stage_factor(name: str, recipe: Recipe) -> float:
    """Learning-rate factor of a parameter, by name; 1 outside the backbone."""
    if not name.startswith("backbone."):
        return 1.0
    part = name.split(".")
    return recipe.backbone_lr_factors[int(part[2]) if part[1] == "stages" else 0]


@dataclass(frozen=True, slots=True)
class LearningRate:
    """Learning-rate factor by step: warm-up, then the schedule."""

    schedule: Schedule
    recipe_epochs: int
    steps: int  # of the whole run
    warmup_steps: int
    warmup_start: float

    @classmethod
    def of(cls, recipe: Recipe, steps: int, warmup_steps: int | None) -> LearningRate:
        """For a run of ``steps``. The warm-up is ``warmup_steps``, default the recipe's, at most a tenth of the run."""
        if warmup_steps is None:
            share = recipe.warmup.epochs / recipe.epochs
            warmup_steps = recipe.warmup.steps or round(share * steps)
        return cls(
            recipe.schedule,
            recipe.epochs,
            steps,
            min(warmup_steps, math.ceil(WARMUP_SHARE * steps)),
            recipe.warmup.start_factor,
        )

    def factor(self, step: int) -> float:
        """Factor at ``step``, from 0."""
        scheduled = self._scheduled(step / self.steps * self.recipe_epochs)
        if step >= self.warmup_steps:
            return scheduled
        return scheduled * (self.warmup_start + (1 - self.warmup_start) * (step + 1) / self.warmup_steps)

    def _scheduled(self, epoch: float) -> float:
        """Factor of the schedule at an epoch of the recipe."""
        match self.schedule:
            case Constant():
                return 1.0
            case Steps(milestones, gamma):
                return float(gamma ** sum(epoch >= milestone for milestone in milestones))
            case Cosine(epochs):
                return (1 + math.cos(math.pi * epoch / epochs)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of each group to ``factor`` times its ``base_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


class ModelEma:
    """Exponential moving average of the weights, which is evaluated and saved.

    The decay rises from 0, as in RT-DETR's recipe. Its time constant is at most a twentieth of the run: with the decay
    of a long recipe, a short run would end near its initial weights.
    """

    def __init__(self, network: nn.Module, decay: float, steps: int) -> None:
        self.decay = min(decay, 1 - 1 / max(EMA_SHARE * steps, 1))
        self.ramp = min(EMA_RAMP, max(EMA_SHARE * steps, 1))
        self.updates = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in averaged(network)}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update with the weights after a step."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp))
        for name, tensor in averaged(network):
            self.weights[name].lerp_(tensor.detach(), 1 - decay)


def averaged(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Averaged tensors by name: weights and running statistics, without ``num_batches_tracked``."""
    return ((name, tensor) for name, tensor in network.state_dict().items() if tensor.is_floating_point())
