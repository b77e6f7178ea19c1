"""ResNet backbones and the feature pyramid: sizes, variants, PaddleDetection's names and numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import det_weights, stand_in
from fixtures.parts import conv, first_blocks
from torch import Tensor, nn

from maskline.models.backbones.resnet import STRIDES, ResNet, ResNetConfig
from maskline.models.fpn import FPN
from maskline.models.rcnn.weights import RENAME
from maskline.weights.arrays import rename_keys

TINY = ResNetConfig((1, 2, 2, 1), width=8)
R50 = ResNetConfig((3, 4, 6, 3))
R101 = ResNetConfig((3, 4, 23, 3))
CONFIGS = {
    "MaskRCNN-ResNet50": R50,
    "MaskRCNN-ResNet50-FPN": R50,
    "MaskRCNN-ResNet50-vd-FPN": replace(R50, variant="d"),
    "MaskRCNN-ResNet101-FPN": R101,
    "MaskRCNN-ResNet101-vd-FPN": replace(R101, variant="d"),
    "MaskRCNN-ResNeXt101-vd-FPN": replace(R101, variant="d", groups=64, width_per_group=4),
    "Cascade-MaskRCNN-ResNet50-FPN": R50,
    "Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN": replace(R50, variant="d"),
}
TAP_TOLERANCE = 1e-5  # of a tap's largest magnitude


@pytest.mark.parametrize("config", [TINY, replace(TINY, variant="d"), replace(TINY, groups=4, width_per_group=8)])
@torch.no_grad()
def test_maps_have_the_stages_sizes(config: ResNetConfig) -> None:
    maps = ResNet(config)(torch.rand(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, n, 64 // s, 96 // s) for n, s in zip((32, 64, 128, 256), STRIDES, strict=True)
    ]
    assert all(bool((m >= 0).all()) and float(m.std()) > 0 for m in maps)


@torch.no_grad()
def test_sides_that_do_not_divide_are_rounded_up() -> None:
    network, pyramid = ResNet(TINY).eval(), FPN(TINY.out_channels, 16)
    maps = network(torch.rand(1, 3, 75, 101))
    assert [tuple(m.shape[2:]) for m in maps] == [(19, 26), (10, 13), (5, 7), (3, 4)]
    assert [tuple(m.shape[1:]) for m in pyramid(maps)] == [
        (16, 19, 26), (16, 10, 13), (16, 5, 7), (16, 3, 4), (16, 2, 2),
    ]  # fmt: skip


@torch.no_grad()
def test_first_stages_alone_give_the_same_maps() -> None:
    network, image = ResNet(TINY).eval(), torch.rand(1, 3, 64, 64)
    some, every = network(image, stages=3), network(image)
    assert len(some) == 3
    assert all(torch.equal(a, b) for a, b in zip(some, every[:3], strict=True))


def test_variants_are_built_as_described() -> None:
    plain, deep = ResNet(TINY), ResNet(replace(TINY, variant="d"))
    assert [conv(c).kernel_size for c in plain.stem] == [(7, 7)]
    assert [tuple(conv(c).weight.shape[:2]) for c in deep.stem] == [(4, 3), (4, 4), (8, 4)]
    strides = [[conv(c).stride[0] for c in (b.conv1, b.conv2, b.shortcut)] for b in first_blocks(plain)]
    assert strides == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [1, 2, 2]]
    assert [conv(b.shortcut).stride[0] for b in first_blocks(deep)] == [1, 1, 1, 1]
    assert [b.pooled for b in first_blocks(deep)] == [False, True, True, True]
    wide = ResNet(replace(TINY, groups=4, width_per_group=32))
    assert [b.conv2.conv.weight.shape[:2] for b in first_blocks(wide)] == [(16, 4), (32, 8), (64, 16), (128, 32)]


@torch.no_grad()
def test_pooled_shortcut_averages_what_the_plain_one_leaves_out() -> None:
    block = first_blocks(ResNet(replace(TINY, variant="d")).eval())[1]
    block.conv3.norm.weight.zero_()
    x = torch.rand(1, 32, 4, 4)
    means = x.view(1, 32, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(block(x), block.shortcut(means).relu())


@torch.no_grad()
def test_pyramid_adds_coarser_levels_to_finer_ones() -> None:
    pyramid = FPN([4, 8, 16, 32], 4)
    maps = [torch.zeros(1, 4 << i, 32 >> i, 32 >> i) for i in range(4)]
    before = pyramid(maps)
    maps[2][..., 5, 3] = 1
    changed = [(a != b).any(dim=1)[0] for a, b in zip(before, pyramid(maps), strict=True)]
    assert [bool(c.any()) for c in changed] == [True, True, True, False, False]
    rows, columns = torch.nonzero(changed[0], as_tuple=True)  # cells 20 … 23 and 12 … 15, and one around them
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (19, 24, 11, 16)
    levels = pyramid([torch.rand_like(m) for m in maps])
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("config", "millions"),
    [(R50, 23.51), (replace(R50, variant="d"), 23.53), (R101, 42.50), (CONFIGS["MaskRCNN-ResNeXt101-vd-FPN"], 81.43)],
)
def test_parameters_of_the_real_ones(config: ResNetConfig, millions: float) -> None:
    with torch.device("meta"):
        network = ResNet(config)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_paddledetection_weight_of_backbone_and_neck_has_its_place(name: str) -> None:
    path = stand_in.fixture("manifests", f"{name}.json")
    if not path.exists():
        pytest.skip("PaddleDetection's names are not in the project")
    shapes = {old: tuple(shape) for old, shape, *_ in json.loads(path.read_text())}
    renamed = {new: shapes[old] for old, new in rename_keys(list(shapes), RENAME).items()}
    given = {new: shape for new, shape in renamed.items() if new.startswith(("backbone.", "neck."))}
    assert given == {n: tuple(t.shape) for n, t in weights_of(parts(name)).items()}
    tops = {new.split(".")[0] for new in renamed}
    assert tops - {"neck"} == {"backbone", "rpn", "box_heads", "mask_head"}


def test_names_of_a_backbone_alone() -> None:
    names = ["conv1.conv1.norm._mean", "res2.res2a.short.conv.weight", "res4.res4b22.branch2c.norm._variance"]
    assert list(rename_keys([f"backbone.{n}" for n in names], RENAME).values()) == [
        "backbone.stem.0.norm.running_mean",
        "backbone.stages.0.0.shortcut.conv.weight",
        "backbone.stages.2.22.conv3.norm.running_var",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MaskRCNN-ResNet50-FPN"])
@torch.no_grad()
def test_numbers_of_paddledetection(name: str) -> None:
    expected = stand_in.fixture("expected", f"{name}_seed0.npz")
    if not expected.exists():
        pytest.skip("PaddleDetection's numbers are not in the project")
    network = parts(name)
    state = stand_in.state(name)
    renamed = {new: torch.from_numpy(state[old]) for old, new in rename_keys(list(state), RENAME).items()}
    network.load_state_dict({n: renamed[n] for n in weights_of(network)}, strict=False, assign=True)
    about, arrays = json.loads(expected.with_suffix(".json").read_text())["fixed"], np.load(expected)
    image = fixed_image(about)
    step = about["input"]["image"]["sub_step"]
    assert np.array_equal(image.numpy().reshape(-1)[::step], arrays["fixed/in/image_sub"].ravel())

    maps = network.eval()["backbone"](image)
    taps = {f"backbone.{i}": m for i, m in enumerate(maps)}
    taps |= {f"neck.{i}": m for i, m in enumerate(network["neck"](maps))}
    assert set(taps) == {t for t in about["taps"] if t.startswith(("backbone.", "neck."))}
    for tap, ours in taps.items():
        record = about["taps"][tap]
        assert list(ours.shape) == record["shape"], tap
        sample = ours.contiguous().numpy().reshape(-1)[:: record["step"]]
        assert np.abs(sample - arrays[f"fixed/tap/{tap}"].ravel()).max() <= TAP_TOLERANCE * record["absmax"], tap


def parts(name: str) -> nn.ModuleDict:
    """Backbone and neck of a model, without memory for weights; counters of seen batches are real."""
    with torch.device("meta"):
        backbone = ResNet(CONFIGS[name])
        network = nn.ModuleDict({"backbone": backbone})
        if name != "MaskRCNN-ResNet50":
            network["neck"] = FPN(CONFIGS[name].out_channels)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return network


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def fixed_image(about: dict[str, Any]) -> Tensor:
    """The record's input: a fixed tensor, zero beyond the image."""
    _, _, h, w = about["input"]["image"]["shape"]
    height, width = (int(n) for n in about["input"]["im_shape"]["values"][0])
    image = torch.from_numpy(det_weights.tensor(h, w))
    image[:, :, height:] = 0
    image[:, :, :, width:] = 0
    return image
