"""PP-YOLOE-seg gives PaddleDetection's numbers: each step of a forward pass, detections, losses and their gradients."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from fixtures import det_weights, parts, stand_in
from fixtures.narrow import f32
from fixtures.reference import Case, pair
from torch import Tensor

from maskline import catalog
from maskline.models.network import Detections, Target
from maskline.models.ppyoloe_seg.head import mean_distances
from maskline.models.ppyoloe_seg.network import PPYOLOESeg
from maskline.models.ppyoloe_seg.weights import RENAME
from maskline.runtime.graph import Raw
from maskline.runtime.postprocess import to_instances
from maskline.weights.arrays import rename_keys
from maskline.weights.load import load_network

NAME = "PP-YOLOE_seg-S"
TAGS = ("img480x640", "img427x640", "fixed")
TAP_TOLERANCE = 1e-4  # of a tap's largest magnitude
SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE = 0.05  # pixels of the image
PIXELS_APART = 10  # in one mask
LOSS_TOLERANCE = 1e-3  # relative, of each component
NORM_TOLERANCE = 1e-2  # relative, of a block's gradient

RECORD = stand_in.fixture("losses", f"{NAME}.json")
needs_records = pytest.mark.skipif(
    not (RECORD.exists() and Case.exists(NAME)),
    reason="PaddleDetection's numbers for this model are not in the project",
)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> PPYOLOESeg:
    """With stand-in weights; every key of the file is used, or loading would refuse it."""
    network = load_network(NAME, stand_in.write(NAME, tmp_path_factory.mktemp("weights") / "weights.pdparams"))
    assert isinstance(network, PPYOLOESeg)
    return network


def image_of(case: Case) -> Tensor:
    """What the network gets: the fixed tensor, or an image as the runtime prepares it."""
    fixed = case.tag == "fixed"
    return torch.from_numpy(det_weights.tensor(640, 640, seed=0, lo=0, hi=1)) if fixed else case.image()


@needs_records
@pytest.mark.slow
@pytest.mark.parametrize("tag", TAGS)
@torch.no_grad()
def test_forward_and_detections(network: PPYOLOESeg, tag: str) -> None:
    """F26: at full size."""
    case = Case(NAME, tag)
    image = image_of(case)
    assert case.input_error(image) <= 1e-7

    errors = {tap: case.tap_error(tap, ours) for tap, ours in taps_of(network, image).items()}
    assert set(errors) == set(case.about["taps"])
    assert max(errors.values()) <= TAP_TOLERANCE, errors

    detections = network(image)
    assert detections.scores.shape == (1, 300)
    different = pixels_apart(network, detections, partners(detections, case), case)
    print(f"{tag}: taps {max(errors.values()):.1e}, {different.sum()} pixels, {different.max()} in one mask")
    assert different.max() <= PIXELS_APART


def taps_of(network: PPYOLOESeg, image: Tensor) -> dict[str, Tensor]:
    """Steps of a forward pass, by the record's names and in its shapes."""
    maps = network.backbone(image)[1:]
    levels = network.neck(maps)
    classes, distances, coefficients, prototypes, places = network.head(levels)
    taps = {f"backbone.{i}": m for i, m in enumerate(maps)} | {f"neck.{i}": m for i, m in enumerate(levels)}
    head = (
        classes.sigmoid(),
        mean_distances(distances, network.head.bins),
        coefficients,
        prototypes,
        places.points / places.strides[:, None],
        places.strides[:, None],
    )
    return taps | {f"yolo.head.{i}": t for i, t in enumerate(head)}


def partners(detections: Detections, case: Case) -> np.ndarray:
    """Our row for each of PaddleDetection's rows, one to one; all of both sides are used and within the tolerances."""
    boxes, scores, labels, _ = (t[0].numpy() for t in detections)
    rows, (height, width) = case["out/boxes"], case.size
    found = int((scores > 0).sum())
    assert found == len(rows)
    score = np.abs(scores[:found, None] - rows[:, 1])
    box = np.abs((boxes * f32([width, height] * 2) / 640)[:found, None] - rows[:, 2:]).max(axis=-1)
    ours = pair(labels[:found], score / SCORE_TOLERANCE, box / BOX_TOLERANCE, rows[:, 0])
    theirs = np.arange(found)
    assert (labels[ours] == rows[:, 0]).all()
    assert score[ours, theirs].max() <= SCORE_TOLERANCE and box[ours, theirs].max() <= BOX_TOLERANCE
    print(f"{case.tag}: {found} rows, score {score[ours, theirs].max():.1e}, box {box[ours, theirs].max():.1e} px")
    return ours


def pixels_apart(network: PPYOLOESeg, detections: Detections, partner: np.ndarray, case: Case) -> np.ndarray:
    """Pixels of each mask that the runtime makes otherwise than PaddleDetection, whose masks PaddleX cuts at boxes."""
    raw, row = Raw(*(t.numpy() for t in detections)).image(0), catalog.get(NAME)
    frame = row.preprocess.apply(np.zeros((*case.size, 3), np.uint8))[1]
    found = to_instances(raw, frame, (640, 640), np.zeros(80, np.float32), mask_layout=network.mask_layout)
    theirs = case.masks()
    assert len(found) == len(theirs)
    cut = (theirs[i][window.slices] for i, window in enumerate(map(found.window, partner)))
    return np.array([(found.masks[i] != mask).sum() for i, mask in zip(partner, cut, strict=True)])


@needs_records
@pytest.mark.slow
def test_losses_and_gradients(network: PPYOLOESeg) -> None:
    """Batch norm on batch statistics; two images of three and two objects."""
    record = json.loads(RECORD.read_text())
    image = torch.from_numpy(det_weights.tensor(640, 640, 7, 0.0, 1.0, n=2))
    network = copy.deepcopy(network).train()
    found = network.losses(image, [true_objects(0, 3), true_objects(1, 2)])
    parts.total(found.values()).backward()

    config, theirs = network.config.loss, record["losses"]
    weights = {
        "loss_cls": config.class_weight,
        "loss_iou": config.iou_weight,
        "loss_dfl": config.dfl_weight,
        "loss_mask": config.mask_weight,
    }
    assert set(found) == set(weights)
    errors = {name: abs(float(found[name].detach()) / weights[name] / theirs[name] - 1) for name in weights}
    errors["loss"] = abs(sum(float(part.detach()) for part in found.values()) / theirs["loss"] - 1)
    assert max(errors.values()) <= LOSS_TOLERANCE, errors

    manifest = json.loads(stand_in.fixture("manifests", f"{NAME}.json").read_text())
    names = rename_keys([name for name, *_ in manifest], RENAME)
    parameters = dict(network.named_parameters())
    trained = {old: parameters[new] for old, new in names.items() if new in parameters}
    norms = {}
    for block, norm in record["grad_norm"].items():
        inside = [parts.gradient(p).flatten() for n, p in trained.items() if f"{n}.".startswith(f"{block}.")]
        assert len(inside) == record["params_with_grad"][block], block
        norms[block] = abs(float(torch.cat(inside).double().norm()) / norm - 1)
    print(f"losses {max(errors.values()):.1e}, gradient norms {max(norms.values()):.1e}")
    assert max(norms.values()) <= NORM_TOLERANCE, norms


def true_objects(seed: int, number: int) -> Target:
    boxes, labels, _, masks = det_weights.ground_truth(640, 640, number, seed=seed)
    return Target(torch.from_numpy(labels), torch.from_numpy(boxes), torch.from_numpy(masks), (640, 640))
