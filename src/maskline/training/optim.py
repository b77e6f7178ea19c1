"""What changes the weights: optimizer, learning rate over time, running average.

Everything that a recipe states in epochs or steps is scaled to the length of the run, so that a run of 40 epochs decays
where one of 12 would have, in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskline.catalog import Constant, Cosine, Recipe, Schedule, Steps

EMA_RAMP = 2000  # updates after which the running average has come near its decay (RT-DETR's recipe)
EMA_SHARE = 0.05  # of a run: further back no running average reaches
WARMUP_SHARE = 0.1  # of a run: longer no warm-up is


def scaled_learning_rate(recipe: Recipe, images: int) -> float:
    """The recipe's learning rate for steps of ``images`` images.

    In proportion for SGD (arXiv 1706.02677), by the root for AdamW (arXiv 2205.10287).
    """
    ratio = images / (recipe.batch_size * recipe.devices)
    return recipe.learning_rate * (ratio if recipe.optimizer == "momentum" else math.sqrt(ratio))


def make_optimizer(
    network: nn.Module, recipe: Recipe, learning_rate: float, *, pretrained: bool = True
) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters that learn.

    Groups differ in learning rate, by the stage of the backbone, and in decay, which norms and biases don't have. Each
    has its ``base_lr``, which `set_learning_rate` multiplies.

    Args:
        pretrained: whether the backbone has learned something already, and so learns slower.
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
    """The learning rate's factor for a parameter, by its name: 1 outside the backbone."""
    if not name.startswith("backbone."):
        return 1.0
    part = name.split(".")
    return recipe.backbone_lr_factors[int(part[2]) if part[1] == "stages" else 0]


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The learning rate's factor at each step of a run: warm-up, then the schedule."""

    schedule: Schedule
    recipe_epochs: int
    steps: int  # of the whole run
    warmup_steps: int
    warmup_start: float

    @classmethod
    def of(cls, recipe: Recipe, steps: int, warmup_steps: int | None) -> LearningRate:
        """For a run of ``steps``; the warm-up is ``warmup_steps``, by default the recipe's, and a tenth at most."""
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
        """At ``step``, from 0."""
        scheduled = self._scheduled(step / self.steps * self.recipe_epochs)
        if step >= self.warmup_steps:
            return scheduled
        return scheduled * (self.warmup_start + (1 - self.warmup_start) * (step + 1) / self.warmup_steps)

    def _scheduled(self, epoch: float) -> float:
        """At an epoch of the recipe."""
        match self.schedule:
            case Constant():
                return 1.0
            case Steps(milestones, gamma):
                return float(gamma ** sum(epoch >= milestone for milestone in milestones))
            case Cosine(epochs):
                return (1 + math.cos(math.pi * epoch / epochs)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Each group's is ``factor`` times its ``base_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


class ModelEma:
    """An exponential moving average of the weights, which is what is evaluated and kept.

    The decay rises from 0, as in RT-DETR's recipe, and reaches back over a twentieth of the run at most: with the
    decay of a long recipe, a short run would end near its first weights.
    """

    def __init__(self, network: nn.Module, decay: float, steps: int) -> None:
        self.decay = min(decay, 1 - 1 / max(EMA_SHARE * steps, 1))
        self.ramp = min(EMA_RAMP, max(EMA_SHARE * steps, 1))
        self.updates = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in averaged(network)}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step. Counters are copied."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp))
        for name, tensor in averaged(network):
            self.weights[name].lerp_(tensor.detach(), 1 - decay)


def averaged(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights and statistics; not the norms' counters of batches."""
    return ((name, tensor) for name, tensor in network.state_dict().items() if tensor.is_floating_point())
