"""Mask R-CNN and Cascade Mask R-CNN give PaddleDetection's numbers: every step of a forward pass, proposals, detections
and masks, with both forms of RoIAlign; losses and their gradients.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import det_weights, stand_in
from fixtures.reference import Case, pair
from pycocotools import mask as coco
from torch import Tensor

from maskline.models.fpn import SIZE_DIVISOR
from maskline.models.iou import box_iou
from maskline.models.network import Detections, Target
from maskline.models.rcnn import loss as loss_module
from maskline.models.rcnn import network as network_module
from maskline.models.rcnn.loss import Sampled
from maskline.models.rcnn.network import CONFIGS, MaskRCNN, NMSConfig
from maskline.models.rcnn.rpn import Predictions, ProposalConfig, candidates, propose
from maskline.models.rcnn.weights import RENAME
from maskline.models.roi_align import Regions
from maskline.runtime.graph import Raw
from maskline.runtime.postprocess import to_instances
from maskline.weights.arrays import rename_keys
from maskline.weights.load import load_network

#: The first form of RoIAlign, which PaddleDetection's newest code always computes, and the requested one.
VARIANTS = {"": False, "_aligned": True}
C4 = "MaskRCNN-ResNet50"
EVERY_INPUT = "MASKLINE_FULL_PARITY"
#: What each is compared on, at full size: a tensor of 320 x 400, an image of 480 x 640, enlarged to 800 x 1067.
INPUTS_OF_THE_OTHERS = ("fixed",)
INPUTS = {
    C4: ("fixed",),
    "MaskRCNN-ResNet50-FPN": ("fixed", "img480x640", "img427x640"),
    "Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN": ("fixed", "img480x640"),
}
TAP_TOLERANCE = 1e-4  # of a tap's largest magnitude; seen: 4e-5
MASK_TOLERANCE = 1e-3  # of the probabilities of masks, whose regions are boxes of ours; seen: 6.6e-4
TIE = 1e-4  # of scores (logits up to 20) and overlaps
SCORE_TOLERANCE = 1e-4  # seen: 1.2e-5
BOX_TOLERANCE = 0.05  # pixels; seen: 0.003
PIXEL_TOLERANCE = 1e-3  # share of an image's pixels, for each mask
LOSS_TOLERANCE = 1e-3  # relative, of each component; seen: 1.1e-6
NORM_TOLERANCE = 1e-2  # relative, of a block's gradient; seen: 2e-4
OWN_MASKS_TOLERANCE = 3e-3  # relative, of the mask loss, where masks to learn from are pixels, not polygons

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=list(CONFIGS))
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MaskRCNN:
    """With stand-in weights; every key of the file is used, or loading would refuse it."""
    if not Case.exists(request.param):
        pytest.skip("PaddleDetection's numbers for this model are not in the project")
    path = stand_in.write(request.param, tmp_path_factory.mktemp("weights") / f"{request.param}.pdparams")
    network = load_network(request.param, path)
    path.unlink()
    assert isinstance(network, MaskRCNN)
    network.name = request.param
    return network


def image_of(case: Case) -> Tensor:
    """What the network gets, without the padding it adds itself."""
    if case.tag != "fixed":
        return case.image()
    _, _, height, width = case.about["input"]["image"]["shape"]
    return torch.from_numpy(det_weights.tensor(height, width, seed=0))[..., : int(case["in/im_shape"][0, 1])]


@pytest.mark.parametrize("tag", ["fixed", "img480x640", "img427x640"])
@torch.no_grad()
def test_forward_and_detections(network: MaskRCNN, tag: str) -> None:
    """F26: each of the eight at full size."""
    name = str(network.name)
    if tag not in INPUTS.get(name, INPUTS_OF_THE_OTHERS) and not os.environ.get(EVERY_INPUT):
        pytest.skip(f"takes minutes: {EVERY_INPUT}=1 compares all models on all inputs")
    variants = {v: aligned for v, aligned in VARIANTS.items() if f"{tag}/out/boxes" in Case(name, "fixed", v).arrays}
    assert variants
    case = Case(name, tag, next(iter(variants)))
    image = image_of(case)
    padded = (
        image if name == C4 else F.pad(image, (0, -image.shape[3] % SIZE_DIVISOR, 0, -image.shape[2] % SIZE_DIVISOR))
    )
    assert case.input_error(padded) <= 1e-6

    levels = network.features(image)
    predictions = network.rpn(levels)
    errors = errors_of_taps(network, case, padded, levels, predictions)
    size = torch.tensor([image.shape[2:]], dtype=torch.float32)
    proposals, valid = propose(predictions, size, network.config.proposals)
    if not same_boxes(proposals[valid], case["rpn/rois"]):
        print(f"{name} {tag}: a tie of scores or overlaps made other proposals")
        assert_chosen(predictions, size, network.config.proposals, torch.from_numpy(case["rpn/rois"]))

    for variant, aligned in variants.items():
        case = Case(name, tag, variant)
        network.config = replace(network.config, aligned=aligned)
        detections, head_errors = look_at(network, case, levels, size)
        errors |= {tap: max(error, errors.get(tap, 0)) for tap, error in head_errors.items()}
        assert_same_masks(case, detections, *partners(case, detections))
    if tag == "fixed":  # and all of it at once, from its own proposals
        partners(case, network(image))
    mask_error = errors.pop("mask.prob")
    print(f"{name} {tag}: taps {max(errors.values()):.1e}, masks {mask_error:.1e}")
    assert mask_error <= MASK_TOLERANCE
    assert max(errors.values()) <= TAP_TOLERANCE, errors


def errors_of_taps(
    network: MaskRCNN, case: Case, image: Tensor, levels: list[Tensor], predictions: Predictions
) -> dict[str, float]:
    """For backbone, neck and RPN."""
    maps = network.backbone(image) if network.neck is not None else levels
    taps = {f"backbone.{i}": x for i, x in enumerate(maps)}
    if network.neck is not None:
        taps |= {f"neck.{i}": x for i, x in enumerate(levels)}
    for i, (x, score, delta) in enumerate(zip(levels, predictions.scores, predictions.deltas, strict=True)):
        _, _, h, w = x.shape
        call = f"@{i}" if i else ""
        taps[f"rpn.score{call}"] = score.view(1, h, w, -1).permute(0, 3, 1, 2)
        taps[f"rpn.delta{call}"] = delta.reshape(1, h, w, -1).permute(0, 3, 1, 2)
    return {tap: case.tap_error(tap, ours) for tap, ours in taps.items()}


def look_at(network: MaskRCNN, case: Case, levels: list[Tensor], size: Tensor) -> tuple[Detections, dict[str, float]]:
    """Detections from PaddleDetection's proposals, and the errors of what the heads do with them."""
    rois = torch.from_numpy(case["rpn/rois"])
    calls: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []
    hooks = [h.register_forward_hook(lambda _, i, o: calls.append((i[0], o))) for h in network.box_heads]
    boxes, scores = network.boxes(levels, rois[None], torch.ones(1, len(rois), dtype=torch.bool), size)
    for hook in hooks:
        hook.remove()
    taps = {}
    if network.neck is not None:  # C4's features are recorded before the stage that looks at them
        taps = {f"bbox.roi_feat{f'@{i}' if i else ''}": features for i, (features, _) in enumerate(calls)}
    taps["bbox.out.0"] = calls[-1][1][1].flatten(1)
    taps["bbox.out.1"] = torch.stack([logits.softmax(dim=1) for _, (logits, _) in calls]).mean(dim=0)
    errors = {tap: case.tap_error(tap, ours) for tap, ours in taps.items()}
    chosen = network.best(boxes, scores)
    if not same_rows(case, *chosen):
        print(f"{case.name} {case.tag}: a tie of scores or overlaps made other detections")
        chosen = as_theirs_were_chosen(case, boxes, scores, network.config.nms)
    boxes, scores, labels = chosen
    detections = Detections(boxes, scores, labels, network.masks(levels, boxes, labels, scores > 0))
    rows, empty = partners(case, detections)
    probabilities = detections.masks[0, rows, 1:-1, 1:-1] + 0.5
    errors["mask.prob"] = case.tap_error("mask.prob", probabilities, np.flatnonzero(empty).tolist())
    return detections, errors


def same_boxes(ours: Tensor, theirs: np.ndarray) -> bool:
    """Whether proposals are the same, in any order."""
    assert ours.shape == theirs.shape
    apart = torch.cdist(ours, torch.from_numpy(theirs), p=torch.inf)
    return bool(max(apart.amin(dim=0).max(), apart.amin(dim=1).max()) <= BOX_TOLERANCE)


def assert_chosen(predictions: Predictions, size: Tensor, config: ProposalConfig, theirs: Tensor) -> None:
    """PaddleDetection's proposals are what suppression leaves of our candidates, but for ties."""
    levels = [candidates(*level, size, config.pre_nms_top_n) for level in zip(*predictions, strict=True)]
    scores = torch.cat([score[0] for _, score in levels])
    boxes = torch.cat([box[0] for box, _ in levels])
    level = torch.repeat_interleave(torch.arange(len(levels)), torch.tensor([len(box[0]) for box, _ in levels]))
    apart = torch.cdist(theirs, boxes, p=torch.inf)
    assert apart.amin(dim=1).max() <= BOX_TOLERANCE  # each is a candidate of ours
    assert_left_by_suppression(apart.argmin(dim=1), boxes, scores, level, config.iou_threshold)


def as_theirs_were_chosen(
    case: Case, boxes: Tensor, scores: Tensor, limits: NMSConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """PaddleDetection's detections among our candidates, (1, N, classes or 1, 4) and (1, N, classes), as `best` gives
    them. They are what suppression leaves, but for ties.
    """
    row, label = torch.nonzero(scores[0] > limits.score_threshold, as_tuple=True)
    score, box = scores[0, row, label], boxes[0, row, label if boxes.shape[2] > 1 else 0]
    theirs = torch.from_numpy(case["out/boxes"])
    apart = torch.cdist(theirs[:, 2:], box * scale_of(case), p=torch.inf) / BOX_TOLERANCE
    apart = torch.maximum(apart, (theirs[:, 1:2] - score).abs() / SCORE_TOLERANCE)
    apart[theirs[:, :1] != label] = torch.inf
    assert apart.amin(dim=1).max() <= 1  # each is a candidate of ours
    kept = apart.argmin(dim=1)
    assert_left_by_suppression(kept, box, score, label, limits.iou_threshold)
    return box[None, kept], score[None, kept], label[None, kept]


def assert_left_by_suppression(kept: Tensor, boxes: Tensor, scores: Tensor, group: Tensor, limit: float) -> None:
    """What was kept may be what suppression leaves of all.

    Where two scores are equal to the last digits, as many boxes may follow from which one is taken first. So: none of
    what was kept overlaps a clearly better one of its group too much, and what was left out, above the last one, does
    overlap one that was kept and is better, or as good.
    """
    alike = group[kept, None] == group
    overlap = torch.where(alike, box_iou(boxes[kept, None], boxes), 0)
    better = scores[kept, None] - scores
    suppressed = (overlap[:, kept] > limit + TIE) & (better[:, kept] > TIE)
    assert not suppressed.any()
    left_out = torch.isfinite(scores) & (scores > scores[kept].min() + TIE)
    left_out[kept] = False
    reason = ((overlap > limit - TIE) & (better > -TIE)).any(dim=0)
    assert reason[left_out].all() and left_out.any()


def scale_of(case: Case) -> Tensor:
    """From the network's pixels to the image's, for the four sides of a box."""
    scale_y, scale_x = case.frame.scale
    return torch.tensor([scale_x, scale_y] * 2, dtype=torch.float32)


def same_rows(case: Case, boxes: Tensor, scores: Tensor, labels: Tensor) -> bool:
    """Whether our detections are PaddleDetection's, see `partners`."""
    _, _, score, box = rows_beside_theirs(case, boxes, scores, labels)
    return bool(score.max() <= SCORE_TOLERANCE and box.max() <= BOX_TOLERANCE)


def partners(case: Case, detections: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Our row for each of PaddleDetection's rows, one to one, all within the tolerances; and whether its box is
    empty in the image, which PaddleDetection marks with the class -1.
    """
    ours, labels, score, box = rows_beside_theirs(case, *detections[:3])
    empty = case["out/boxes"][:, 0] < 0
    assert (labels == case["out/boxes"][:, 0])[~empty].all()
    assert score.max() <= SCORE_TOLERANCE and box.max() <= BOX_TOLERANCE
    print(f"{case.name} {case.tag}: {len(ours)} rows, {score.max():.1e}, {box.max():.1e} px")
    return ours, empty


def rows_beside_theirs(
    case: Case, boxes: Tensor, scores: Tensor, labels: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Our row for each of PaddleDetection's rows, its class, and how far scores and boxes are apart."""
    rows, found = case["out/boxes"], int((scores[0] > 0).sum())
    assert found == len(rows)
    label = labels[0, :found].numpy()
    score = np.abs(scores[0, :found, None].numpy() - rows[:, 1])
    box = np.abs((boxes[0, :found] * scale_of(case))[:, None].numpy() - rows[:, 2:]).max(axis=-1)
    ours = pair(label, score / SCORE_TOLERANCE, box / BOX_TOLERANCE, rows[:, 0])
    at = np.arange(len(rows))
    return ours, label[ours], score[ours, at], box[ours, at]


def assert_same_masks(case: Case, detections: Detections, partner: np.ndarray, empty: np.ndarray) -> None:
    """As the runtime pastes them."""
    raw = Raw(*(t.numpy() for t in detections)).image(0)
    found = to_instances(
        raw, case.frame, case.frame.resized, np.zeros(80, np.float32), mask_layout=MaskRCNN.mask_layout
    )
    real = ((raw.boxes[:, 2:] > raw.boxes[:, :2]).all(axis=1) & (raw.scores > 0)).cumsum() - 1
    assert len(found) == (~empty).sum()
    ours, theirs = found.full_masks()[real[partner[~empty]]], case.masks()[~empty]
    different = (ours != theirs).sum(axis=(1, 2))
    print(f"{case.name} {case.tag}: {(different == 0).sum()} of {len(ours)} masks equal, at most {different.max()} px")
    assert different.max() <= PIXEL_TOLERANCE * theirs[0].size


# losses


@pytest.fixture
def first_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn at random is the first that comes."""
    monkeypatch.setattr(loss_module, "random_rows", lambda rows, number: rows[:number])


TRUTH = [det_weights.ground_truth(320, 416, n, seed=i) for i, n in ((0, 3), (1, 2))]


def targets() -> list[Target]:
    return [
        Target(torch.from_numpy(labels), torch.from_numpy(boxes), torch.from_numpy(masks), (320, 416))
        for boxes, labels, _, masks in TRUTH
    ]


def polygons_in_cells(regions: Regions, objects: Tensor, _: list[Target], side: int) -> Tensor:
    """Masks to learn from as PaddleDetection makes them: polygons moved into a region's cells and drawn there."""
    masks = []
    for box, image, object_ in zip(regions.boxes.double().numpy(), regions.image, objects, strict=True):
        polygons = [np.reshape(p, (-1, 2)) for p in TRUTH[image][2][object_]]
        inside = [((p - box[:2]) * side / np.maximum(box[2:] - box[:2], 0.1)).ravel().tolist() for p in polygons]
        masks.append(coco.decode(coco.merge(coco.frPyObjects(inside, side, side))))
    return torch.from_numpy(np.stack(masks)).float()


def level_by_level(predictions: Predictions, size: Tensor, config: ProposalConfig) -> tuple[Tensor, Tensor]:
    """Proposals in PaddleDetection's order where there are fewer than could be used: not by score."""
    parts = [propose(Predictions(*([x] for x in level)), size, config) for level in zip(*predictions, strict=True)]
    boxes, valid = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    assert valid.sum(dim=1).max() <= config.max_proposals
    return boxes, valid


class FirstImageOnly:
    """C4's mask loss with PaddleDetection's bug: in every image it uses the features of the first image's regions,
    because rows are counted from each image's first and looked up among all."""

    def __init__(self, network: MaskRCNN) -> None:
        self.network, self.right = network, network.mask_loss

    def __enter__(self) -> None:
        self.network.mask_loss = self  # type: ignore[assignment,method-assign]

    def __exit__(self, *_: object) -> None:
        del self.network.mask_loss

    def __call__(self, levels: object, sampled: Sampled, features: Tensor, *rest: object) -> Tensor:
        counted = [torch.nonzero(sampled.labels[sampled.regions.image == i] < 80).flatten() for i in range(2)]
        wrong = features.index_copy(0, sampled.positive(80), features[torch.cat(counted)])
        return self.right(levels, sampled, wrong, *rest)  # type: ignore[arg-type]


@pytest.fixture
def in_training(network: MaskRCNN) -> Iterator[MaskRCNN]:
    """With the settings PaddleDetection's losses were recorded with: few regions for C4, to save time."""
    before = network.config
    config = replace(before.loss, num_regions=32) if network.name == C4 else before.loss
    network.config = replace(before, aligned=False, loss=config)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    for module in network.frozen():
        module.requires_grad_(False)
    yield network
    network.zero_grad(set_to_none=True)
    network.config = before


@pytest.mark.usefixtures("first_in_order")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_losses_and_gradients(in_training: MaskRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    network, name = in_training, str(in_training.name)
    path = stand_in.fixture("losses", f"{name}.json")
    if not path.exists():
        pytest.skip("PaddleDetection's losses were not recorded for this model")
    record = json.loads(path.read_text())
    image = torch.from_numpy(det_weights.tensor(320, 416, 7, n=2))
    with torch.no_grad():
        mask_loss_of_pixels = float(network.losses(image, targets())["loss_mask"])
    monkeypatch.setattr(loss_module, "true_masks", polygons_in_cells)
    if len(network.config.stages) > 1:
        monkeypatch.setattr(network_module, "propose", level_by_level)
    if name == C4:
        with FirstImageOnly(network):
            found = network.losses(image, targets())
    else:
        found = network.losses(image, targets())
        assert mask_loss_of_pixels == pytest.approx(record["losses"]["loss_mask"], rel=OWN_MASKS_TOLERANCE)
    total = torch.stack(list(found.values())).sum()
    total.backward()

    values = {part: float(value.detach()) for part, value in found.items()} | {"loss": float(total.detach())}
    assert set(values) == set(record["losses"])
    errors = {part: abs(values[part] / theirs - 1) for part, theirs in record["losses"].items()}
    norms = errors_of_gradients(network, name, record)
    print(f"{name}: losses {max(errors.values()):.1e}, gradient norms {max(norms.values()):.1e}")
    assert max(errors.values()) <= LOSS_TOLERANCE, errors
    assert max(norms.values()) <= NORM_TOLERANCE, norms


def errors_of_gradients(network: MaskRCNN, name: str, record: dict[str, dict[str, float]]) -> dict[str, float]:
    manifest = json.loads(stand_in.fixture("manifests", f"{name}.json").read_text())
    names, parameters = rename_keys([name for name, *_ in manifest], RENAME), dict(network.named_parameters())
    trained = {old: parameters[new] for old, new in names.items() if new in parameters}
    errors = {}
    for block, norm in record["grad_norm"].items():
        inside = [p.grad for n, p in trained.items() if f"{n}.".startswith(f"{block}.") and p.grad is not None]
        assert len(inside) == record["params_with_grad"][block], block
        ours = float(torch.cat([g.flatten() for g in inside]).double().norm())
        errors[block] = abs(ours / norm - 1) if norm else ours
    return errors
