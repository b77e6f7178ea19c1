"""What Mask R-CNNs learn from: parts of the loss, their divisors, gradients, and what stays as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixtures import parts, stand_in, tiny_rcnn
from fixtures.spies import keeping, noting
from torch import Tensor, nn

from maskline import models
from maskline.models.network import Normalizer, Target, local_normalizer
from maskline.models.rcnn import network as network_module
from maskline.models.rcnn.loss import LossConfig, Sampled, box_losses, mask_loss, rpn_losses, sample_regions
from maskline.models.rcnn.network import CONFIGS, MaskRCNN
from maskline.models.rcnn.rpn import Predictions, propose
from maskline.models.roi_align import Regions
from maskline.training.loop import freeze, train_mode

EVERY = pytest.mark.parametrize("name", CONFIGS)
CASCADES = [name for name in CONFIGS if name.startswith("Cascade")]
KINDS = pytest.mark.parametrize("name", ["MaskRCNN-ResNet50", "MaskRCNN-ResNet50-FPN", CASCADES[0]])
REGIONS = ("loss_bbox", "loss_mask")  # beginnings of parts that are divided by numbers of regions


def learning(name: str) -> MaskRCNN:
    """A network in training, frozen as the recipe freezes it; boxes change little, so all stages have objects."""
    network = tiny_rcnn.network(name)
    with torch.no_grad():
        for head in parts.box_heads(network):
            for parameter in head.delta.parameters():
                parameter.mul_(0.1)
    freeze(network.frozen())
    train_mode(network, network.frozen())
    return network


def losses_of(
    network: MaskRCNN, targets: list[Target], normalizer: Normalizer = local_normalizer, *, image: Tensor | None = None
) -> dict[str, Tensor]:
    """With the same draws each time."""
    torch.manual_seed(0)
    return network.losses(parts.image(96, 128, batch=len(targets)) if image is None else image, targets,
                          normalizer=normalizer)  # fmt: skip


def unlimited(network: MaskRCNN) -> MaskRCNN:
    """Nothing is drawn at random: all regions and anchors are learned from."""
    network.config = replace(network.config, loss=LossConfig(num_anchors=10**5, num_regions=10**5))
    return network


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


# Parts, and what they reach


@EVERY
def test_parts_of_the_loss(name: str) -> None:
    stages = [f"_stage{i}" for i in range(3)] if name in CASCADES else [""]
    losses = losses_of(learning(name), [parts.objects(5), parts.objects(3, seed=1)])
    assert sorted(losses) == sorted(
        ["loss_rpn_cls", "loss_rpn_reg", "loss_mask", *(f"loss_bbox_{k}{s}" for k in ("cls", "reg") for s in stages)]
    )
    assert all(part.dtype == torch.float32 and part.shape == () and part > 0 for part in losses.values())


@EVERY
def test_the_loss_reaches_every_parameter_that_learns(name: str) -> None:
    """Also where one of the images has no objects. The coarsest anchors are few, and not always among the chosen."""
    network = unlimited(learning(name))
    total(losses_of(network, [parts.objects(5), parts.objects(0), parts.objects(2, seed=1)])).backward()
    for parameter_name, parameter in network.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.isfinite().all()) and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, parameter_name


@EVERY
def test_training_without_any_object_is_legal(name: str) -> None:
    """What learns from objects has a gradient of zero: processes that train together wait for each other's."""
    network = learning(name)
    losses = losses_of(network, [parts.objects(0), parts.objects(0)])
    assert losses["loss_rpn_cls"] > 0 and losses["loss_mask"] == 0 and losses["loss_rpn_reg"] == 0
    assert all(bool(part > 0) == ("cls" in key) for key, part in losses.items())
    total(losses).backward()
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


@KINDS
def test_training_without_any_proposal_is_legal(name: str) -> None:
    """Only true boxes are left to look at; or nothing at all."""
    network = learning(name)
    network.rpn.delta.weight.data.zero_()
    parts.bias(network.rpn.delta).data.fill_(-20)
    for targets in ([parts.objects(3), parts.objects(0)], [parts.objects(0), parts.objects(0)]):
        losses = losses_of(network, targets)
        network.zero_grad()
        total(losses).backward()
        assert all(part.isfinite() for part in losses.values())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


@EVERY
def test_stem_first_stage_and_norms_stay(name: str) -> None:
    network = learning(name)
    still = {n for n, p in network.named_parameters() if not p.requires_grad}
    expected = {
        n
        for n in dict(network.named_parameters())
        if n.startswith(("backbone.stem.", "backbone.stages.0.")) or ".norm." in n
    }
    assert still == expected
    assert all(n.startswith("backbone.") for n in expected)
    assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("name", ["MaskRCNN-ResNet50", "MaskRCNN-ResNet50-FPN", "Cascade-MaskRCNN-ResNet50-FPN"])
def test_as_many_parameters_learn_as_in_paddledetection(name: str) -> None:
    path = stand_in.fixture("losses", f"{name}.json")
    if not path.exists():
        pytest.skip("PaddleDetection's numbers are not in the project")
    with torch.device("meta"):
        network = models.build(name)
    freeze(network.frozen())
    counts: dict[str, int] = json.loads(path.read_text())["params_with_grad"]
    ours = [n for n, p in network.named_parameters() if p.requires_grad]
    blocks = {
        "backbone.": "backbone",
        "backbone.stages.1.": "backbone.res3",
        "backbone.stages.2.": "backbone.res4",
        "neck.": "neck",
        "rpn.": "rpn_head",
        "box_heads.": "bbox_head",
        "mask_head.": "mask_head",
    }
    found = {theirs: sum(n.startswith(prefix) for n in ours) for prefix, theirs in blocks.items()}
    if name == "MaskRCNN-ResNet50":  # the stage for regions is the box head's there, and ours in the backbone
        stage = sum(n.startswith("backbone.stages.3.") for n in ours)
        found = found | {"backbone": found["backbone"] - stage, "bbox_head": found["bbox_head"] + stage}
    assert found == {theirs: counts.get(theirs, 0) for theirs in blocks.values()}


@EVERY
def test_a_few_steps_of_training_help(name: str) -> None:
    network = unlimited(learning(name))
    targets = [parts.objects(3), parts.objects(2, seed=1)]
    image = torch.stack([F.pad(t.masks.amax(dim=0)[None].float(), (0, 0, 0, 0, 0, 2)) for t in targets])
    still = {n: t.clone() for n, t in network.state_dict().items() if n not in dict(network.named_parameters())}
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=5e-4)
    before = float(total(losses_of(network, targets, image=image)).detach())
    for _ in range(5):
        loss = total(losses_of(network, targets, image=image))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = float(total(losses_of(network, targets, image=image)).detach())
    assert after < 0.9 * before
    assert all(torch.equal(network.state_dict()[n], t) for n, t in still.items())  # the norms' statistics


# What the parts are divided by


@KINDS
def test_regions_are_divided_by_the_divisor(name: str) -> None:
    """One that says twice as many halves boxes and masks, and leaves anchors."""
    network, targets = learning(name), [parts.objects(5), parts.objects(3, seed=1)]
    counts: list[Tensor] = []
    plain = losses_of(network, targets, parts.noting_normalizer(counts))
    double = losses_of(network, targets, lambda n: 2 * n)
    for key, part in plain.items():
        torch.testing.assert_close(double[key], part / 2 if key.startswith(REGIONS) else part)
    torch.testing.assert_close(losses_of(network, targets), plain)
    regions, masks = counts[:-1], counts[-1]
    assert regions[0] <= 2 * 48 and 8 <= masks <= 2 * 12 and len(regions) == len(network.box_heads)


def test_averaged_gradients_are_those_of_one_batch() -> None:
    network = unlimited(tiny_rcnn.network("MaskRCNN-ResNet50-FPN").double())
    images = parts.image(96, 128, batch=4).double()
    targets = [parts.objects(n, seed=n) for n in (6, 0, 3, 8)]
    sums: list[Tensor] = []
    whole = losses_of(network, targets, parts.noting_normalizer(sums), image=images)
    parameters = [p for p in network.parameters() if p.requires_grad]
    expected = torch.autograd.grad(total(whole), parameters)
    halves = []
    for part in (slice(2), slice(2, 4)):
        losses = losses_of(network, targets[part], parts.halving_normalizer(sums), image=images[part])
        halves.append(torch.autograd.grad(total(losses), parameters))
    for one, a, b in zip(expected, *halves, strict=True):
        torch.testing.assert_close((a + b) / 2, one)


def test_losses_are_float32_under_autocast() -> None:
    network, targets = learning("MaskRCNN-ResNet50-FPN"), [parts.objects(5), parts.objects(2, seed=1)]
    exact = losses_of(network, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = losses_of(network, targets)
    for key, part in rough.items():
        assert part.dtype == torch.float32
        assert float(part.detach()) == pytest.approx(float(exact[key].detach()), rel=0.5)  # other regions, too


def test_a_batch_s_padding_bounds_proposals() -> None:
    """For an image that is smaller than the input, regions end where it ends."""
    network = learning("MaskRCNN-ResNet50-FPN")
    seen: list[tuple[Tensor, Tensor]] = []
    small = parts.objects(2, 60, 70)
    small = Target(small.labels, small.boxes, F.pad(small.masks, (0, 58, 0, 36)), (60, 70))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_module, "propose", keeping(seen, propose))
        losses_of(network, [small, parts.objects(3)])
    ((boxes, valid),) = seen
    assert boxes[0][valid[0]].amax(dim=0).tolist()[2:] == [70, 60]
    assert boxes[1][valid[1]].amax(dim=0).tolist()[2:] == [128, 96]


# The stages of a cascade


@pytest.mark.parametrize("name", CASCADES)
def test_each_stage_of_a_cascade_asks_for_more_overlap(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first samples; the others take all boxes that the one before has made of its regions, but empty ones."""
    calls: list[tuple[list[Tensor], float, bool, Sampled]] = []

    def spy(proposals: list[Tensor], targets: list[Target], positive_iou: float, config: LossConfig, *,
            num_classes: int, first: bool) -> Sampled:  # fmt: skip
        found = sample_regions(proposals, targets, positive_iou, config, num_classes=num_classes, first=first)
        calls.append((proposals, positive_iou, first, found))
        return found

    monkeypatch.setattr(network_module, "sample_regions", spy)
    network = learning(name)
    parts.box_heads(network)[0].delta.bias.data[:2] = 60  # many leave the image
    losses_of(network, [parts.objects(4), parts.objects(2, seed=1)])
    assert [call[1:3] for call in calls] == [(0.5, True), (0.6, False), (0.7, False)]
    before = len(calls[0][3].labels)
    for proposals, _, _, found in calls[1:]:
        boxes = torch.cat(proposals)
        assert torch.equal(found.regions.boxes, boxes) and len(boxes) <= before
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes <= torch.tensor([128, 96, 128, 96])).all() and not boxes.requires_grad
        before = len(boxes)
    assert len(calls[1][3].labels) < len(calls[0][3].labels)


def test_stages_of_a_cascade_count_a_third_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "box_losses", lambda *_: {"loss_bbox_cls": torch.tensor(3.0)})
    losses = losses_of(learning(CASCADES[0]), [parts.objects(4)])
    assert [float(losses[f"loss_bbox_cls_stage{i}"]) for i in range(3)] == [1, 1, 1]


# The parts by hand


def square(x: float, side: float = 20) -> list[float]:
    return [x, 10.0, x + side, 10 + side]


def test_loss_of_anchors_by_hand() -> None:
    """Cross-entropy of all that are learned from, L1 of the objects' deltas; both over their number and the images."""
    anchors = torch.tensor([square(10), square(50), square(90), square(12)])
    masks = torch.zeros(1, 96, 128, dtype=torch.uint8)
    one = Target(torch.tensor([2]), torch.tensor([square(12)]), masks, (96, 128))
    scores = torch.tensor([[1.0, -2, 0.5, 3], [0.3, 0.2, -1, 0]])
    deltas = torch.zeros(2, 4, 4)
    deltas[0, 0] = torch.tensor([0.3, 0, 0, -0.2])
    deltas[1] = 7  # of an image without objects
    predictions = Predictions(list(scores.split(2, dim=1)), list(deltas.split(2, dim=1)), list(anchors.split(2)))
    losses = rpn_losses(predictions, [one, parts.objects(0)], LossConfig(num_anchors=16))
    wanted = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0]])
    p = scores.sigmoid()
    entropy = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).sum()
    assert float(losses["loss_rpn_cls"]) == pytest.approx(float(entropy) / 32)
    assert float(losses["loss_rpn_reg"]) == pytest.approx((abs(0.3 - 2 / 20) + 0.2) / 32, rel=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_loss_of_boxes_by_hand(shared: bool) -> None:
    """Deltas of a region's own class, or of the only ones there are; background has none."""
    regions = Regions(torch.tensor([square(10), square(50), square(90)]), torch.tensor([0, 0, 1]))
    true = torch.tensor([square(11), square(50), square(90, 40)])
    sampled = Sampled(regions, torch.tensor([1, 2, 0]), true, torch.zeros(3).long())  # two classes: 2 is background
    logits = torch.tensor([[0.5, 1.0, -1], [0, 2, 0.1], [3, -1, 0]])
    deltas = torch.full((3, 1 if shared else 2, 4), 50.0)
    deltas[0, 0 if shared else 1] = torch.tensor([0.2, 0, 0, 0])
    deltas[2, 0] = torch.tensor([5.0, 5, 3, 3])
    losses = box_losses(logits, deltas, sampled, (10.0, 10.0, 5.0, 5.0), lambda n: n * 2)
    entropy = F.cross_entropy(logits, sampled.labels) / 2
    growth = 5 * torch.tensor(2.0).log() - 3
    off = abs(10 * 1 / 20 - 0.2) + 2 * float(growth) + 2 * abs(10 * 10 / 20 - 5)
    assert float(losses["loss_bbox_cls"]) == pytest.approx(float(entropy))
    assert float(losses["loss_bbox_reg"]) == pytest.approx(off / 6, rel=1e-4)


def test_sums_over_regions_are_float32_whatever_their_terms() -> None:
    """And so is what they are divided by: half precision has no 515."""
    torch.manual_seed(0)
    boxes = torch.tensor([square(10)]).expand(515, -1)
    sampled = Sampled(Regions(boxes, torch.zeros(515).long()), torch.zeros(515).long(), boxes + 1, torch.zeros(515))
    logits, deltas = torch.randn(515, 3).bfloat16(), torch.randn(515, 2, 4).bfloat16()
    counts: list[Tensor] = []
    losses = box_losses(logits, deltas, sampled, (10.0, 10.0, 5.0, 5.0), parts.noting_normalizer(counts))
    exact = box_losses(logits.float(), deltas.float(), sampled, (10.0, 10.0, 5.0, 5.0), local_normalizer)
    assert counts[0] == 515 and all(torch.equal(losses[key], part) for key, part in exact.items())


def test_loss_of_masks_by_hand() -> None:
    """The mean over cells, then over regions; an object's left half is its mask."""
    masks = torch.zeros(1, 96, 128, dtype=torch.uint8)
    masks[:, :, :20] = 1
    own = Target(torch.tensor([0]), torch.tensor([square(10)]), masks, (96, 128))
    logits = torch.randn(2, 4, 4)
    regions = Regions(torch.tensor([square(10), square(40)]), torch.tensor([0, 0]))
    loss = mask_loss(logits, regions, torch.zeros(2).long(), [own], local_normalizer)
    true = torch.zeros(2, 4, 4)
    true[0, :, :2] = 1
    assert float(loss) == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, true)))


def test_the_mask_head_learns_from_sampled_objects_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a cascade, from those of the first stage."""
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(network_module, "mask_loss", noting(seen, mask_loss))
    for name in ("MaskRCNN-ResNet50", "MaskRCNN-ResNet50-FPN", CASCADES[0]):
        network, targets = learning(name), [parts.objects(30), parts.objects(2, seed=1)]
        losses_of(network, targets)
        logits, regions, objects, *_ = seen.pop()
        assert len(logits) == len(regions.boxes) == len(objects) and 12 < len(objects) <= 24
        assert (regions.image == 0).sum() == 12  # a quarter of 48 places, of 30 true boxes
        assert objects[regions.image == 1].max() < 2 and objects[regions.image == 0].max() > 2
        assert logits.shape[1:] == ((14, 14) if name == "MaskRCNN-ResNet50" else (28, 28))
