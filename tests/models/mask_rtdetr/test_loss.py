"""Losses and matching of Mask-RT-DETR: what holds for any network, tried on small numbers and a tiny one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixtures import parts, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskline.models.iou import box_giou, box_iou, dice_loss, mask_iou, point_sample
from maskline.models.layers import box_cxcywh_to_xyxy
from maskline.models.mask_rtdetr.decoder import Prediction
from maskline.models.mask_rtdetr.denoising import UnitTarget
from maskline.models.mask_rtdetr.loss import PARTS, LossConfig, losses, training_points
from maskline.models.mask_rtdetr.matcher import LossWeights, Objects, match, match_costs

CONFIG = LossConfig(num_points=200)


def target(*objects: tuple[int, tuple[float, float, float, float]], size: int = 96) -> UnitTarget:
    """Objects given by label and box, filling their boxes."""
    boxes = torch.tensor([box for _, box in objects]).reshape(-1, 4)
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) / size] * 2, indexing="ij")
    x1, y1, x2, y2 = box_cxcywh_to_xyxy(boxes)[..., None, None].unbind(dim=1)
    masks = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    return UnitTarget(torch.tensor([label for label, _ in objects], dtype=torch.int64), boxes, masks.to(torch.uint8))


TWO = target((2, (0.5, 0.5, 0.4, 0.3)), (0, (0.2, 0.3, 0.2, 0.2)))
ONE = target((0, (0.7, 0.3, 0.2, 0.4)))
NONE = target()


def perfect(targets: list[UnitTarget], queries: int = 5, classes: int = 3) -> Prediction:
    """Each image's objects by its first queries, the others silent."""
    B = len(targets)
    logits, masks = torch.full((B, queries, classes), -20.0), torch.full((B, queries, 96, 96), -20.0)
    boxes = torch.full((B, queries, 4), 0.05)
    for i, one in enumerate(targets):
        for j, label in enumerate(one.labels):
            logits[i, j, label], boxes[i, j], masks[i, j] = 20, one.boxes[j], one.masks[j] * 40.0 - 20
    return Prediction(logits, boxes, masks)


def step(targets: list[UnitTarget], seed: int = 0, **how: object) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    torch.manual_seed(seed)
    network = tiny.network().train()
    images = torch.rand(len(targets), 3, 96, 96)
    generator = torch.Generator().manual_seed(1)
    return network, losses(network.forward_train(images, targets), targets, config=CONFIG, generator=generator, **how)  # type: ignore[arg-type]


def test_every_parameter_learns() -> None:
    network, found = step([TWO, NONE, ONE])
    assert list(found) == [f"loss_{p}{aux}{dn}" for dn in ("", "_dn") for aux in ("", "_aux") for p in PARTS]
    assert all(value > 0 for value in found.values())
    parts.total(found.values()).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", PARTS)
def test_each_part_teaches_its_head(name: str) -> None:
    network, found = step([TWO, ONE])
    found[f"loss_{name}"].backward()
    heads = {"class": "class_head", "bbox": "box_head", "giou": "box_head", "mask": "mask_head", "dice": "mask_head"}
    for head in set(heads.values()):
        learns = any(p.grad is not None and p.grad.abs().sum() > 0 for p in getattr(network.decoder, head).parameters())
        assert learns == (head == heads[name]), head


def test_a_batch_without_objects_is_legal() -> None:
    network, found = step([NONE, NONE])
    assert all(value.isfinite() for value in found.values())
    assert found["loss_class"] > 0 and found["loss_class_aux"] > 0
    assert not any(found[f"loss_{part}"] for part in PARTS[1:])
    parts.total(found.values()).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert set(without) <= {"decoder.label_embedding.weight"}  # only denoising queries use it
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_images_without_objects_only_add_to_the_class_loss() -> None:
    alone, together = perfect([TWO]), perfect([TWO, NONE])
    for prediction, targets in ((alone, [TWO]), (together, [TWO, NONE])):
        pairs = match(prediction, Objects.of(targets), torch.rand(len(targets), 50, 2), LossWeights())
        assert pairs.image.tolist() == [0, 0] and pairs.query.tolist() == [0, 1] and pairs.object.tolist() == [0, 1]


def test_the_same_generator_gives_the_same_loss() -> None:
    first, second = (step([TWO, ONE])[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_processes_together_have_the_loss_of_one() -> None:
    """With the normaliser of all, the mean of two halves is the whole."""
    network = tiny.network().double()
    network.decoder.noise = network.decoder.noise._replace(num_queries=0)
    images, targets = torch.rand(3, 3, 96, 96).double(), [TWO, NONE, ONE]
    config = LossConfig(num_points=200, oversample_ratio=1, importance_sample_ratio=1)

    def loss(part: slice, points: Tensor, processes: int) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand", lambda shape, **_: points[:, : shape[1]].expand(shape))
            output = network.forward_train(images[part], targets[part])
            return parts.total(losses(output, targets[part], config=config, instances=3 / processes).values())

    points = torch.rand(1, 200, 2)
    whole = loss(slice(3), points, 1)
    halves = (loss(slice(1), points, 2) + loss(slice(1, 3), points, 2)) / 2
    torch.testing.assert_close(halves, whole, rtol=1e-9, atol=0)


def test_half_precision_is_summed_in_single() -> None:
    prediction = perfect([TWO, ONE])
    half = Prediction(*(t.bfloat16() for t in prediction))
    objects, points = Objects.of([TWO, ONE]), torch.rand(2, 50, 2)
    for a, b in zip(
        match_costs(prediction, objects, points, LossWeights()),
        match_costs(half, objects, points, LossWeights()),
        strict=True,
    ):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_a_diverged_network_is_matched() -> None:
    prediction = perfect([TWO])
    prediction.logits[0, 1], prediction.boxes[0, 2] = torch.nan, torch.inf
    pairs = match(prediction, Objects.of([TWO]), torch.rand(1, 50, 2), LossWeights())
    assert len(set(pairs.query.tolist())) == 2 and sorted(pairs.object.tolist()) == [0, 1]


def test_more_objects_than_queries() -> None:
    crowd = target(*[(0, (0.1 * i + 0.1, 0.5, 0.1, 0.1)) for i in range(8)])
    pairs = match(perfect([crowd, ONE], queries=8), Objects.of([crowd, ONE]), torch.rand(2, 50, 2), LossWeights())
    assert len(pairs.query) == 9
    few = Prediction(*(t[:, :3] for t in perfect([crowd, ONE], queries=8)))
    pairs = match(few, Objects.of([crowd, ONE]), torch.rand(2, 50, 2), LossWeights())
    assert pairs.image.tolist() == [0, 0, 0, 1] and pairs.object.tolist() == [0, 1, 2, 8]


def test_each_part_of_the_cost_finds_the_objects_alone() -> None:
    targets = [TWO, ONE]
    for part in LossWeights._fields:
        weights = LossWeights(0, 0, 0, 0, 0)._replace(**{part: 1.0})
        pairs = match(perfect(targets), Objects.of(targets), torch.rand(2, 500, 2), weights)
        assert pairs.query.tolist() == [0, 1, 0] and pairs.object.tolist() == [0, 1, 2], part


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.integers(3, 12))
def test_masks_at_points_equal_grid_sample(seed: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    masks = (torch.rand(3, height, width) > 0.5).to(torch.uint8)
    boxes = torch.rand(2, 4)
    objects = Objects.of(
        [UnitTarget(torch.zeros(n, dtype=torch.int64), boxes[:n], masks[a : a + n]) for a, n in ((0, 2), (2, 1))]
    )
    index, points = torch.tensor([2, 0, 2, 1]), torch.rand(4, 40, 2)
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    expected = point_sample(masks[index, None].float(), points)[:, 0]
    torch.testing.assert_close(objects.masks_at(index, points), expected, rtol=1e-4, atol=1e-5)


def test_points_are_drawn_where_a_mask_is_uncertain() -> None:
    x = torch.linspace(-4, 4, 64).expand(1, 1, 64, 64)  # uncertain in the middle column
    config = LossConfig(num_points=400, oversample_ratio=4, importance_sample_ratio=0.5)
    points = training_points(x, config, torch.Generator().manual_seed(0))
    assert points.shape == (1, 400, 2) and points.min() >= 0 and points.max() < 1
    from_middle = (points[0] - 0.5).abs()
    near, anywhere = from_middle[:200], from_middle[200:]
    within = near[:, 1] < 0.5 - 1 / 128  # a mask is 0 outside, so that logits at its edge are nearer to 0
    assert near[within, 0].max() < 0.1 and anywhere[:, 0].max() > 0.4 and within.sum() > 190


boxes = st.tuples(*[st.floats(0.0, 1.0, width=32)] * 4).map(lambda b: torch.tensor(b))


@given(boxes, boxes)
def test_box_overlap_stays_in_range(a: Tensor, b: Tensor) -> None:
    a, b = box_cxcywh_to_xyxy(a), box_cxcywh_to_xyxy(b)
    iou, giou = float(box_iou(a, b)), float(box_giou(a, b))
    assert 0 <= iou <= 1 + 1e-5 and -1 - 1e-4 <= giou <= iou + 1e-5
    assert giou == pytest.approx(float(box_giou(b, a)), abs=1e-5)


def test_overlaps_by_hand() -> None:
    a, b = torch.tensor([0.0, 0.0, 0.4, 0.4]), torch.tensor([0.2, 0.0, 0.6, 0.4])
    assert float(box_iou(a, b)) == pytest.approx(1 / 3, abs=1e-6)
    assert float(box_giou(a, torch.tensor([0.6, 0.0, 1.0, 0.4]))) == pytest.approx(-0.2, abs=1e-6)
    assert float(dice_loss(torch.tensor(0.0), torch.tensor(0.0))) == 0
    empty, full = torch.full((1, 4, 4), -1.0), torch.ones(1, 4, 4)
    assert float(mask_iou(empty, empty > 0)) == 1 and float(mask_iou(full, empty > 0)) < 0.001
    assert float(mask_iou(full, F.pad(torch.ones(1, 4, 2), (0, 2)) > 0)) == pytest.approx(0.5, abs=1e-3)
