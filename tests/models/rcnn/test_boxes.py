"""Mask R-CNN's boxes: relative to others, anchors, proposals, and which of them answers for which object."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import parts
from torch import Tensor

from maskline.models.iou import box_iou
from maskline.models.network import Target
from maskline.models.rcnn.boxes import (
    LARGEST_GROWTH,
    UNIT,
    anchors_of,
    base_anchors,
    clip_boxes,
    decode_boxes,
    encode_boxes,
)
from maskline.models.rcnn.loss import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    LossConfig,
    match,
    random_rows,
    sample_regions,
    subsample,
    true_masks,
)
from maskline.models.rcnn.network import CONFIGS
from maskline.models.rcnn.rpn import RPN, AnchorConfig, Predictions, ProposalConfig, propose
from maskline.models.roi_align import Regions

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def some_boxes(number: int, dtype: torch.dtype = torch.float32) -> Tensor:
    first = torch.rand(number, 2, dtype=dtype) * torch.tensor([90, 60], dtype=dtype)
    return torch.cat([first, first + 4 + torch.rand(number, 2, dtype=dtype) * 40], dim=1)


def target(boxes: list[list[float]], labels: list[int] | None = None, size: tuple[int, int] = (96, 128)) -> Target:
    """Objects that fill their boxes."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
    return Target(torch.tensor(labels or [0] * len(boxes)).long(), torch.tensor(boxes).view(-1, 4), masks, size)


# Boxes relative to others


@pytest.mark.parametrize("weights", [UNIT, WEIGHTS, (30.0, 20.0, 15.0, 10.0)])
def test_decoding_undoes_encoding(weights: tuple[float, float, float, float]) -> None:
    torch.manual_seed(0)
    boxes, anchors = some_boxes(50, torch.float64), some_boxes(50, torch.float64)
    deltas = encode_boxes(boxes, anchors, weights)
    torch.testing.assert_close(decode_boxes(deltas, anchors, weights), boxes)
    torch.testing.assert_close(encode_boxes(decode_boxes(deltas, anchors, weights), anchors, weights), deltas)


def test_deltas_are_shifts_in_sides_and_logarithms_of_growth() -> None:
    anchor, box = torch.tensor([10.0, 20, 30, 60]), torch.tensor([20.0, 30, 30, 110])
    expected = [(25 - 20) / 20 * 10, (70 - 40) / 40 * 10, math.log(10 / 20) * 5, math.log(80 / 40) * 5]
    assert encode_boxes(box, anchor, WEIGHTS).tolist() == pytest.approx(expected)


def test_sides_grow_so_far_and_no_further() -> None:
    """A thousand 16ths."""
    anchor = torch.tensor([0.0, 0, 16, 32])
    grown = decode_boxes(torch.tensor([0.0, 0, 99, 99]), anchor, WEIGHTS)
    torch.testing.assert_close(grown[2:] - grown[:2], torch.tensor([1000.0, 2000]))
    just = decode_boxes(torch.tensor([0.0, 0, 5 * LARGEST_GROWTH, -99]), anchor, WEIGHTS)
    torch.testing.assert_close(just[2] - just[0], torch.tensor(1000.0))
    assert just[3] - just[1] == pytest.approx(0, abs=1e-4)


def test_each_box_is_cut_at_the_borders_of_its_own_image() -> None:
    boxes = torch.tensor([[-5.0, -6, 300, 400], [250, -9, 270, -3]]).expand(2, -1, -1)
    found = clip_boxes(boxes, torch.tensor([[50.0, 200], [350, 260]])[:, None])
    assert found.tolist() == [
        [[0, 0, 200, 50], [200, 0, 200, 0]],
        [[0, 0, 260, 350], [250, 0, 260, 0]],
    ]


# Anchors


@pytest.mark.parametrize("name", ["MaskRCNN-ResNet50", "MaskRCNN-ResNet50-FPN"])
def test_anchors_are_the_formula_s(name: str) -> None:
    """Around each cell's upper left corner, cell after cell; sizes, and for each the ratios, without rounding."""
    config = CONFIGS[name].anchors
    shapes = [(3, 5), (2, 3), (1, 2), (1, 1), (1, 1)][: len(config.strides)]
    with torch.no_grad():
        found = RPN(8, config)([torch.rand(2, 8, *shape) for shape in shapes]).anchors
    for level, (h, w), stride, sizes in zip(found, shapes, config.strides, config.sizes, strict=True):
        expected = []
        for row, column in np.ndindex(h, w):
            for size in sizes:
                for ratio in (0.5, 1.0, 2.0):
                    wide = math.sqrt(size**2 / ratio)
                    high = ratio * wide
                    x, y = column * stride, row * stride
                    expected.append([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2])
        torch.testing.assert_close(level, torch.tensor(expected))
    assert sum(map(len, config.sizes)) == 5 and config.strides[-1] * len(sizes) == (80 if len(shapes) == 1 else 64)


def test_anchors_do_not_depend_on_what_is_in_the_map() -> None:
    base, cells = base_anchors([32], [1.0]), torch.tensor([[torch.nan, torch.inf], [-1, 0]])
    corners = anchors_of(base, cells, 8)[:, :2] + 16
    assert corners.tolist() == [[0, 0], [8, 0], [0, 8], [8, 8]]


def test_scores_deltas_and_anchors_are_in_one_order() -> None:
    """Anchor 4 of cell (1, 2) is where its channels are, in that cell."""
    rpn = RPN(8, AnchorConfig(strides=(16,), sizes=((32, 64),)))
    x = [torch.rand(1, 8, 3, 5)]
    with torch.no_grad():
        scores, deltas, anchors = rpn(x)
        hidden = rpn.conv(x[0]).relu()
        row = (1 * 5 + 2) * 6 + 4
        assert scores[0][0, row] == rpn.score(hidden)[0, 4, 1, 2]
        assert torch.equal(deltas[0][0, row], rpn.delta(hidden)[0, 16:20, 1, 2])
    assert anchors[0][row].tolist() == [32 - 32, 16 - 32, 32 + 32, 16 + 32]


# Proposals


def predicted(levels: tuple[int, ...], images: int = 2, delta: float = 0.5) -> Predictions:
    scores = [torch.randn(images, n) for n in levels]
    deltas = [torch.randn(images, n, 4) * delta for n in levels]
    return Predictions(scores, deltas, [some_boxes(n) for n in levels])


def proposed(predictions: Predictions, image: int, size: Tensor, config: ProposalConfig) -> list[tuple[float, Tensor]]:
    """By the definition, box by box: scores and boxes, best first."""
    found = []
    for scores, deltas, anchors in zip(*predictions, strict=True):
        kept: list[tuple[float, Tensor]] = []
        for row in scores[image].argsort(descending=True).tolist()[: config.pre_nms_top_n]:
            box = clip_boxes(decode_boxes(deltas[image, row], anchors[row], UNIT), size)
            narrow = bool((box[2:] - box[:2] < 1).any())
            if not narrow and all(box_iou(box, other) <= config.iou_threshold for _, other in kept):
                kept.append((float(scores[image, row]), box))
        found += kept[: config.post_nms_top_n]
    return sorted(found, key=lambda pair: -pair[0])[: config.max_proposals]


@pytest.mark.parametrize(
    "config",
    [
        ProposalConfig(1000, 1000, 1000),
        ProposalConfig(30, 1000, 1000),
        ProposalConfig(1000, 12, 1000),
        ProposalConfig(1000, 1000, 25),
        ProposalConfig(40, 20, 30, iou_threshold=0.3),
    ],
)
def test_proposals_are_the_definition_s(config: ProposalConfig) -> None:
    """Boxes lie within their image, and each level is separate; some levels have fewer anchors than candidates."""
    torch.manual_seed(0)
    predictions, size = predicted((90, 50, 7)), torch.tensor([[70.0, 100], [50, 60]])
    boxes, valid = propose(predictions, size, config)
    assert boxes.shape == (2, valid.shape[1], 4) and valid.shape[1] <= config.max_proposals
    for image in range(2):
        expected = proposed(predictions, image, size[image], config)
        count = len(expected)
        assert valid[image, :count].all() and not valid[image, count:].any() and count > 10
        torch.testing.assert_close(boxes[image, :count], torch.stack([box for _, box in expected]))


def test_boxes_of_less_than_a_pixel_are_not_proposals() -> None:
    """Not even where an image has no others."""
    predictions = predicted((20, 5))
    for deltas in predictions.deltas:
        deltas[0, :, 2:] = -9
    _, valid = propose(predictions, torch.tensor([[96.0, 128], [96, 128]]), ProposalConfig())
    assert not valid[0].any() and valid[1].any()


# Which box answers for which object


def matched(boxes: Tensor, true: Tensor, high: float, low: float, each: bool) -> tuple[list[int], list[int]]:
    """By the definition."""
    kinds, objects = [], []
    overlap = np.array([[float(box_iou(t, b)) for b in boxes] for t in true])
    for j in range(len(boxes)):
        best = overlap[:, j].max()
        kind = POSITIVE if best >= high else NEGATIVE if best < low else IGNORED
        if each and any(overlap[i, j] == overlap[i].max() > 0 for i in range(len(true))):
            kind = POSITIVE
        kinds.append(kind)
        objects.append(int(overlap[:, j].argmax()))
    return kinds, objects


@pytest.mark.parametrize("limits", [(0.7, 0.3, True), (0.7, 0.3, False), (0.5, 0.5, False), (0.6, 0.2, True)])
def test_matches_are_the_definition_s(limits: tuple[float, float, bool]) -> None:
    torch.manual_seed(0)
    true = parts.objects(6)
    boxes = torch.cat([some_boxes(150), true.boxes[2:4] + 1, true.boxes[2:3] - 1])
    high, low, each = limits
    kind, object_ = match(boxes, true, positive_iou=high, negative_iou=low, allow_low_quality_matches=each)
    assert (kind.tolist(), object_.tolist()) == matched(boxes, true.boxes, *limits)
    assert {POSITIVE, NEGATIVE} <= set(kind.tolist()) and (IGNORED in kind) == (high != low)


def test_the_best_box_of_an_object_is_taken_for_it_however_little_it_overlaps() -> None:
    """All of them, where several are best; and one that fits another object better answers for that one."""
    true = target([[0, 0, 10, 10], [40, 40, 60, 60], [100, 0, 110, 10], [41, 41, 61, 61]])
    boxes = torch.tensor([[8.0, 0, 18, 10], [0, 8, 10, 18], [9, 0, 19, 10], [40, 40, 60, 60], [70, 70, 90, 90]])
    kind, object_ = match(boxes, true, positive_iou=0.7, negative_iou=0.3, allow_low_quality_matches=True)
    assert kind.tolist() == [POSITIVE, POSITIVE, NEGATIVE, POSITIVE, NEGATIVE]
    assert object_[:4].tolist() == [0, 0, 0, 1]
    kind, _ = match(boxes, true, positive_iou=0.7, negative_iou=0.3, allow_low_quality_matches=False)
    assert kind.tolist() == [NEGATIVE] * 3 + [POSITIVE, NEGATIVE]


def test_limits_belong_to_objects() -> None:
    true = target([[0, 0, 10, 10]])
    kind, _ = match(torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 4.9]]), true, positive_iou=0.5, negative_iou=0.5,
                    allow_low_quality_matches=False)  # fmt: skip
    assert kind.tolist() == [POSITIVE, NEGATIVE]


def test_without_objects_all_is_background() -> None:
    for boxes in (some_boxes(5), torch.zeros(0, 4)):
        kind, object_ = match(boxes, target([]), positive_iou=0.7, negative_iou=0.3, allow_low_quality_matches=True)
        assert kind.tolist() == [NEGATIVE] * len(boxes) and object_.tolist() == [0] * len(boxes)


@pytest.mark.parametrize(
    ("objects", "background", "expected"),
    [(100, 100, (16, 48)), (5, 100, (5, 59)), (100, 10, (16, 10)), (0, 100, (0, 64)), (3, 0, (3, 0)), (0, 0, (0, 0))],
)
def test_quotas(objects: int, background: int, expected: tuple[int, int]) -> None:
    """A quarter of 64 for objects; what they leave is for background."""
    kind = torch.tensor([POSITIVE] * objects + [IGNORED] * 20 + [NEGATIVE] * background)
    kind = kind[torch.randperm(len(kind))]
    chosen = subsample(kind, 64, 0.25)
    assert tuple(map(len, chosen)) == expected
    assert all((kind[rows] == wanted).all() for rows, wanted in zip(chosen, (POSITIVE, NEGATIVE), strict=True))
    assert all(len(rows.unique()) == len(rows) for rows in chosen)


def test_choices_are_random_and_follow_the_seed() -> None:
    rows = torch.arange(1000, 1100)
    torch.manual_seed(1)
    first = random_rows(rows, 30)
    torch.manual_seed(1)
    again, other = random_rows(rows, 30), random_rows(rows, 30)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.isin(first, rows).all() and len(first.unique()) == 30
    assert torch.equal(random_rows(rows, 100), rows)
    often = torch.cat([random_rows(rows, 30) for _ in range(300)]) - 1000
    assert often.bincount(minlength=100).min() > 50 and often.bincount().max() < 140  # of 90 on average


def test_regions_to_learn_from() -> None:
    """True boxes are regions too; each knows its image, its class and its object."""
    torch.manual_seed(0)
    targets = [parts.objects(4, seed=1), parts.objects(0), parts.objects(3, seed=2)]
    proposals = [some_boxes(30), some_boxes(20), some_boxes(0)]
    config = LossConfig(num_regions=24)
    found = sample_regions(proposals, targets, 0.5, config, num_classes=3, first=True)
    image = found.regions.image
    assert image.bincount().tolist() == [24, 20, 3] and (image.diff() >= 0).all()
    assert (found.labels[image == 1] == 3).all()
    assert torch.equal(found.regions.boxes[image == 2].sort(dim=0).values, targets[2].boxes.sort(dim=0).values)
    positive = found.positive(3)
    assert torch.equal(positive, torch.nonzero(found.labels < 3).flatten()) and len(positive) >= 6
    for row in positive.tolist():
        own = targets[int(image[row])]
        assert found.labels[row] == own.labels[found.objects[row]]
        assert torch.equal(found.boxes[row], own.boxes[found.objects[row]])
        assert box_iou(found.boxes[row], found.regions.boxes[row]) >= 0.5


def test_more_objects_than_their_share() -> None:
    """A quarter of 24 places: no more, though all true boxes are regions."""
    crowd = parts.objects(40)
    found = sample_regions([some_boxes(200)], [crowd], 0.5, LossConfig(num_regions=24), num_classes=3, first=True)
    assert len(found.labels) == 24 and len(found.positive(3)) == 6


def test_later_stages_take_all_regions_and_no_true_boxes() -> None:
    torch.manual_seed(0)
    targets, boxes = [parts.objects(4), parts.objects(0)], [some_boxes(30), some_boxes(9)]
    boxes[0][:4] = targets[0].boxes + 1
    found = sample_regions(boxes, targets, 0.6, LossConfig(num_regions=8), num_classes=3, first=False)
    assert torch.equal(found.regions.boxes, torch.cat(boxes))
    best = box_iou(targets[0].boxes[:, None], boxes[0]).max(dim=0).values
    assert torch.equal(found.labels[:30] < 3, best >= 0.6) and (found.labels[30:] == 3).all()


# Masks as regions see them


def test_a_disc_as_its_regions_see_it() -> None:
    """A cell is foreground where its centre is inside; not asked of centres near the border."""
    y, x = (torch.arange(n) + 0.5 for n in (96, 128))
    disc = ((x - 60) ** 2 + (y[:, None] - 40) ** 2 < 25**2).to(torch.uint8)
    other = torch.ones_like(disc)
    own = Target(torch.zeros(2).long(), torch.tensor([[0.0, 0, 128, 96], [35, 15, 85, 65]]), torch.stack([other, disc]),
                 (96, 128))  # fmt: skip
    boxes = torch.tensor([[35.0, 15, 85, 65], [60, 40, 100, 70], [0, 0, 128, 96], [50.3, 20.7, 53.1, 90.2]])
    found = true_masks(Regions(boxes, torch.ones(4).long()), torch.ones(4).long(), [parts.objects(1), own], 28)
    assert found.shape == (4, 28, 28) and found.dtype == torch.float32
    cell = (torch.arange(28) + 0.5) / 28
    for mask, (x1, y1, x2, y2) in zip(found, boxes.tolist(), strict=True):
        distance = ((x1 + cell * (x2 - x1) - 60) ** 2 + (y1 + cell * (y2 - y1) - 40)[:, None] ** 2).sqrt()
        clear = (distance - 25).abs() > 1
        assert torch.equal(mask[clear] == 1, distance[clear] < 25)
        assert 0 < mask.mean() < 1


def test_masks_are_interpolated_between_centres_of_pixels() -> None:
    """As grid_sample does it, with the border's values beyond the border."""
    torch.manual_seed(0)
    blobs = parts.image(96, 128, batch=2).flatten(0, 1)[:5] > 0
    own = parts.objects(5)._replace(masks=blobs.to(torch.uint8))
    boxes, objects = some_boxes(40, torch.float64) * 1.4 - 8, torch.randint(5, (40,))
    found = true_masks(Regions(boxes, torch.zeros(40).long()), objects, [own], 14)
    cell = (torch.arange(14) + 0.5) / 14
    x, y = (boxes[:, i, None] + cell * (boxes[:, i + 2] - boxes[:, i])[:, None] for i in (0, 1))
    grid = torch.stack(torch.broadcast_tensors(x[:, None] / 128, y[:, :, None] / 96), dim=3) * 2 - 1
    seen = F.grid_sample(own.masks[objects, None].double(), grid, padding_mode="border", align_corners=False)[:, 0]
    clear = (seen - 0.5).abs() > 1e-9
    assert torch.equal(found[clear], (seen >= 0.5).float()[clear]) and clear.double().mean() > 0.99


def test_regions_of_several_images_see_their_own() -> None:
    targets = [target([[0, 0, 128, 96]]), target([]), target([[0, 0, 1, 1], [64, 0, 128, 96]])]
    boxes = torch.tensor([[10.0, 10, 50, 50], [10, 10, 50, 50], [0, 0, 128, 96]])
    found = true_masks(Regions(boxes, torch.tensor([0, 2, 2])), torch.tensor([0, 1, 1]), targets, 4)
    assert found.mean(dim=(1, 2)).tolist() == [1, 0, 0.5] and found[2, :, 2:].all()
    assert true_masks(Regions(boxes[:0], torch.zeros(0).long()), torch.zeros(0).long(), targets, 4).shape == (0, 4, 4)
