"""SOLOv2 gives PaddleDetection's numbers: each step of a forward pass, detections, masks, losses and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import det_weights, stand_in
from fixtures.reference import Case
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maskline.models.fpn import SIZE_DIVISOR
from maskline.models.network import Detections, Target
from maskline.models.solov2.decode import points_nms
from maskline.models.solov2.network import SOLOv2
from maskline.models.solov2.weights import RENAME
from maskline.runtime.graph import Raw
from maskline.runtime.postprocess import to_instances
from maskline.weights.arrays import rename_keys
from maskline.weights.load import load_network

NAME = "SOLOv2"
TAGS = ("img480x640", "img427x640", "fixed")
TAP_TOLERANCE = 1e-4  # of a tap's largest magnitude
SCORE_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 1e-3  # share of an image's pixels
MEDIAN_IOU = 0.995, 0.99  # of masks as the runtime enlarges them: of an image padded before, and of one that is not
LOSS_TOLERANCE = 1e-3  # relative, of each component
NORM_TOLERANCE = 1e-2  # relative, of a block's gradient

RECORD = stand_in.fixture("losses", f"{NAME}.json")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (RECORD.exists() and Case.exists(NAME)), reason="PaddleDetection's numbers for this model are not here"
    ),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.write(NAME, tmp_path_factory.mktemp("weights") / "weights.pdparams")


@pytest.fixture
def network(weights: Path) -> SOLOv2:
    """With stand-in weights; every key of the file is used, or loading would refuse it."""
    network = load_network(NAME, weights)
    assert isinstance(network, SOLOv2)
    return network


class Solo(Case):
    """Rows without PaddleDetection's one for nothing, which scores 0."""

    def __init__(self, tag: str) -> None:
        super().__init__(NAME, tag)

    def image(self) -> Tensor:
        """What the network gets: the fixed tensor, or an image as the runtime prepares it; without padding."""
        fixed = self.tag == "fixed"
        shape = self.about["input"]["image"]["shape"][2:]
        height, width = self.frame.resized
        return (torch.from_numpy(det_weights.tensor(*shape)) if fixed else super().image())[..., :height, :width]

    def rows(self) -> np.ndarray:
        """(n, 2) label and score."""
        rows = self["out/boxes"]
        return rows[rows[:, 1] > 0]

    def masks(self) -> np.ndarray:
        return super().masks()[self["out/boxes"][:, 1] > 0]


@pytest.mark.parametrize("tag", TAGS)
@torch.no_grad()
def test_forward_and_detections(network: SOLOv2, tag: str) -> None:
    """F26: at full size."""
    case = Solo(tag)
    image = case.image()
    padded = F.pad(image, (0, -image.shape[3] % SIZE_DIVISOR, 0, -image.shape[2] % SIZE_DIVISOR))
    assert case.input_error(padded) <= 1e-6

    errors = {tap: case.tap_error(tap, ours) for tap, ours in taps_of(network, padded).items()}
    assert set(errors) == set(case.about["taps"])
    assert max(errors.values()) <= TAP_TOLERANCE, errors

    scores, labels, masks = network.best(*network.candidates(network.predict(image)))
    found = enlarged(masks, case)
    partner = partners(scores[0].numpy(), labels[0].numpy(), found, case)
    different = (found[partner] != case.masks()).sum(axis=(1, 2))
    print(f"{tag}: {different.sum()} pixels differ in {len(different)} masks, at most {different.max()} in one")
    assert different.max() <= PIXEL_TOLERANCE * np.prod(case.size)
    for given, least in zip((padded, image), MEDIAN_IOU, strict=True):
        ious = runtime_ious(network(given), partner, case, (given.shape[2], given.shape[3]))
        print(f"{tag}, {given.shape[3]} wide: runtime: IoU median {np.median(ious):.4f}, least {min(ious):.4f}")
        assert np.median(ious) > least
    print(f"{tag}: taps {max(errors.values()):.1e}")


def taps_of(network: SOLOv2, padded: Tensor) -> dict[str, Tensor]:
    """Steps of a forward pass, by the record's names and in its shapes."""
    maps = network.backbone(padded)
    levels = network.neck(maps)
    classes, kernels, features = network.predict(padded)
    found = [points_nms(level.sigmoid()).permute(0, 2, 3, 1) for level in classes]
    return (
        {f"backbone.{i}": m for i, m in enumerate(maps)}
        | {f"neck.{i}": m for i, m in enumerate(levels)}
        | {"solo.seg": features}
        | {f"solo.head.{i}": t for i, t in enumerate([*found, *kernels])}
    )


def enlarged(masks: Tensor, case: Solo) -> np.ndarray:
    """Masks (1, K, h, w), probabilities, by PaddleDetection's rule: scaled to the padded input, cut at the image, then
    resized to the image: (K, H, W) bool."""
    height, width = case.frame.resized
    full = F.interpolate(masks, scale_factor=4, mode="bilinear")[..., :height, :width]
    return (F.interpolate(full, case.size, mode="bilinear")[0] > 0.5).numpy()


def partners(scores: np.ndarray, labels: np.ndarray, masks: np.ndarray, case: Solo) -> np.ndarray:
    """Our row for each of PaddleDetection's rows, one to one: of its class, the one with the likest mask.

    All of both sides are used, and scores are within the tolerance.
    """
    rows, found = case.rows(), int((scores > 0).sum())
    assert found == len(rows)
    wrong = labels[:found, None] != rows[:, 0]
    theirs, ours = linear_sum_assignment((wrong * 2 - overlap(masks[:found], case.masks())).T)
    assert not wrong[ours, theirs].any()
    apart = np.abs(scores[ours] - rows[:, 1])
    print(f"{case.tag}: {found} rows, score {apart.max():.1e}")
    assert apart.max() <= SCORE_TOLERANCE
    return ours


def overlap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """IoU (n, m) of masks (n, H, W) and (m, H, W); of two empty ones, 1."""
    a, b = (torch.from_numpy(masks.reshape(len(masks), -1)).float() for masks in (ours, theirs))
    shared = a @ b.T
    union = a.sum(dim=1)[:, None] + b.sum(dim=1) - shared
    return torch.where(union > 0, shared / union.clamp(min=1), 1).numpy()


def runtime_ious(detections: Detections, partner: np.ndarray, case: Solo, input_size: tuple[int, int]) -> list[float]:
    """IoU of the masks as the runtime makes them with PaddleDetection's; cutting at boxes loses nothing."""
    raw, least = Raw(*(t.numpy() for t in detections)).image(0), np.zeros(80, np.float32)
    cut = to_instances(raw, case.frame, input_size, least, mask_layout=SOLOv2.mask_layout).full_masks()
    assert np.array_equal(cut, to_instances(raw, case.frame, input_size, least, grow_boxes=True).full_masks())
    theirs = case.masks()
    assert len(cut) == len(theirs)
    return [overlap(a[None], b[None]).item() for a, b in zip(cut[partner], theirs, strict=True)]


def test_losses_and_gradients(network: SOLOv2) -> None:
    """Two images of three and two objects."""
    record = json.loads(RECORD.read_text())
    image = torch.from_numpy(det_weights.tensor(320, 416, 7, n=2))
    network.train()
    for part in network.frozen():
        part.eval().requires_grad_(False)
    found = network.losses(image, [true_objects(0, 3), true_objects(1, 2)])
    torch.stack(list(found.values())).sum().backward()

    theirs = record["losses"]
    errors = {name: abs(float(part.detach()) / theirs[name] - 1) for name, part in found.items()}
    errors["loss"] = abs(sum(float(part.detach()) for part in found.values()) / theirs["loss"] - 1)
    assert set(errors) == set(theirs)
    assert max(errors.values()) <= LOSS_TOLERANCE, errors

    names = rename_keys(names_of_parameters(), RENAME)
    parameters = dict(network.named_parameters())
    trained = {old: parameters[new] for old, new in names.items() if new in parameters}
    norms = {}
    for block, norm in record["grad_norm"].items():
        inside = [p.grad for n, p in trained.items() if f"{n}.".startswith(f"{block}.") and p.grad is not None]
        assert len(inside) == record["params_with_grad"][block], block
        norms[block] = abs(float(torch.cat([g.flatten() for g in inside]).double().norm()) / norm - 1)
    print(f"losses {max(errors.values()):.1e}, gradient norms {max(norms.values()):.1e}")
    assert max(norms.values()) <= NORM_TOLERANCE, norms


def names_of_parameters() -> list[str]:
    """PaddleDetection's names, each weight once, under the name by which its gradients are listed."""
    manifest = json.loads(stand_in.fixture("manifests", f"{NAME}.json").read_text())
    twice = ("solov2_head.solo_", "mask_head.conv_pred.")
    return [name for name, *_ in manifest if not name.startswith(twice)]


def true_objects(seed: int, number: int) -> Target:
    boxes, labels, _, masks = det_weights.ground_truth(320, 416, number, seed=seed)
    return Target(torch.from_numpy(labels), torch.from_numpy(boxes), torch.from_numpy(masks), (320, 416))
