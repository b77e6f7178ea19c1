"""Mask-RT-DETR gives PaddleDetection's numbers, in all five sizes, full size, on two images and one fixed tensor.

The network makes two kinds of discrete choices: which 300 tokens become queries, and where a mask ends, which makes a
query's first box. With random weights some choices hang on a value that rounding decides; from there on detections are
other ones, in the reference too. So first the taps and the choices are compared, and each choice that differs must have
been a near tie; then the detections, made from PaddleDetection's choices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import det_weights, stand_in
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maskline import catalog
from maskline.models.deployed import Normalise
from maskline.models.mask_rtdetr.decoder import gather, masks_from
from maskline.models.mask_rtdetr.network import CONFIGS, MaskRTDETR
from maskline.weights.load import load_network

TAGS = ("img480x640", "img427x640", "fixed")
TAP_TOLERANCE = 1e-3  # of a tap's largest magnitude; seen: 2e-5
TIE_TOLERANCE = 1e-4  # of the largest magnitude: choices nearer than this are ties


@dataclass(frozen=True)
class Bars:
    score: float
    box: float  # pixels
    iou: float


STRICT = Bars(5e-4, 0.05, 0.99)
LOOSE = Bars(2e-3, 1.0, 0.97)  # X and H: what PaddleDetection itself moves under noise of 1e-6
BARS = {"S": STRICT, "M": STRICT, "L": STRICT, "X": LOOSE, "H": LOOSE}

#: Rows of a case (up to 100) that may miss a bar, where rounding in PaddleDetection alone puts some outside: in double
#: precision the same network is as far from PaddleDetection there (docs/parity.md has the figures). Seen: 1, 0, 3.
MISSES_ALLOWED = {"L": 3, "X": 2, "H": 5}
HARD_LIMIT = Bars(5e-3, 2.0, 0.0)  # even for those


@pytest.fixture(scope="module", params=list(CONFIGS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str, tmp_path_factory: pytest.TempPathFactory) -> MaskRTDETR:
    if not stand_in.fixture("expected", f"{name}_seed0.npz").exists():
        pytest.skip("PaddleDetection's numbers for this size are not in the project")
    path = stand_in.write(name, tmp_path_factory.mktemp("weights") / f"{name}.pdparams")
    network = load_network(name, path)
    path.unlink()
    assert isinstance(network, MaskRTDETR)
    return network


def image_of(tag: str, name: str) -> Tensor:
    """What the network gets: the fixed tensor, or an image as the runtime prepares it."""
    if tag == "fixed":
        return torch.from_numpy(det_weights.tensor(640, 640, seed=0, lo=0, hi=1))
    height, width = (int(n) for n in tag[3:].split("x"))
    bgr = cv2.cvtColor(det_weights.image(height, width), cv2.COLOR_RGB2BGR)
    spec = catalog.get(name)
    pixels, _ = spec.preprocess.apply(np.asarray(bgr, np.uint8))
    return Normalise(spec.preprocess)(torch.from_numpy(pixels)[None])


class Case:
    """PaddleDetection's numbers for one input."""

    def __init__(self, name: str, tag: str) -> None:
        self.arrays = np.load(stand_in.fixture("expected", f"{name}_seed0.npz"))
        self.about: dict[str, Any] = json.loads(stand_in.fixture("expected", f"{name}_seed0.json").read_text())[tag]
        self.tag = tag

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[f"{self.tag}/{key}"]

    def tap_error(self, tap: str, ours: Tensor) -> float:
        """Largest difference at the recorded places, relative to the tap's largest magnitude."""
        about = self.about["taps"][tap]
        assert list(ours.shape) == about["shape"], tap
        return (
            float(np.abs(ours.numpy().reshape(-1)[:: about["step"]] - self[f"tap/{tap}"].ravel()).max())
            / about["absmax"]
        )

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.about["outputs"]["mask_shape"][1:]
        return height, width

    def masks(self) -> np.ndarray:
        bits = np.unpackbits(self["out/mask_bits"], axis=1)[:, : self.size[0] * self.size[1]]
        return bits.astype(bool)


@pytest.mark.slow
@pytest.mark.parametrize("tag", TAGS)
@torch.no_grad()
def test_parity(network: MaskRTDETR, name: str, tag: str) -> None:
    """F26: each of the five at full size."""
    case, image, decoder = Case(name, tag), image_of(tag, name), network.decoder
    step = case.about["input"]["image"]["sub_step"]
    assert np.abs(image.numpy().reshape(-1)[::step] - case["in/image_sub"].ravel()).max() <= 1e-7

    maps = network.backbone(image)
    encoded = []
    hook = network.neck.encoder.register_forward_hook(lambda _m, _i, out: encoded.append(out))
    levels, prototypes = network.neck(maps)
    hook.remove()
    memory, shapes = decoder.flatten(levels)
    tokens, logits, _ = decoder.score_tokens(memory, shapes)
    taps = {f"backbone.{i}": m for i, m in enumerate(maps)} | {f"neck.0.{i}": m for i, m in enumerate(levels)}
    taps |= {"neck.encoder": encoded[0].flatten(2).transpose(1, 2), "neck.1": prototypes}
    taps |= {"tr.enc_output": tokens, "tr.score_head": logits, "tr.bbox_head": decoder.box_head(tokens)}
    errors = {tap: case.tap_error(tap, ours) for tap, ours in taps.items()}
    assert max(errors.values()) <= TAP_TOLERANCE, errors

    theirs = torch.from_numpy(case["topk/index"].astype(np.int64)).reshape(1, -1)
    assert_same_or_tied_tokens(decoder.select(logits), theirs, logits)
    content = gather(tokens, theirs)
    masks = masks_from(decoder.mask_head(decoder.norm(content)), prototypes)
    first_boxes = torch.from_numpy(case["tap/tr.init_ref_unact"]).reshape(1, -1, 4)
    ties = assert_same_or_tied_extents(decoder, masks, torch.sigmoid(first_boxes))

    bars, allowed = BARS[name[-1]], MISSES_ALLOWED.get(name[-1], 0)
    misses, worst = compare(detect(network, image, theirs, first_boxes), case, bars)
    print(f"{name} {tag}: taps {max(errors.values()):.1e}, {ties} ties, {worst}, {misses} misses")
    if misses > allowed:  # how this processor rounds is not what is tested
        exact = detect(network.double(), image.double(), theirs, first_boxes.double())
        network.float()
        misses, worst = compare(tuple(t.float() if t.is_floating_point() else t for t in exact), case, bars)
        print(f"{name} {tag} in double precision: {worst}, {misses} misses")
    assert misses <= allowed


def detect(network: MaskRTDETR, image: Tensor, tokens: Tensor, first_boxes: Tensor) -> Any:
    """Detections from PaddleDetection's choices: tokens, and the first boxes of queries (1, 300, 4), as logits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network.decoder, "select", lambda _: tokens)
        patch.setattr(network.decoder, "boxes_of_masks", lambda _: torch.sigmoid(first_boxes))
        return network(image)


def assert_same_or_tied_tokens(ours: Tensor, theirs: Tensor, logits: Tensor) -> None:
    """The same tokens are selected, but for some whose score is that of the last selected."""
    scores = logits[0].amax(dim=-1)
    border = scores[theirs[0]].min()
    different = set(ours[0].tolist()) ^ set(theirs[0].tolist())
    assert all(abs(scores[i] - border) <= TIE_TOLERANCE * scores.abs().max() for i in different), different


def assert_same_or_tied_extents(decoder: Any, masks: Tensor, theirs: Tensor) -> int:
    """Masks reach as far as PaddleDetection's, except where a cell is so near 0 that rounding decides; counts these."""
    ours = decoder.boxes_of_masks(masks)
    margin = TIE_TOLERANCE * masks.abs().amax(dim=(-1, -2), keepdim=True)
    smaller, larger = decoder.boxes_of_masks(masks - margin), decoder.boxes_of_masks(masks + margin)
    different = ((ours - theirs).abs() > 1e-4).any(dim=-1)[0]
    for i in torch.nonzero(different).flatten().tolist():
        candidates = torch.stack([smaller[0, i], larger[0, i]])
        low, high = candidates.amin(dim=0) - 1e-4, candidates.amax(dim=0) + 1e-4
        assert ((theirs[0, i] >= low) & (theirs[0, i] <= high)).all(), (i, ours[0, i], theirs[0, i], candidates)
    return int(different.sum())


def compare(detections: Any, case: Case, bars: Bars) -> tuple[int, str]:
    """How many rows of PaddleDetection have no partner within the bars, matched one to one; and the worst partners."""
    boxes, scores, labels, masks = (t[0] for t in detections)
    height, width = case.size
    boxes = boxes.numpy() * (np.array([width, height, width, height]) / 640)
    kept = case["out/mask_rows"]
    rows, expected = case["out/boxes"][kept], case.masks().astype(np.float32)
    full = (
        (F.interpolate(masks[None], case.size, mode="bilinear", align_corners=False)[0] > 0).flatten(1).float().numpy()
    )
    overlap = full @ expected.T
    union = full.sum(axis=1)[:, None] + expected.sum(axis=1) - overlap
    iou = np.where(union > 0, overlap / np.maximum(union, 1), 1)
    score = np.abs(scores.numpy()[:, None] - rows[:, 1])
    box = np.abs(boxes[:, None] - rows[None, :, 2:]).max(axis=-1)
    wrong = labels.numpy()[:, None] != rows[:, 0]
    cost = score / bars.score + box / bars.box + (1 - iou) / (1 - bars.iou) + 1e6 * wrong
    i, j = linear_sum_assignment(cost)
    missed = wrong[i, j] | (score[i, j] > bars.score) | (box[i, j] > bars.box) | (iou[i, j] < bars.iou)
    worst = f"score {score[i, j].max():.1e}, box {box[i, j].max():.3f} px, IoU {iou[i, j].min():.4f}"
    right = ~wrong[i, j]  # a wrong label is a row at the cut of the best 100, which fell otherwise
    assert score[i, j].max() <= HARD_LIMIT.score and box[i, j][right].max() <= HARD_LIMIT.box, worst
    return int(missed.sum()), worst + f", {int((iou[i, j] == 1).sum())} of {len(j)} masks equal"
