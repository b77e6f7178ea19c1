"""Optimizer, learning rate over time, running average."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from maskline import catalog, models
from maskline.catalog import Cosine, Steps
from maskline.training.loop import freeze
from maskline.training.optim import (
    LearningRate,
    ModelEma,
    make_optimizer,
    scaled_learning_rate,
    set_learning_rate,
    stage_factor,
)

SGD = catalog.get("MaskRCNN-ResNet50-FPN").recipe
ADAMW = catalog.get("Mask-RT-DETR-L").recipe


def test_milestones_move_with_the_length_of_the_run() -> None:
    """B39: 8 and 11 of 12 epochs are two thirds and eleven twelfths of any run."""
    rate = LearningRate.of(SGD, steps=1200, warmup_steps=0)
    assert isinstance(SGD.schedule, Steps) and SGD.schedule.milestones == (8, 11)
    factors = [rate.factor(step) for step in (0, 799, 800, 1099, 1100, 1199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_ends_where_the_recipe_s_would() -> None:
    """B39."""
    recipe = replace(SGD, schedule=Cosine(96), epochs=80)
    rate = LearningRate.of(recipe, steps=100, warmup_steps=0)
    assert rate.factor(0) == 1
    assert rate.factor(60) == pytest.approx((1 + math.cos(math.pi * 48 / 96)) / 2)
    assert rate.factor(100) == pytest.approx((1 + math.cos(math.pi * 80 / 96)) / 2)


def test_warmup_rises_and_is_a_tenth_of_the_run_at_most() -> None:
    rate = LearningRate.of(SGD, steps=5000, warmup_steps=100)
    assert rate.factor(0) == pytest.approx(0.001 + 0.999 / 100) and rate.factor(99) == pytest.approx(1)
    assert [rate.factor(i) < rate.factor(i + 1) for i in range(99)] == [True] * 99
    assert LearningRate.of(SGD, steps=200, warmup_steps=100).warmup_steps == 20
    assert LearningRate.of(SGD, steps=50000, warmup_steps=None).warmup_steps == SGD.warmup.steps
    in_epochs = catalog.get("PP-YOLOE_seg-S").recipe
    assert LearningRate.of(in_epochs, steps=800, warmup_steps=None).warmup_steps == 800 * 5 // 80


def test_learning_rate_follows_the_images_of_a_step() -> None:
    """B40: rates for four devices are scaled to those there are."""
    assert scaled_learning_rate(SGD, 8) == SGD.learning_rate  # 2 on each of 4 devices
    assert scaled_learning_rate(SGD, 2) == pytest.approx(SGD.learning_rate / 4)
    assert scaled_learning_rate(ADAMW, 2) == pytest.approx(ADAMW.learning_rate / 2)


def test_groups() -> None:
    """The backbone learns slower, norms and biases don't decay, frozen parts are left out."""
    network = models.build("Mask-RT-DETR-S", 3)
    freeze(network.frozen())
    recipe = catalog.get("Mask-RT-DETR-S").recipe
    optimizer = make_optimizer(network, recipe, 1e-3)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    names = dict(network.named_parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(p.requires_grad for p in names.values())
    assert id(names["backbone.stem.down1.conv.weight"]) not in found
    inside = found[id(names["backbone.stages.1.blocks.0.squeeze.conv.weight"])]
    assert inside["lr"] == pytest.approx(1e-4) and inside["weight_decay"] == 1e-4
    outside, bias = found[id(names["decoder.class_head.weight"])], found[id(names["decoder.class_head.bias"])]
    assert (outside["lr"], outside["weight_decay"], bias["weight_decay"]) == (1e-3, 1e-4, 0)
    set_learning_rate(optimizer, 0.5)
    assert (inside["lr"], outside["lr"]) == (pytest.approx(5e-5), 5e-4)


def test_stages_have_their_own_factors() -> None:
    recipe = catalog.get("Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN").recipe
    names = ("backbone.stem.conv", "backbone.stages.0.a", "backbone.stages.2.a", "backbone.stages.3.a", "neck.a")
    assert [stage_factor(name, recipe) for name in names] == [0.05, 0.05, 0.1, 0.15, 1]


def test_running_average() -> None:
    """After many updates with the same weights it is these weights; each update moves it by what the decay leaves."""
    layer = nn.BatchNorm2d(1)
    average = ModelEma(layer, decay=0.9, steps=100000)
    assert set(average.weights) == {"weight", "bias", "running_mean", "running_var"}
    with torch.no_grad():
        layer.weight.fill_(3)
    average.update(layer)
    decay = 0.9 * (1 - math.exp(-1 / 2000))
    assert average.weights["weight"].item() == pytest.approx(decay * 1 + (1 - decay) * 3)
    for _ in range(200):
        average.update(layer)
    assert average.weights["weight"].item() == pytest.approx(3)


def test_running_average_of_a_short_run_is_short() -> None:
    layer = nn.Linear(1, 1)
    assert ModelEma(layer, 0.9999, steps=1000).decay == pytest.approx(1 - 1 / 50)
    assert ModelEma(layer, 0.9999, steps=1_000_000).decay == 0.9999
