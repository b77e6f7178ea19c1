"""PP-YOLOE-seg in small: shapes, suppression, assignment, losses, gradients, export."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import graphs, parts, stand_in
from torch import Tensor, nn

from maskline.models.backbones.cspresnet import CSPResNetConfig
from maskline.models.iou import box_iou
from maskline.models.layers import RepVGG
from maskline.models.network import Target
from maskline.models.ppyoloe_seg.assigner import AssignerConfig, Assignment, assign
from maskline.models.ppyoloe_seg.head import BINS, STRIDES, AnchorPoints, anchor_points
from maskline.models.ppyoloe_seg.loss import LossConfig, box_losses, class_loss, mask_loss
from maskline.models.ppyoloe_seg.network import CONFIGS, NMSConfig, PPYOLOESeg, PPYOLOESegConfig
from maskline.models.ppyoloe_seg.weights import RENAME
from maskline.weights.arrays import rename_keys
from maskline.weights.load import mismatches

CLASSES = 3
CONFIG = PPYOLOESegConfig(
    CSPResNetConfig(8, (8, 16, 16, 32), (1, 2, 1, 1)),
    neck_channels=(32, 16, 16),
    num_prototypes=8,
    prototype_channels=8,
    max_detections=20,
    nms=NMSConfig(pre_nms_top_n=40),
)
MANIFEST = stand_in.fixture("manifests", "PP-YOLOE_seg-S.json")


def tiny(config: PPYOLOESegConfig = CONFIG, classes: int = CLASSES) -> PPYOLOESeg:
    """In eval mode, with weights that give scores all over (0, 1), and boxes and masks of all shapes."""
    torch.manual_seed(0)
    network = PPYOLOESeg(config, classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            parts.randomise(module)
        elif isinstance(module, RepVGG) and module.alpha is not None:
            module.alpha.data.uniform_(0.5, 1.5)
    for heads in (network.head.class_heads, network.head.box_heads, network.head.mask_heads):
        for head in parts.layers(heads):
            nn.init.normal_(head.weight, std=0.3)
    return network.eval()


def objects(number: int, size: int = 96, seed: int = 0) -> Target:
    return parts.objects(number, size, size, seed)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


# the network


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_of_the_real_ones(name: str) -> None:
    with torch.device("meta"):
        network = PPYOLOESeg(CONFIGS[name], 80 if name.endswith("S") else 1)
        maps = network.backbone(torch.zeros(1, 3, 64, 96))
    assert [m.shape[1:] for m in maps] == [
        (n, 64 // s, 96 // s) for n, s in zip(CONFIGS[name].backbone.out_channels, (4, 8, 16, 32), strict=True)
    ]
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters / 1e6 == pytest.approx({"S": 9.00, "N": 2.24}[name[-1]], abs=0.01)


@pytest.mark.skipif(not MANIFEST.exists(), reason="the names of PaddleDetection's weights are not in the project")
def test_every_weight_of_paddledetection_has_its_place() -> None:
    manifest = json.loads(MANIFEST.read_text())
    names = rename_keys([name for name, *_ in manifest], RENAME)
    with torch.device("meta"):
        network = PPYOLOESeg(CONFIGS["PP-YOLOE_seg-S"], 80)
        assert not mismatches(network, {names[name]: torch.zeros(shape) for name, shape, *_ in manifest})


@torch.no_grad()
def test_detections_have_the_shapes_of_the_contract() -> None:
    boxes, scores, labels, masks = tiny()(torch.rand(2, 3, 96, 96))
    assert boxes.shape == (2, 20, 4) and masks.shape == (2, 20, 24, 24)
    assert labels.dtype == torch.int64 and labels.min() >= 0 and labels.max() < CLASSES
    assert (scores.diff(dim=1) <= 0).all() and scores.min() >= 0 and scores.max() < 1
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert masks.min() < 0 < masks.max()


@torch.no_grad()
def test_another_input_size_is_legal_even_with_fewer_places_than_rows() -> None:
    assert tiny()(torch.rand(1, 3, 64, 128)).masks.shape == (1, 20, 16, 32)
    boxes, scores, labels, masks = tiny(replace(CONFIG, max_detections=50), 1)(torch.rand(2, 3, 32, 32))  # 21 places
    assert (boxes.shape, scores.shape, masks.shape) == ((2, 50, 4), (2, 50), (2, 50, 8, 8))
    assert not scores[:, 21:].any() and labels.max() == 0


@torch.no_grad()
def test_before_training_every_score_is_the_prior() -> None:
    network = PPYOLOESeg(CONFIG, CLASSES)
    assert network.predict(torch.rand(1, 3, 64, 64)).classes.sigmoid().sub(0.01).abs().max() < 1e-6
    assert not list(network.frozen())


@torch.no_grad()
def test_a_fused_block_gives_the_same_numbers() -> None:
    network, image = tiny().double(), torch.rand(1, 3, 64, 64).double()
    fast = fused(network)
    assert len(fast.state_dict()) < len(network.state_dict())
    for a, b in zip(network.predict(image)[:4], fast.predict(image)[:4], strict=True):
        torch.testing.assert_close(a, b)


def fused(network: PPYOLOESeg) -> PPYOLOESeg:
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, RepVGG):
                setattr(parent, name, child.fuse())
    return network


def test_places_are_centres_of_cells() -> None:
    points, strides = anchor_points([torch.zeros(1, 1, 64 // s, 96 // s, dtype=torch.bfloat16) for s in STRIDES])
    assert points.dtype == torch.float32 and len(points) == len(strides) == 6 + 24 + 96
    assert points[:4].tolist() == [[16, 16], [48, 16], [80, 16], [16, 48]]
    assert points[-1].tolist() == [92, 60] and strides[[0, 6, 30]].tolist() == [32, 16, 8]


# suppression


@pytest.mark.parametrize("candidates", [1000, 15])
def test_the_best_of_each_class_are_left_after_suppression(candidates: int) -> None:
    """By the definition, box by box; for each class only a limited number of candidates take part."""
    network = tiny(replace(CONFIG, max_detections=60, nms=NMSConfig(pre_nms_top_n=candidates, iou_threshold=0.4)))
    first = torch.rand(2, 60, 2) * 40
    boxes, scores = torch.cat([first, first + 8 + torch.rand(2, 60, 2) * 30], dim=2), torch.rand(2, CLASSES, 60)
    found = network.best(boxes, scores)
    for i in range(2):
        expected = []
        for c in range(CLASSES):
            stays: list[int] = []
            for j in scores[i, c].argsort(descending=True).tolist()[:candidates]:
                if all(box_iou(boxes[i, j], boxes[i, k]) <= 0.4 for k in stays):
                    stays.append(j)
            expected += [(float(scores[i, c, j]), c, j) for j in stays]
        expected = sorted(expected, reverse=True)[:60]
        rows = [row for row in zip(*(t[i].tolist() for t in found), strict=True) if row[0] > 0]
        assert rows == expected
        assert CLASSES * min(candidates, 60) > len(expected) > 20


@torch.no_grad()
def test_the_onnx_graph_gives_the_network_s_detections() -> None:
    network = tiny()
    session = graphs.open_graph(fused(network), (torch.rand(2, 3, 96, 96),))
    for images in (torch.rand(1, 3, 96, 96), torch.rand(3, 3, 96, 96)):
        ours, theirs = graphs.run(session, images), [t.numpy() for t in network(images)]
        real = theirs[1] > 0
        assert real.any()
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a[real], b[real], rtol=1e-3, atol=1e-3)
        assert not ours[1][~real].any()


# assignment


def assigned_densely(scores: Tensor, boxes: Tensor, points: Tensor, target: Target, most: int) -> dict[int, Any]:
    """By the definition, over all pairs of objects and places: place to object and quality."""
    n, L = len(target.labels), len(points)
    overlap = box_iou(target.boxes[:, None], boxes[None])
    fitness = scores[target.labels] * overlap**6
    x1, y1, x2, y2 = target.boxes.T[..., None]
    inside = (points[:, 0] > x1) & (points[:, 0] < x2) & (points[:, 1] > y1) & (points[:, 1] < y2)
    chosen = torch.zeros(n, L, dtype=torch.bool)
    for i in range(n):
        candidates = sorted(torch.nonzero(inside[i]).flatten().tolist(), key=lambda j: -float(fitness[i, j]))
        chosen[i, candidates[:most]] = True
    for j in range(L):
        if chosen[:, j].sum() > 1:
            chosen[:, j] = F.one_hot(overlap[:, j].argmax(), n).bool()
    found = {}
    for i, j in torch.nonzero(chosen).tolist():
        own = chosen[i]
        scale = overlap[i][own].max() / (fitness[i][own].max() + 1e-9)
        found[j] = (i, float(fitness[i, j] * scale))
    return found


def test_assignment_is_the_definition_s() -> None:
    torch.manual_seed(0)
    points, _ = anchor_points([torch.zeros(1, 1, 96 // s, 96 // s) for s in STRIDES])
    targets = [objects(9, seed=1), objects(0), objects(4, seed=2)]
    scores = torch.rand(3, CLASSES, len(points))
    reach = torch.rand(3, len(points), 4) * 25
    boxes = torch.cat([points - reach[..., :2], points + reach[..., 2:]], dim=2)
    found = assign(scores, boxes, points, targets, AssignerConfig(top_k=7))
    first = 0
    for i, target in enumerate(targets):
        expected = assigned_densely(scores[i], boxes[i], points, target, 7)
        own = found.image == i
        assert sorted(found.point[own].tolist()) == sorted(expected)  # each place once
        for place, row, quality in zip(found.point[own], found.object[own], found.quality[own], strict=True):
            assert int(row) - first == expected[int(place)][0]
            assert float(quality) == pytest.approx(expected[int(place)][1], rel=1e-4)
        first += len(target.labels)
    assert len(found.point) > 30 and not (found.image == 1).any()


def test_an_object_between_places_has_none() -> None:
    points, _ = anchor_points([torch.zeros(1, 1, 64 // s, 64 // s) for s in STRIDES])
    mask = torch.ones(1, 64, 64, dtype=torch.uint8)
    between = Target(torch.tensor([0]), torch.tensor([[9.0, 9, 11, 11]]), mask, (64, 64))
    boxes = torch.cat([points - 4, points + 4], dim=1)[None]
    found = assign(torch.rand(1, 1, len(points)), boxes, points, [between], AssignerConfig())
    assert len(found.point) == 0


# losses


def test_the_loss_reaches_every_parameter() -> None:
    network = tiny().train()
    losses = network.losses(torch.rand(3, 3, 96, 96), [objects(5), objects(0), objects(2, seed=1)])
    assert list(losses) == ["loss_cls", "loss_iou", "loss_dfl", "loss_mask"]
    assert all(part > 0 and part.dtype == torch.float32 for part in losses.values())
    total(losses).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(mask_cells="mean", mask_weighting="quality")])
def test_training_without_any_object_is_legal(config: LossConfig) -> None:
    network = tiny(replace(CONFIG, loss=config)).train()
    losses = network.losses(torch.rand(2, 3, 64, 64), [objects(0, 64), objects(0, 64)])
    assert losses["loss_cls"] > 0 and not any(losses[name] for name in ("loss_iou", "loss_dfl", "loss_mask"))
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_other_input_sizes_train_too() -> None:
    tall = objects(3, 64)
    tall = tall._replace(masks=F.pad(tall.masks, (0, 0, 0, 64)))
    losses = tiny().train().losses(torch.rand(1, 3, 128, 64), [tall])
    assert all(part.isfinite() for part in losses.values())


def test_averaged_gradients_are_those_of_one_batch() -> None:
    network, images = tiny().double(), torch.rand(4, 3, 96, 96).double()  # in eval mode: norms don't see the batch
    targets = [objects(6), objects(0), objects(3, seed=1), objects(8, seed=2)]
    sums: list[Tensor] = []
    losses = network.losses(images, targets, normalizer=parts.noting_normalizer(sums))
    assert sums[0] > 2
    whole = torch.autograd.grad(total(losses), list(network.parameters()), allow_unused=True)
    halves = [
        torch.autograd.grad(
            total(network.losses(images[part], targets[part], normalizer=lambda _: sums[0] / 2)),
            list(network.parameters()),
        )
        for part in (slice(2), slice(2, 4))
    ]
    for one, a, b in zip(whole, *halves, strict=True):
        torch.testing.assert_close((a + b) / 2, one)


def test_losses_are_float32_under_autocast() -> None:
    network, images = tiny().train(), torch.rand(2, 3, 96, 96)
    targets = [objects(5), objects(2, seed=1)]
    exact = network.losses(images, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network.losses(images, targets)
    for name, part in rough.items():
        assert part.dtype == torch.float32
        assert float(part.detach()) == pytest.approx(float(exact[name].detach()), rel=0.5)  # other places, too


def test_a_few_steps_of_training_help() -> None:
    """Scores and boxes come to fit the objects: the qualities that the loss is divided by grow."""
    torch.manual_seed(0)
    network = PPYOLOESeg(replace(CONFIG, loss=LossConfig(mask_cells="mean", mask_weighting="quality")), CLASSES).train()
    targets = [objects(3, 64, seed=i) for i in range(2)]
    images = torch.stack([F.pad(t.masks.amax(dim=0)[None].float(), (0, 0, 0, 0, 0, 2)) for t in targets])
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    course: list[Tensor] = []
    for _ in range(60):
        loss = total(network.losses(images, targets, normalizer=parts.noting_normalizer(course)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert course[-1] > 2 > 100 * course[0]


def test_class_loss() -> None:
    logits = torch.tensor([[[2.0, -3.0], [0.5, 1.0]]], requires_grad=True)  # two classes, two places
    found = Assignment(*map(torch.tensor, ([0], [1], [0], [0.8])))
    p = logits.detach().sigmoid()[0]
    positive = -0.8 * (0.8 * p[1, 1].log() + 0.2 * (1 - p[1, 1]).log())
    negative = sum(-0.75 * q**2 * (1 - q).log() for q in (p[0, 0], p[0, 1], p[1, 0]))
    loss = class_loss(logits, found, torch.tensor([1]))
    torch.testing.assert_close(loss.detach(), positive + negative)


def test_box_losses_are_least_at_the_true_distances() -> None:
    places = AnchorPoints(torch.tensor([[20.0, 20.0]]), torch.tensor([8.0]))
    found = Assignment(*map(torch.tensor, ([0], [0], [0], [0.5])))
    true = torch.tensor([[20 - 8.0, 20 - 20.0, 20 + 16.0, 20 + 8 * 3.25]])  # 1, 2.5, 2 and 3.25 strides
    shares = torch.full((4, BINS), 1e-9)
    shares[0, 1], shares[2, 2] = 1, 1
    shares[1, 2:4] = 0.5
    shares[3, 3:5] = torch.tensor([0.75, 0.25])
    bins = torch.arange(float(BINS)).view(1, BINS, 1, 1)
    giou, distance = box_losses(shares.log().view(1, -1, 1), places, bins, found, true)
    entropy = np.mean([0, np.log(2), 0, -0.75 * np.log(0.75) - 0.25 * np.log(0.25)])
    assert float(giou) == pytest.approx(0, abs=1e-5)
    assert float(distance) == pytest.approx(0.5 * entropy, rel=1e-3)


def mask_loss_densely(
    coefficients: Tensor, prototypes: Tensor, found: Assignment, targets: list[Target], rule: str
) -> float:
    """Cell by cell."""
    everything = [(i, k) for i, t in enumerate(targets) for k in range(len(t.labels))]
    loss = 0.0
    for image, place, row in zip(*(t.tolist() for t in found[:3]), strict=True):
        target, own = targets[image], everything[row][1]
        x1, y1, x2, y2 = (target.boxes[own] / 4).tolist()
        logits = torch.einsum("m,mhw->hw", coefficients[image, :, place], prototypes[image])
        cells = []
        for r, c in np.ndindex(*logits.shape):
            block = target.masks[own, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].float()
            if rule == "corner" and x1 <= c < x2 and y1 <= r < y2:
                cells.append((logits[r, c], block[0, 0]))
            if rule == "mean" and x1 - 1.5 < c + 1e-6 < x2 + 1.5 and y1 - 1.5 < r + 1e-6 < y2 + 1.5:
                near = [np.floor(v - 0.5) for v in (x1, y1)] + [np.floor(v - 0.5) + 1 for v in (x2, y2)]
                if near[0] <= c <= near[2] and near[1] <= r <= near[3]:
                    cells.append((logits[r, c], block.mean()))
        entropy = sum(float(F.binary_cross_entropy_with_logits(a, b)) for a, b in cells)
        loss += entropy / ((x2 - x1) * (y2 - y1) if rule == "corner" else len(cells))
    return loss


@pytest.mark.parametrize("rule", ["corner", "mean"])
def test_mask_loss_is_the_definition_s(rule: Any) -> None:
    """Objects of all sizes, one of which has no anchor point and one over the border."""
    torch.manual_seed(0)
    targets = [objects(5, seed=3), objects(0), objects(3, seed=4)]
    targets[0].boxes[0] = torch.tensor([0.0, 0.0, 96.0, 96.0])
    targets[0].boxes[1] = torch.tensor([90.0, 1.0, 96.0, 9.5])
    found = Assignment(
        torch.tensor([0, 2, 0, 0, 2, 0, 2]),
        torch.tensor([3, 0, 4, 1, 2, 6, 7]),
        torch.tensor([0, 6, 1, 0, 5, 3, 6]),
        torch.rand(7),
    )
    coefficients, prototypes = torch.randn(3, 8, 10, requires_grad=True), torch.randn(3, 8, 24, 24, requires_grad=True)
    config = LossConfig(mask_cells=rule)
    loss = mask_loss(coefficients, prototypes, found, targets, config)
    assert float(loss.detach()) == pytest.approx(
        mask_loss_densely(coefficients.detach(), prototypes.detach(), found, targets, rule), rel=1e-4
    )
    loss.backward()
    assert coefficients.grad is not None and prototypes.grad is not None
    assert (coefficients.grad[0, :, 3] != 0).all() and not coefficients.grad[0, :, 0].any()
    assert not prototypes.grad[1].any()  # the image without an object


def test_masks_may_count_as_much_as_their_place() -> None:
    torch.manual_seed(0)
    found = Assignment(*map(torch.tensor, ([0], [0], [0], [0.3])))
    inputs = torch.randn(1, 8, 10), torch.randn(1, 8, 24, 24), found, [objects(1)]
    same, weighted = mask_loss(*inputs, LossConfig()), mask_loss(*inputs, LossConfig(mask_weighting="quality"))
    torch.testing.assert_close(weighted, 0.3 * same)
