"""Mask-RT-DETR in small: shapes, gradients, denoising, fusing."""

from __future__ import annotations

import pytest
import torch
from fixtures import parts, tiny

from maskline import models
from maskline.errors import ParameterError, UnknownNameError
from maskline.exporting import fused
from maskline.models.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, clip_probabilities, inverse_sigmoid
from maskline.models.mask_rtdetr.decoder import QueryDecoder, extent
from maskline.models.mask_rtdetr.denoising import Noise, UnitTarget, denoising_queries


def some_targets() -> list[UnitTarget]:
    """Two objects, none, one."""
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.2, 0.3, 0.2, 0.2]])
    masks = torch.zeros(2, 96, 96)
    masks[0, 30:60, 20:70] = masks[1, 20:40, 10:30] = 1
    labels = torch.tensor([2, 0])
    return [
        UnitTarget(labels, boxes, masks),
        UnitTarget(labels[:0], boxes[:0], masks[:0]),
        UnitTarget(labels[1:], boxes[1:], masks[1:]),
    ]


def test_build_refuses_what_it_cannot_build() -> None:
    with pytest.raises(ParameterError, match="the configuration of SOLOv2 has no 'aligned'"):
        models.build("SOLOv2", overrides={"aligned": False})
    with pytest.raises(UnknownNameError, match="did you mean 'Mask-RT-DETR-L'"):
        models.build("Mask-RTDETR-L")


@torch.no_grad()
def test_detections_have_the_shapes_of_the_contract() -> None:
    network = tiny.network()
    boxes, scores, labels, masks = network(torch.rand(3, 3, 96, 96))
    assert boxes.shape == (3, 12, 4)
    assert masks.shape == (3, 12, 24, 24)
    assert labels.dtype == torch.int64 and labels.min() >= 0 and labels.max() < 3
    assert (scores.diff(dim=1) <= 0).all() and scores.min() > 0 and scores.max() < 1
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


@torch.no_grad()
def test_another_input_size_is_legal() -> None:
    assert tiny.network()(torch.rand(1, 3, 64, 128)).masks.shape == (1, 12, 16, 32)


@torch.no_grad()
def test_fused_network_gives_the_same_numbers_and_leaves_the_original() -> None:
    network, image = tiny.network().double(), torch.rand(1, 3, 96, 96).double()
    names = set(network.state_dict())
    fast = fused(network)
    assert set(network.state_dict()) == names and len(fast.state_dict()) < len(names)
    for a, b in zip(network.backbone(image), fast.backbone(image), strict=True):
        torch.testing.assert_close(a, b)
    levels, prototypes = network.neck(network.backbone(image))
    fast_levels, fast_prototypes = fast.neck(fast.backbone(image))
    torch.testing.assert_close(prototypes, fast_prototypes)
    for a, b in zip(levels, fast_levels, strict=True):
        torch.testing.assert_close(a, b)


def test_training_reaches_every_parameter() -> None:
    network = tiny.network().train()
    output = network.forward_train(torch.rand(3, 3, 96, 96), some_targets())
    assert output.groups is not None and output.groups.groups == 5
    assert len(output.layers) == len(output.denoising) == 1 + tiny.CONFIG.num_decoder_layers
    assert output.layers[0].masks.shape == (3, 24, 24, 24)
    assert output.denoising[-1].logits.shape == (3, 10, 3)
    everything = [output.encoder, *output.layers, *output.denoising]
    parts.total(t.float().square().mean() for prediction in everything for t in prediction).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_training_without_any_object_is_legal() -> None:
    nothing = UnitTarget(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, 96, 96))
    output = tiny.network().train().forward_train(torch.rand(2, 3, 96, 96), [nothing, nothing])
    assert output.groups is None and output.denoising == [] and len(output.layers) == tiny.CONFIG.num_decoder_layers


def test_training_and_inference_agree_on_the_last_layer() -> None:
    network, image = tiny.network(), torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        levels, prototypes = network.neck(network.backbone(image))
        logits, boxes, _ = network.decoder(levels, prototypes)
        output = network.decoder.forward_train(levels, prototypes, some_targets()[:1])
    torch.testing.assert_close(output.layers[-1].logits, logits, rtol=1e-4, atol=1e-4)
    # training boxes start from the box before, inference boxes too: only the path of the gradient differs
    assert (output.layers[-1].boxes - boxes).abs().max() < 1e-4


def test_denoising_queries_are_disturbed_copies_in_groups() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(3, 8)
    groups = denoising_queries(some_targets(), embedding, queries=4, noise=Noise(10, 0.0, 1.0))
    assert groups is not None
    assert groups.content.shape == (3, 10, 8) and groups.boxes.shape == (3, 10, 4)
    torch.testing.assert_close(groups.content[0, :4], embedding[[2, 0, 2, 0]])
    assert not groups.content[1].any()  # places without an object
    assert [p.tolist() for p in groups.positions] == [list(range(10)), [], [0, 2, 4, 6, 8]]
    true = some_targets()[0].boxes.repeat(5, 1)
    moved = (groups.boxes[0] - true).abs()
    assert (moved[:, :2] <= true[:, 2:] * 0.5 + 1e-4).all() and (moved[:, 2:] <= true[:, 2:] + 1e-4).all()
    assert moved.max() > 0.05 and groups.boxes.min() >= 0 and groups.boxes.max() <= 1


def test_queries_do_not_see_the_answers() -> None:
    groups = denoising_queries(some_targets(), torch.randn(3, 8), queries=4, noise=Noise(10))
    assert groups is not None
    sees = groups.may_attend
    assert not sees[10:, :10].any() and sees[10:, 10:].all() and sees[:10, 10:].all()
    assert sees[0, :2].all() and not sees[0, 2:10].any()


def test_label_noise_replaces_about_its_share() -> None:
    torch.manual_seed(0)
    labels = torch.zeros(1, dtype=torch.int64)
    target = UnitTarget(labels, torch.full((1, 4), 0.5), torch.zeros(1, 8, 8))
    embedding = torch.eye(50)
    groups = denoising_queries([target], embedding, queries=4, noise=Noise(4000, 0.25, 0.0))
    assert groups is not None
    kept = (groups.content[0].argmax(dim=-1) == 0).float().mean()
    assert 0.72 < kept < 0.79  # three quarters, and one in fifty of the rest


def test_mask_extents() -> None:
    masks = torch.full((1, 3, 8, 16), -1.0)
    masks[0, 0, 2:5, 4:12] = 1
    masks[0, 1] = 1
    boxes = QueryDecoder.boxes_of_masks(masks)[0]
    torch.testing.assert_close(boxes[0], torch.tensor([0.5, 3.5 / 8, 0.5, 3 / 8]))
    torch.testing.assert_close(boxes[1], torch.tensor([0.5, 0.5, 1, 1]), atol=2e-5, rtol=0)
    torch.testing.assert_close(boxes[2], torch.zeros(4), atol=2e-5, rtol=0)
    first, last = extent(torch.tensor([[False, True, True, False], [False] * 4]))
    assert first.tolist() == [0.25, 0] and last.tolist() == [0.75, 0]


def test_box_forms_are_inverse() -> None:
    boxes = torch.rand(10, 4)
    torch.testing.assert_close(box_xyxy_to_cxcywh(box_cxcywh_to_xyxy(boxes)), boxes)
    inside = torch.linspace(0.001, 0.999, 50)
    torch.testing.assert_close(torch.sigmoid(inverse_sigmoid(inside)), inside)
    assert clip_probabilities(torch.tensor([-3.0, 0.0])).tolist() == pytest.approx([1e-5, 1e-5], rel=1e-3)
