"""What a network is given in training, and what of it stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixtures import toy
from torch import Tensor, distributed, nn

from maskline import catalog
from maskline.models.deployed import Normalise
from maskline.models.layers import ConvNorm
from maskline.models.network import Normalizer, Target, local_normalizer
from maskline.training import processes
from maskline.training.loader import Batch
from maskline.training.loop import LossModule, freeze, to_device, train_mode
from maskline.training.optim import make_optimizer

TWO_STAGE = catalog.get("MaskRCNN-ResNet50-FPN")  # has a mean and a deviation
SIZES = ((40, 64), (64, 33), (64, 64))


def target(size: tuple[int, int], inside: tuple[int, int] = (64, 64)) -> Target:
    return Target(torch.tensor([1]), torch.tensor([[0.0, 0, 9, 9]]), torch.ones(1, *inside, dtype=torch.uint8), size)


class Recorder(toy.Toy):
    """Keeps what it gets."""

    def losses(
        self, image: Tensor, targets: list[Target], *, normalizer: Normalizer = local_normalizer
    ) -> dict[str, Tensor]:
        self.image = image
        return {"loss": image.sum()}


def given_to_the_network(spec: catalog.Model, images: Tensor, sizes: tuple[tuple[int, int], ...]) -> Tensor:
    recorder = Recorder(toy.ToyConfig(), 2)
    LossModule(recorder, spec, local_normalizer)(images, [target(size) for size in sizes])
    return recorder.image


# Padding


def photos(sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(256, (*size, 3), generator=rng, dtype=torch.uint8) for size in sizes]


def test_padding_is_zero_to_the_network() -> None:
    """As if each image had been normalised alone, and then padded."""
    images = photos(SIZES)
    batch = torch.stack([F.pad(x, (0, 0, 0, 64 - x.shape[1], 0, 64 - x.shape[0])) for x in images])
    found = given_to_the_network(TWO_STAGE, batch, SIZES)
    for x, image in zip(found, images, strict=True):
        alone = Normalise(TWO_STAGE.preprocess)(image[None])[0]
        assert torch.equal(x, F.pad(alone, (0, 64 - image.shape[1], 0, 64 - image.shape[0])))
    assert not torch.equal(found, Normalise(TWO_STAGE.preprocess)(batch))


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        (TWO_STAGE, ((64, 64),) * 3),
        (replace(TWO_STAGE, preprocess=replace(TWO_STAGE.preprocess, float_resize=True)), SIZES),
        (catalog.get("PP-YOLOE_seg-N"), SIZES),
        (catalog.get("Mask-RT-DETR-S"), SIZES),
    ],
)
def test_nothing_is_written_where_padding_is_zero_or_absent(
    spec: catalog.Model, sizes: tuple[tuple[int, int], ...]
) -> None:
    batch = torch.stack(photos(((64, 64),) * 3))
    found = given_to_the_network(spec, batch, sizes)
    assert found._version == 0  # PyTorch's count of changes in place
    assert torch.equal(found, Normalise(spec.preprocess)(batch))


@pytest.mark.parametrize("spec", catalog.MODELS.values(), ids=lambda row: row.name)
def test_normalising_says_whether_it_keeps_zero(spec: catalog.Model) -> None:
    normalise = Normalise(spec.preprocess)
    assert normalise.keeps_zero == (not normalise(torch.zeros(1, 4, 4, 3)).any())
    assert normalise.keeps_zero == (spec.family != "rcnn")


def test_to_device_moves_every_tensor_and_leaves_numbers() -> None:
    batch = Batch(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), [target((40, 64)), target((64, 64))], ())
    images, targets = to_device(batch, torch.device("meta"))
    assert images.is_meta and images.shape == batch.images.shape
    for moved, before in zip(targets, batch.targets, strict=True):
        assert isinstance(moved, Target) and moved.size == before.size
        assert [type(side) for side in moved.size] == [int, int]
        for name in ("labels", "boxes", "masks"):
            here, there = getattr(before, name), getattr(moved, name)
            assert (there.is_meta, there.shape, there.dtype) == (True, here.shape, here.dtype)


# Frozen parts


class Backbone(nn.Module):
    """A stem and two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 4, 3)
        self.stages = nn.ModuleList(nn.Sequential(ConvNorm(4, 4, 3, activation=F.relu)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


class Network(nn.Module):
    """Frozen as Mask R-CNN is: stem, stage 0 and the backbone's norms; the norm of its head learns."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = ConvNorm(4, 2, 1)
        for name, buffer in self.named_buffers():
            if "running" in name:
                nn.init.uniform_(buffer, *((-0.2, 0.2) if name.endswith("mean") else (0.5, 2)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(x))
        return out

    def frozen(self) -> Iterator[nn.Module]:
        yield from (self.backbone.stem, self.backbone.stages[0])
        yield from (module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def crossings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what crosses processes, of which there is one."""
    crossed: list[int] = []
    monkeypatch.setattr(distributed, "all_reduce", lambda x: crossed.append(len(x)))
    monkeypatch.setattr(distributed, "get_world_size", lambda: 1)
    return crossed


def steps(network: Network, count: int = 2) -> dict[str, Tensor]:
    """Train, with an evaluation in between. Returns the gradients of the last step."""
    freeze(network.frozen())
    optimizer = make_optimizer(network, TWO_STAGE.recipe, 0.1)
    for step in range(count):
        train_mode(network, network.frozen())
        optimizer.zero_grad()
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        y = network(x)
        (y.square() + y).mean().backward()
        optimizer.step()
        network.eval()
    train_mode(network, network.frozen())
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


CHANGES = {
    "backbone.stages.1.0.conv.weight",
    "head.conv.weight",
    *(f"head.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("crossings")
def test_frozen_norms_stay_within_what_learns(network: Network, shared: bool) -> None:
    """Their statistics too, whether or not the other norms have theirs from all processes."""
    if shared:
        processes.convert_sync_batchnorm(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = steps(network)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == CHANGES
    assert gradients.keys() == {name for name in CHANGES if name.endswith(("weight", "bias"))}
    stage = network.backbone.stages.get_submodule("1.0")
    assert isinstance(stage, ConvNorm)
    assert (network.backbone.training, stage.training, stage.conv.training, stage.norm.training) == (*[True] * 3, False)
    assert network.head.norm.training and not any(module.training for module in network.backbone.stem.modules())


def test_frozen_norms_do_not_wait_for_other_processes(network: Network, crossings: list[int]) -> None:
    processes.convert_sync_batchnorm(network)
    steps(network, count=1)
    assert crossings == [2] * 4  # mean and variance of the head's two channels, there and back


def test_sharing_changes_no_numbers_of_a_frozen_network(network: Network, crossings: list[int]) -> None:
    """To the bit: frozen norms are PyTorch's own."""
    other = Network()
    other.load_state_dict(network.state_dict())
    processes.convert_sync_batchnorm(other)
    x = torch.rand(2, 3, 8, 8)
    for one in (network, other):
        train_mode(one, [one.head, *one.frozen()])
        freeze(one.frozen())
    assert torch.equal(network(x), other(x)) and not crossings


def test_what_is_not_frozen_would_change(network: Network) -> None:
    """From scratch."""
    before: dict[str, Any] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.frozen = lambda: iter(())  # type: ignore[method-assign]
    steps(network)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
