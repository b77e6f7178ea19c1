"""What holds for every model of the catalog: a new one is tested by being listed.

Each is built with its structure and few channels (`fixtures.shrunk`); models that become the same so are tested once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures import parts, shrunk
from torch import nn

from maskline import catalog
from maskline.exporting import ExportOptions, export_network
from maskline.exporting.graph import fused
from maskline.models.families import family_of
from maskline.models.network import Network
from maskline.runtime.mask_layout import MaskLayout
from maskline.runtime.predictor import Predictor


def _modules(name: str) -> tuple[frozenset[type[nn.Module]], MaskLayout]:
    with torch.device("meta"):
        network = family_of(name).build(shrunk.config_of(name), shrunk.NUM_CLASSES)
    return frozenset(type(module) for module in network.modules()), network.mask_layout


NAMES = tuple(catalog.MODELS)
#: One model of each structure.
DISTINCT = tuple({(family_of(name).name, shrunk.config_of(name)): name for name in reversed(NAMES)}.values())
#: One model for each set of modules and mask layout: what an exporter sees.
EXPORTED = tuple({_modules(name): name for name in reversed(DISTINCT)}.values())
every_model = pytest.mark.parametrize("name", DISTINCT)


def trained(network: Network) -> dict[str, nn.Parameter]:
    """The parameters that fine-tuning changes, by name."""
    frozen = {id(p) for part in network.frozen() for p in part.parameters()}
    return {name: p for name, p in network.named_parameters() if id(p) not in frozen}


@every_model
@torch.no_grad()
def test_detections_keep_the_contract(name: str) -> None:
    network = shrunk.network(name)
    boxes, scores, labels, masks = network(shrunk.images(3))
    rows = scores.shape[1]
    assert boxes.shape == (3, rows, 4) and scores.shape == labels.shape == (3, rows) and masks.shape[:2] == (3, rows)
    assert boxes.dtype == scores.dtype == masks.dtype == torch.float32 and labels.dtype == torch.int64
    assert (scores.diff(dim=1) <= 0).all() and scores.min() >= 0 and scores.max() <= 1
    assert labels.min() >= 0 and labels.max() < network.num_classes
    found = scores > 0
    assert found.any()
    assert (boxes[found][:, 2:] >= boxes[found][:, :2]).all()
    assert (masks[found] > 0).any() and (masks[found] <= 0).any(), "masks are foreground where positive, not everywhere"


@every_model
@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(name: str) -> None:
    network, images = shrunk.network(name).double(), shrunk.images(3).double()
    together = network(images)
    for i in range(3):
        for batched, single in zip(together, network(images[i : i + 1]), strict=True):
            torch.testing.assert_close(batched[i], single[0], rtol=1e-9, atol=1e-9)


@every_model
@torch.no_grad()
def test_nothing_found_is_allowed(name: str) -> None:
    network = shrunk.network(name)
    for layer, _, _ in network.decisive():
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.fill_(-30)
    detections = network(shrunk.images(2))
    assert detections.scores.max() < 1e-3 and all(part.isfinite().all() for part in detections)


@every_model
@torch.no_grad()
def test_fusing_changes_no_number(name: str) -> None:
    network, images = shrunk.network(name).double(), shrunk.images(2).double()
    names = set(network.state_dict())
    fast = fused(network)
    assert set(network.state_dict()) == names
    for exact, other in zip(network(images), fast(images), strict=True):
        torch.testing.assert_close(exact, other, rtol=1e-6, atol=1e-6)


@every_model
def test_losses_are_finite_and_reach_every_trained_parameter(name: str) -> None:
    network = shrunk.network(name).train()
    torch.manual_seed(0)  # R-CNNs sample regions
    targets = [parts.objects(number, seed=seed) for seed, number in enumerate((12, 0, 9, 12))]
    losses = network.losses(shrunk.images(4), targets)
    assert all(part.ndim == 0 and part.isfinite() and part >= 0 for part in losses.values())
    parts.total(losses.values()).backward()
    without = [n for n, p in trained(network).items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@every_model
def test_images_without_objects_can_be_trained_on(name: str) -> None:
    network = shrunk.network(name).train()
    some = network.losses(shrunk.images(2), [parts.objects(3), parts.objects(1)])
    none = network.losses(shrunk.images(2), [parts.objects(0), parts.objects(0)])
    assert list(some) == list(none) and all(part.isfinite() for part in none.values())
    parts.total(none.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@every_model
def test_losses_are_float32_under_autocast(name: str) -> None:
    network = shrunk.network(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = network.losses(shrunk.images(2), [parts.objects(3), parts.objects(2, seed=1)])
    assert all(part.dtype == torch.float32 and part.isfinite() for part in losses.values())


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_proves_itself_and_predicts(name: str, tmp_path: Path) -> None:
    spec = shrunk.spec_of(name)
    options = ExportOptions(threshold=0.05)
    model = Predictor(export_network(shrunk.network(name), spec, tmp_path, labels=("a", "b", "c"), options=options))
    assert model.model_name == spec.name
    image = torch.randint(255, (70, 90, 3), dtype=torch.uint8).numpy()
    (result,) = model.predict(image)
    assert result.instances.size == (70, 90)
