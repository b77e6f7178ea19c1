"""SOLOv2 in small: shapes, peaks, matrix NMS, boxes, assignment, losses, gradients, export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from fixtures import stand_in
from fixtures.tiny_solov2 import CONFIG, NAMES, SPEC
from fixtures.tiny_solov2 import network as tiny
from torch import Tensor

from maskline.exporting.graph import fused, write_graph
from maskline.models.deployed import Deployed
from maskline.models.network import Target
from maskline.models.solov2 import loss as loss_module
from maskline.models.solov2.assigner import AssignerConfig, Assignment, assign, reduced
from maskline.models.solov2.decode import covering, mask_ious, matrix_nms, points_nms, tight_boxes
from maskline.models.solov2.head import Predictions, with_coordinates
from maskline.models.solov2.loss import class_targets, focal_loss, mask_loss
from maskline.models.solov2.network import CONFIGS, SOLOv2
from maskline.models.solov2.weights import RENAME
from maskline.preprocess import Frame
from maskline.runtime.graph import Raw, Record
from maskline.runtime.postprocess import to_instances
from maskline.weights.arrays import rename_keys
from maskline.weights.load import mismatches

Pairs: TypeAlias = set[tuple[int, int]]
CLASSES = len(NAMES)
MANIFEST = stand_in.fixture("manifests", "SOLOv2.json")


def objects(number: int, height: int = 96, width: int = 96, seed: int = 0) -> Target:
    """Ellipses, which may overlap."""
    rng = torch.Generator().manual_seed(seed)
    whole = torch.tensor([width, height])
    extent = (torch.rand(number, 2, generator=rng) * 0.4 + 0.1) * whole
    centre = extent / 2 + torch.rand(number, 2, generator=rng) * (whole - extent)
    x, y = (
        ((torch.arange(n) + 0.5) - centre[:, i, None]) / extent[:, i, None] * 2 for i, n in ((0, width), (1, height))
    )
    masks = (x[:, None] ** 2 + y[:, :, None] ** 2 < 1).to(torch.uint8)
    labels = torch.randint(CLASSES, (number,), generator=rng)
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
    return Target(labels, boxes, masks, (height, width))


def blobs(number: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth masks (1, number, height, width), of which about a third is positive."""
    noise = torch.randn(1, number, height // 4 + 2, width // 4 + 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(height, width), mode="bicubic") - 0.4


# the network


def test_size_of_the_real_one() -> None:
    with torch.device("meta"):
        network = SOLOv2(CONFIGS["SOLOv2"], 80)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(46.59, abs=0.01)


@pytest.mark.skipif(not MANIFEST.exists(), reason="the names of PaddleDetection's weights are not in the project")
def test_every_weight_of_paddledetection_has_its_place() -> None:
    manifest = json.loads(MANIFEST.read_text())
    twice = ("solov2_head.bbox_head.solo_", "mask_head.mask_feat_head.conv_pred.0.")
    second = rename_keys([n for n, *_ in manifest if n.startswith(twice)], RENAME)
    names = rename_keys([n for n, *_ in manifest if n not in second], RENAME)
    assert len(second) == 7 and set(second.values()) < set(names.values())
    with torch.device("meta"):
        network = SOLOv2(CONFIGS["SOLOv2"], 80)
        assert not mismatches(network, {names[n]: torch.zeros(shape) for n, shape, *_ in manifest if n in names})


@torch.no_grad()
def test_detections_have_the_shapes_of_the_contract() -> None:
    boxes, scores, labels, masks = tiny()(torch.randn(2, 3, 96, 64))
    assert boxes.shape == (2, 20, 4) and masks.shape == (2, 20, 24, 16)
    assert labels.dtype == torch.int64 and labels.min() >= 0 and labels.max() < CLASSES
    assert (scores.diff(dim=1) <= 0).all() and scores.min() >= 0 and 0 < scores.max() < 1
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert (boxes[..., 2] <= 64).all() and (boxes[..., 3] <= 96).all() and boxes.min() >= 0
    assert -0.5 <= masks.min() < 0 < masks.max() <= 0.5


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 128), (75, 101), (33, 32), (1, 1)])
def test_any_size_is_legal(size: tuple[int, int]) -> None:
    found = tiny()(torch.randn(1, 3, *size))
    assert found.masks.shape == (1, 20, -(-size[0] // 4), -(-size[1] // 4))
    assert all(bool(t.isfinite().all()) for t in found)


@torch.no_grad()
def test_padding_an_image_changes_nothing_but_how_far_masks_reach() -> None:
    network, image = tiny(), torch.randn(1, 3, 72, 100)
    alone, padded = network(image), network(F.pad(image, (0, 28, 0, 24)))
    torch.testing.assert_close(alone.scores, padded.scores)
    torch.testing.assert_close(alone.masks, padded.masks[..., :18, :25])


@torch.no_grad()
def test_more_rows_than_cells_are_legal() -> None:
    network = tiny(replace(CONFIG, num_grids=(2, 2, 1, 1, 1), max_detections=50), 1)
    scores = network(torch.randn(2, 3, 32, 32)).scores
    assert scores.shape == (2, 50) and not scores[:, 11:].any() and scores[:, 0].all()


@torch.no_grad()
def test_masks_that_are_too_small_are_nothing() -> None:
    network, image = tiny(), torch.randn(1, 3, 64, 64)
    most = 16 * 16
    assert network(image).scores.any()
    network.config = replace(CONFIG, nms=replace(CONFIG.nms, min_areas=(most,) * 5))
    assert not network(image).scores.any()


@torch.no_grad()
def test_before_training_every_score_is_about_the_prior() -> None:
    for level in SOLOv2(CONFIG, CLASSES).predict(torch.randn(1, 3, 64, 64)).classes:
        assert level.sigmoid().sub(0.01).abs().max() < 0.005


def test_what_is_frozen() -> None:
    network = SOLOv2(CONFIG, CLASSES)
    for module in network.frozen():
        module.requires_grad_(False)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert not any(n.startswith(("backbone.stem", "backbone.stages.0")) for n in trained)
    assert {n for n in trained if n.startswith("backbone")} == {
        n for n, _ in network.named_parameters() if n.startswith("backbone.stages") and ".conv.weight" in n
    } - {n for n, _ in network.named_parameters() if n.startswith("backbone.stages.0")}


def test_coordinates_run_from_minus_one_to_one() -> None:
    x, y = with_coordinates(torch.zeros(2, 4, 3, 5))[1, -2:]
    assert x.tolist() == [[-1, -0.5, 0, 0.5, 1]] * 3 and y.tolist() == [[-1] * 5, [0] * 5, [1] * 5]
    assert with_coordinates(torch.zeros(1, 1, 1, 1)).flatten().tolist() == [0, -1, -1]


# selection


def test_peaks_are_the_definition_s() -> None:
    torch.manual_seed(0)
    scores = torch.rand(2, 3, 6, 6)
    kept = points_nms(scores)
    for b, c, y, x in np.ndindex(*scores.shape):
        before = scores[b, c, max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1]
        assert kept[b, c, y, x] == (scores[b, c, y, x] if scores[b, c, y, x] == before.max() else 0)


def test_matrix_nms_is_the_definition_s() -> None:
    masks = (blobs(12, 20, 20)[0].flatten(1) > 0).float()
    scores, labels = torch.rand(12).sort(descending=True).values, torch.arange(12) % 2
    iou = mask_ious((masks @ masks.T)[None], masks.sum(dim=1)[None])
    found = matrix_nms(scores[None], labels[None], iou, sigma=2.0)[0]
    for j in range(12):
        factor = 1.0
        for i in range(j):
            if labels[i] == labels[j]:
                better = [float(iou[0, k, i]) for k in range(i) if labels[k] == labels[i]]
                cover = float(np.exp(-2 * max(better, default=0.0) ** 2))
                factor = min(factor, float(np.exp(-2 * float(iou[0, i, j]) ** 2)) / cover)
        assert float(found[j]) == pytest.approx(float(scores[j]) * factor, rel=1e-5)
    assert (found < scores).sum() > 6


def test_a_copy_of_a_mask_loses_most_of_its_score_and_another_class_keeps_it() -> None:
    iou = torch.ones(1, 3, 3)
    found = matrix_nms(torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[1, 1, 0]]), iou, sigma=2.0)
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.8 * float(np.exp(-2)), 0.7]]))


# where masks lie


def test_masks_are_cut_where_the_image_ends() -> None:
    masks = torch.rand(1, 2, 16, 24)
    assert torch.equal(covering(masks, (64, 96)), masks)
    assert torch.equal(covering(masks, (40, 72)), masks[..., :10, :18])


def test_where_a_side_does_not_divide_cells_are_a_little_smaller() -> None:
    """What says where it is in the padded input is right in the image too, but for the half cell at the border."""
    y, x = torch.meshgrid(torch.arange(16) * 4 + 2.0, torch.arange(24) * 4 + 2.0, indexing="ij")
    masks = covering(torch.stack([y, x])[None], (43, 70))[0]
    assert masks.shape == (2, 11, 18)
    torch.testing.assert_close(masks[0], ((torch.arange(11) + 0.5) * 43 / 11).clamp(min=2)[:, None].expand(11, 18))
    torch.testing.assert_close(masks[1], ((torch.arange(18) + 0.5) * 70 / 18).clamp(min=2).expand(11, 18))


def test_boxes_are_tight_around_what_is_positive() -> None:
    fine = 32  # points looked at for each cell
    masks = blobs(20, 12, 16)
    dense = F.interpolate(masks, scale_factor=fine, mode="bilinear")[0] > 0
    boxes = tight_boxes(masks, (12 * 4, 16 * 4))[0].numpy() / 4
    for box, mask in zip(boxes, dense.numpy(), strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=i)) for i in (1, 0))
        expected = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / fine
        assert np.abs(box - expected).max() <= 2 / fine
        assert (box[:2] <= expected[:2] + 0.5 / fine).all() and (box[2:] >= expected[2:] - 0.5 / fine).all()
    assert {0.0, 12.0, 16.0} < set(boxes.flatten().tolist())  # some reach the border, and no box goes beyond it


def test_boxes_of_nothing_of_everything_and_of_one_cell() -> None:
    masks = torch.full((1, 3, 4, 6), -0.5)
    masks[0, 1] = 0.5
    masks[0, 2, 1, 4] = 0.5
    nothing, everything, one = tight_boxes(masks, (16, 24))[0].tolist()
    assert everything == [0, 0, 24, 16] and one == [16, 4, 20, 8]
    assert nothing[0] == nothing[2] and nothing[1] == nothing[3]


@pytest.mark.parametrize("size", [(48, 64), (31, 45), (200, 150)])
def test_the_runtime_cuts_off_nothing_of_a_mask(size: tuple[int, int]) -> None:
    masks = blobs(30, 12, 16, seed=1)
    boxes = tight_boxes(masks, (48, 64))
    raw = Raw(boxes.numpy(), np.ones((1, 30), np.float32), np.zeros((1, 30), np.int64), masks.numpy()).image(0)
    found = to_instances(raw, Frame(size, (48, 64)), (48, 64), np.zeros(1, np.float32))
    grown = to_instances(raw, Frame(size, (48, 64)), (48, 64), np.zeros(1, np.float32), grow_boxes=True)
    assert np.array_equal(found.full_masks(), grown.full_masks())
    apart = []
    for box, mask in zip(found.boxes, found.full_masks(), strict=True):
        y, x = np.nonzero(mask)
        apart.append(np.abs(box - [x.min(), y.min(), x.max() + 1, y.max() + 1]).max())
    assert np.quantile(apart, 0.8) < 1  # pixel of the image; but a point of a mask may lie between pixels


# assignment


def assigned(target: Target, size: tuple[int, int], grids: tuple[int, ...], sizes: list[tuple[float, float]]) -> Pairs:
    """By PaddleDetection's description, cell by cell: (cell over all grids, object)."""
    found: Pairs = set()
    first = 0
    for grid, (least, most) in zip(grids, sizes, strict=True):
        for row, (mask, box) in enumerate(zip(target.masks.numpy(), target.boxes.double().tolist(), strict=True)):
            width, height = box[2] - box[0], box[3] - box[1]
            if not mask.any() or not least <= (width * height) ** 0.5 <= most:
                continue
            y, x = (float(at.mean()) for at in np.nonzero(mask))
            rows, columns = (
                [int(v // (1 / grid)) for v in (at / whole, (at - side / 10) / whole, (at + side / 10) / whole)]
                for at, side, whole in ((y, height, size[0]), (x, width, size[1]))
            )
            for i in range(max(0, rows[1], rows[0] - 1), min(grid - 1, rows[2], rows[0] + 1) + 1):
                for j in range(max(0, columns[1], columns[0] - 1), min(grid - 1, columns[2], columns[0] + 1) + 1):
                    found.add((first + i * grid + j, row))
        first += grid * grid
    return found


def test_assignment_is_that_of_paddledetection() -> None:
    grids, sizes = (40, 36, 24, 16, 12), ((1, 24), (12, 32), (24, 48), (32, 96), (48, 2048))
    targets = [objects(12, 96, 128, seed=1), objects(0), objects(9, 100, 70, seed=2)]
    targets[0].masks[3] = 0  # hidden behind others
    targets[2].masks[0], targets[2].boxes[0] = 0, torch.tensor([0.0, 0.0, 70.0, 100.0])
    targets[2].masks[0, :4, :4] = 1  # in a corner of the box
    found = assign(targets, (128, 128), grids, AssignerConfig(sizes))
    first = 0
    for i, target in enumerate(targets):
        own = found.image == i
        pairs = set(zip(found.cell[own].tolist(), (found.object[own] - first).tolist(), strict=True))
        assert len(pairs) == int(own.sum()) and pairs == assigned(target, (128, 128), grids, list(sizes))
        first += len(target.labels)
    assert len(found.image) > 100


def test_masks_at_a_quarter_are_opencv_s() -> None:
    masks = (np.random.default_rng(0).random((5, 64, 96)) < 0.5).astype(np.uint8)
    expected = [cv2.resize(m, None, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_LINEAR) for m in masks]
    assert np.array_equal(reduced(torch.from_numpy(masks), (64, 96)).numpy(), expected)
    smaller = reduced(torch.from_numpy(masks[:, :50, :70]), (64, 96))
    assert smaller.shape == (5, 16, 24) and not smaller[:, 13:].any() and not smaller[:, :, 18:].any()
    assert np.array_equal(smaller[:, :12, :17], np.array(expected)[:, :12, :17])


# losses


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def test_a_cell_of_several_objects_has_the_class_of_the_last() -> None:
    found = Assignment(torch.tensor([0, 1, 1, 1]), torch.tensor([2, 0, 0, 1]), torch.tensor([0, 2, 1, 1]))
    wanted = class_targets(torch.zeros(2, 4, 3), found, torch.tensor([2, 0, 1]))
    assert torch.nonzero(wanted).tolist() == [[0, 2, 2], [1, 0, 1], [1, 1, 0]]


def test_focal_loss_is_the_definition_s() -> None:
    torch.manual_seed(0)
    logits, wanted = torch.randn(2, 5, 3) * 3, (torch.rand(2, 5, 3) < 0.3).float()
    p = logits.sigmoid()
    right = torch.where(wanted > 0, p, 1 - p)
    alpha = torch.where(wanted > 0, 0.25, 0.75)
    torch.testing.assert_close(focal_loss(logits, wanted), (-alpha * (1 - right) ** 2 * right.log()).sum())


@pytest.mark.parametrize("at_a_time", [1, 3 * 96, 1 << 24])
def test_mask_loss_is_the_definition_s(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "AT_A_TIME", at_a_time)
    torch.manual_seed(0)
    kernels, features = torch.randn(3, 6, 4, requires_grad=True), torch.randn(3, 4, 8, 12, requires_grad=True)
    masks = (torch.rand(4, 8, 12) < 0.4).to(torch.uint8)
    masks[2] = 0  # too small to have a cell
    found = Assignment(
        torch.tensor([0, 0, 0, 2, 2, 2, 2, 2]),
        torch.tensor([5, 1, 1, 0, 3, 4, 5, 2]),
        torch.tensor([0, 0, 1, 2, 3, 3, 3, 3]),
    )
    loss, number = mask_loss(kernels, features, found, masks)
    loss.backward()
    expected = torch.zeros(())
    again = [t.detach().requires_grad_() for t in (kernels, features)]
    for i, cell, row in zip(*(t.tolist() for t in found), strict=True):
        p, t = torch.einsum("e,ehw->hw", again[0][i, cell], again[1][i]).sigmoid(), masks[row].float()
        if row != 2:
            expected = expected + 1 - 2 * (p * t).sum() / ((p * p).sum() + (t * t).sum() + 0.002)
    expected.backward()
    assert number == 7
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(kernels.grad, again[0].grad)
    torch.testing.assert_close(features.grad, again[1].grad)


def test_images_without_objects_are_legal_also_all_of_them() -> None:
    network = SOLOv2(CONFIG, CLASSES).train()
    image = torch.randn(2, 3, 70, 90)
    some = network.losses(image, [objects(3, 70, 90), objects(0, 70, 90)])
    none = network.losses(image, [objects(0, 70, 90)] * 2)
    assert all(bool(part.isfinite()) for part in (*some.values(), *none.values()))
    assert some["loss_ins"] > 0 and none["loss_ins"] == 0 and none["loss_cate"] > 0
    total(none).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_sums_over_objects_are_divided_by_what_the_divisor_says() -> None:
    network, image, targets = tiny(), torch.randn(1, 3, 96, 96), [objects(4)]
    counts: list[float] = []

    def normalizer(count: Tensor) -> Tensor:
        counts.append(float(count))
        return torch.tensor(10.0)

    usual, tenth = network.losses(image, targets), network.losses(image, targets, normalizer=normalizer)
    found = assign(targets, (96, 96), CONFIG.num_grids, CONFIG.loss.assigner)
    assert counts == [len(found.cell.unique()) + 1, len(found.cell)]
    for part, count in zip(("loss_cate", "loss_ins"), counts, strict=True):
        torch.testing.assert_close(tenth[part] * 10, usual[part] * count)


def test_a_perfect_answer_costs_nothing() -> None:
    target = objects(1, 64, 64)
    grids = (4, 4, 4, 4, 4)
    found = assign([target], (64, 64), grids, AssignerConfig())
    wanted = class_targets(torch.zeros(1, 80, CLASSES), found, target.labels)
    mask = reduced(target.masks, (64, 64)).float() * 2 - 1
    classes = [level.view(1, CLASSES, 4, 4) for level in (wanted.transpose(1, 2) * 200 - 100).split(16, dim=2)]
    predictions = Predictions(classes, [torch.full((1, 1, 4, 4), 50.0)] * 5, mask[None])
    losses = loss_module.losses(predictions, [target], CONFIG.loss)
    assert float(total(losses)) < 1e-3


# export


def test_the_graph_gives_the_network_s_numbers_at_any_size(tmp_path: Path) -> None:
    network, path = tiny(), tmp_path / "tiny.onnx"
    deployed = Deployed(network, SPEC.preprocess)
    record = Record(SPEC.name, NAMES, SPEC.preprocess, 0.5, network.mask_layout, "test")
    write_graph(Deployed(fused(network), SPEC.preprocess), record, path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    for shape in ((1, 64, 96, 3), (3, 33, 75, 3), (2, 130, 61, 3)):
        image = torch.randn(shape)
        with torch.no_grad():
            expected = deployed(image)
        for ours, theirs, tolerance in zip(
            session.run(None, {"image": image.numpy()}), expected, (0.01, 1e-4, 0, 1e-3), strict=True
        ):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=tolerance)
        assert expected[1].any()
