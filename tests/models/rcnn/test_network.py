"""All Mask R-CNNs in small, and the real ones' sizes: shapes, limits, and what must not matter."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import parts, stand_in, tiny_rcnn
from torch import Tensor, nn

from maskline import catalog, models
from maskline.models.iou import box_iou
from maskline.models.network import Detections
from maskline.models.rcnn.network import BACKGROUND, CONFIGS, MaskRCNN, RCNNConfig
from maskline.models.rcnn.weights import RENAME
from maskline.models.roi_align import Regions, roi_align
from maskline.weights.arrays import rename_keys
from maskline.weights.load import empty_network, mismatches, read_state

EVERY = pytest.mark.parametrize("name", CONFIGS)
KINDS = pytest.mark.parametrize(
    "name",
    ["MaskRCNN-ResNet50", "MaskRCNN-ResNet50-FPN", "MaskRCNN-ResNeXt101-vd-FPN", "Cascade-MaskRCNN-ResNet50-FPN"],
)
MILLIONS = {  # of parameters, without the norms' statistics
    "MaskRCNN-ResNet50": 35.96,
    "MaskRCNN-ResNet50-FPN": 44.40,
    "MaskRCNN-ResNet50-vd-FPN": 44.42,
    "MaskRCNN-ResNet101-FPN": 63.39,
    "MaskRCNN-ResNet101-vd-FPN": 63.41,
    "MaskRCNN-ResNeXt101-vd-FPN": 102.31,
    "Cascade-MaskRCNN-ResNet50-FPN": 72.04,
    "Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN": 72.06,
}


def found_in(network: MaskRCNN, image: Tensor) -> Detections:
    with torch.no_grad():
        detections: Detections = network(image)
    return detections


def cells(network: MaskRCNN) -> int:
    """Along a mask, without its ring."""
    return network.config.mask_roi_size * (1 if network.neck is None else 2)


# The real ones


@EVERY
def test_parameters_of_the_real_ones(name: str) -> None:
    with torch.device("meta"):
        network = models.build(name)
    assert isinstance(network, MaskRCNN) and network.config.aligned
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.005)


def test_weights_decide_how_cells_are_aligned() -> None:
    with torch.device("meta"):
        network = models.build("MaskRCNN-ResNet50-FPN", overrides={"aligned": False})
    assert network.weights_config() == {"aligned": False}


@EVERY
def test_every_weight_of_paddledetection_has_its_place(name: str) -> None:
    path = stand_in.fixture("manifests", f"{name}.json")
    if not path.exists():
        pytest.skip("PaddleDetection's names are not in the project")
    network = empty_network(name, {})
    layers = dict(network.named_modules())
    manifest = json.loads(path.read_text())
    names, state = rename_keys([old for old, *_ in manifest], RENAME), {}
    for old, shape, *_ in manifest:
        linear = isinstance(layers.get(names[old].rpartition(".")[0]), nn.Linear)
        state[names[old]] = torch.empty(shape[::-1] if linear else shape, device="meta")
    assert mismatches(network, state) == []
    assert len(state) == len(manifest) > 250


@pytest.mark.parametrize("name", ["MaskRCNN-ResNet50", "Cascade-MaskRCNN-ResNet50-FPN"])
def test_weights_of_paddledetection_are_read_into_their_places(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file in its format, whose linear layers are the other way round."""
    network = tiny_rcnn.network(name)
    monkeypatch.setitem(CONFIGS, name, tiny_rcnn.shrunk(name))
    manifest = stand_in.fixture("manifests", f"{name}.json")
    if not manifest.exists():
        pytest.skip("PaddleDetection's names are not in the project")
    names = rename_keys([old for old, *_ in json.loads(manifest.read_text())], RENAME)
    ours, layers = network.state_dict(), dict(network.named_modules())
    arrays = {}
    for old, new in names.items():
        if new in ours:  # the tiny one has fewer blocks
            linear = isinstance(layers[new.rpartition(".")[0]], nn.Linear)
            arrays[old] = np.ascontiguousarray(ours[new].T if linear and ours[new].ndim == 2 else ours[new])
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    state, _ = read_state(catalog.get(name), path)
    assert mismatches(network, state) == []
    assert all(torch.equal(tensor, ours[new]) for new, tensor in state.items())


@EVERY
def test_the_tiny_ones_are_built_like_the_real_ones(name: str) -> None:
    """The same parts, whatever the number of blocks; so what is tested here is the real ones' code."""

    def parts(config: RCNNConfig) -> set[str]:
        with torch.device("meta"):
            state = MaskRCNN(config, 3).state_dict()
        return {re.sub(r"(stages\.\d|mask_head\.convs)\.\d+", r"\1.*", name) for name in state}

    assert parts(tiny_rcnn.shrunk(name)) == parts(CONFIGS[name])


# The contract


@EVERY
def test_detections_have_the_shapes_of_the_contract(name: str) -> None:
    network = tiny_rcnn.network(name)
    boxes, scores, labels, masks = found_in(network, parts.image(128, 160, batch=2))
    side = cells(network) + 2
    assert boxes.shape == (2, 20, 4) and scores.shape == labels.shape == (2, 20)
    assert masks.shape == (2, 20, side, side) and side == (16 if name == "MaskRCNN-ResNet50" else 30)
    assert labels.dtype == torch.int64 and labels.unique().tolist() == [0, 1, 2]
    assert (scores.diff(dim=1) <= 0).all() and (scores > 0.05).all() and scores.max() < 1
    assert scores.max() > 0.6 and scores.max() - scores.min() > 0.2
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    inner = masks[..., 1:-1, 1:-1]
    assert -0.5 <= inner.min() < -0.2 and 0.2 < inner.max() <= 0.5


@EVERY
def test_the_ring_of_masks_is_background(name: str) -> None:
    masks = found_in(tiny_rcnn.network(name), parts.image(96, 130)).masks.clone()
    masks[..., 1:-1, 1:-1] = BACKGROUND
    assert (masks == BACKGROUND).all()


@EVERY
def test_boxes_end_where_the_image_ends_however_large_and_odd_it_is(name: str) -> None:
    """And not where its padding ends."""
    network = tiny_rcnn.network(name)
    for head in parts.box_heads(network):
        head.delta.bias.data.add_(5)  # right and down, and larger
    for height, width in ((97, 131), (64, 64), (33, 161), (129, 40)):
        boxes, scores, _, masks = found_in(network, parts.image(height, width, seed=height))
        real = boxes[scores > 0]
        assert len(real) and real.min() >= 0 and masks.isfinite().all()
        assert real[:, 2].max() == width and real[:, 3].max() == height


@EVERY
def test_no_two_of_a_class_overlap_much(name: str) -> None:
    network = tiny_rcnn.network(name)
    network.config = replace(network.config, max_detections=60)
    boxes, scores, labels, _ = found_in(network, parts.image(128, 160))
    boxes, labels = boxes[scores > 0], labels[scores > 0]
    overlap = box_iou(boxes[:, None], boxes).triu(1)
    alike = labels[:, None] == labels
    assert overlap[alike].max() <= 0.5
    assert overlap[~alike].max() > 0.5  # others may


@KINDS
def test_fewer_candidates_than_rows_are_legal(name: str) -> None:
    """An image of a cell or so: the rows left over are not detections."""
    network = tiny_rcnn.network(name)
    network.config = replace(network.config, max_detections=200)
    boxes, scores, labels, masks = found_in(network, parts.image(20, 17, batch=2))
    none = scores == 0
    assert boxes.shape == (2, 200, 4) and none[:, 150:].all() and not none.all()
    assert (masks[none] == BACKGROUND).all() and labels.max() < 3 and not none[:, 0].any()


@EVERY
def test_no_detections_are_legal(name: str) -> None:
    network = tiny_rcnn.network(name)
    for head in parts.box_heads(network):
        head.score.bias.data[-1] = 100
    boxes, scores, labels, masks = found_in(network, parts.image(100, 120, batch=2))
    assert not scores.any() and (masks == BACKGROUND).all() and boxes.isfinite().all() and labels.max() < 3


@KINDS
def test_no_proposals_are_legal(name: str) -> None:
    """All boxes of the first look are narrower than a pixel."""
    network = tiny_rcnn.network(name)
    network.rpn.delta.weight.data.zero_()
    parts.bias(network.rpn.delta).data.fill_(-20)
    _, scores, _, masks = found_in(network, parts.image(64, 96))
    assert not scores.any() and (masks == BACKGROUND).all()


# What must not matter


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "MaskRCNN-ResNet50"])
def test_padding_is_as_if_the_image_had_been_padded(name: str) -> None:
    """All maps are those of the image with zeros below and right; C4 pads nothing."""
    network, image = tiny_rcnn.network(name), parts.image(97, 130)
    larger = nn.functional.pad(image, (0, 30, 0, 31))
    with torch.no_grad():
        levels = network.features(image)
        for a, b in zip(levels, network.features(larger), strict=True):
            assert torch.equal(a, b)
    assert [tuple(level.shape[2:]) for level in levels] == [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]


def test_c4_looks_at_the_image_as_it_is() -> None:
    with torch.no_grad():
        (level,) = tiny_rcnn.network("MaskRCNN-ResNet50").features(parts.image(97, 130))
    assert level.shape[2:] == (7, 9)


# Parts of the network


def test_regions_are_looked_at_in_the_level_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """FPN, equation 1: side 224 belongs to stride 16; the coarsest level is for anchors only."""
    from maskline.models.rcnn import network as module

    seen: list[Tensor] = []

    def spy(maps: list[Tensor], regions: Regions, level: Tensor, **options: object) -> Tensor:
        seen.append(level)
        assert len(maps) == 4 and options["strides"] == (4, 8, 16, 32)
        return roi_align(maps, regions, level, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "roi_align", spy)
    network = tiny_rcnn.network("MaskRCNN-ResNet50-FPN")
    sides = torch.tensor([0.0, 1, 55, 111.9, 112, 223.9, 224.1, 447.9, 448.1, 895, 5000])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
    with torch.no_grad():
        network.roi_features(network.features(parts.image(64, 64)), Regions(boxes, torch.zeros(11).long()), 7)
    assert seen[0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3]


def test_a_cascade_s_score_is_the_mean_of_its_looks() -> None:
    """Each at the boxes of the one before; the last box counts."""
    network = tiny_rcnn.network("Cascade-MaskRCNN-ResNet50-FPN")
    image, size = parts.image(96, 128), torch.tensor([[96.0, 128.0]])
    proposals = torch.tensor([[[10.0, 10, 60, 70], [0, 0, 0, 0], [30, 20, 128, 96]]])
    valid = torch.tensor([[True, False, True]])
    with torch.no_grad():
        levels = network.features(image)
        boxes, scores = network.boxes(levels, proposals, valid, size)
        expected, at = [], proposals[:, [0, 2]][0]
        for head, stage in zip(network.box_heads, network.config.stages, strict=True):
            logits, deltas = head(network.roi_features(levels, Regions(at, torch.zeros(2).long()), 7))
            expected.append(logits.softmax(dim=1)[:, :-1])
            x, y, w, h = (deltas[:, 0] / torch.tensor(stage.weights)).T
            wide, high = (at[:, 2:] - at[:, :2]).T
            cx, cy = at[:, 0] + wide * (0.5 + x), at[:, 1] + high * (0.5 + y)
            wide, high = wide * w.exp() / 2, high * h.exp() / 2
            at = torch.stack([cx - wide, cy - high, cx + wide, cy + high], dim=1)
            at = at.clamp(min=0).minimum(torch.tensor([128.0, 96, 128, 96]))
    assert boxes.shape == (1, 3, 1, 4) and scores.shape == (1, 3, 3)
    torch.testing.assert_close(scores[0, [0, 2]], torch.stack(expected).mean(dim=0))
    torch.testing.assert_close(boxes[0, [0, 2], 0], at, rtol=1e-4, atol=1e-3)
    assert not scores[0, 1].any()


@KINDS
def test_masks_are_those_of_their_classes(name: str) -> None:
    """As a convolution to all classes, of which one is taken."""
    network = tiny_rcnn.network(name)
    features = torch.randn(6, network.mask_head.enlarge.in_channels if name == "MaskRCNN-ResNet50" else 16, 7, 7)
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    with torch.no_grad():
        found, hidden = network.mask_head(features, labels), features
        for conv in network.mask_head.convs:
            hidden = conv(hidden).relu()
        expected = network.mask_head.logits(network.mask_head.enlarge(hidden).relu())[torch.arange(6), labels]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.shape == (6, 14, 14)
