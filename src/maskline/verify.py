"""Proof that an exported graph does what its network does."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskline.errors import ExportError
from maskline.inputs import read_image
from maskline.models.deployed import Deployed
from maskline.preprocess import Preprocess
from maskline.runtime.graph import Graph, Raw
from maskline.runtime.postprocess import to_instances

PHOTOS = ("fruit.jpg", "ski.jpg")

# How far graph and network may be apart, for a detection of one and its partner of the other.
SCORE_TOLERANCE = 5e-4
BOX_TOLERANCE = 0.05  # pixels of the network's input
MASK_TOLERANCE = 0.01  # 1 - IoU on the mask grid
CELLS_FORGIVEN = 4  # masks that differ by so few cells are equal, whatever their IoU

log = logging.getLogger("maskline")


def verify(deployed: Deployed, graph: Graph) -> None:
    """Run graph and network side by side; raise ExportError where they disagree.

    Compared are two photos, one of them also turned (another size), an empty picture, each alone and three as a batch;
    then that a threshold nothing passes gives no instances.
    """
    inputs = _verification_inputs(graph.record.preprocess)
    groups = [inputs[i : i + 1] for i in range(len(inputs))] + [inputs[:3]]
    for group in groups:
        if len({pixels.shape for pixels in group}) > 1:
            continue
        batch = np.stack(group)
        ours, theirs = graph.run(batch), _run(deployed, batch)
        for i in range(len(batch)):
            fault = compare(ours.image(i), theirs.image(i))
            if fault and not _as_unsteady_as(deployed, batch[i], ours.image(i), theirs.image(i)):
                raise ExportError(f"the graph disagrees with the network at batch {len(batch)}: {fault}; not written")
    _verify_nothing(graph, inputs[0])


def _verification_inputs(preprocess: Preprocess) -> list[npt.NDArray[Any]]:
    photos = [read_image(Path(__file__).with_name("assets") / name) for name in PHOTOS]
    photos += [np.ascontiguousarray(np.rot90(photos[0])), np.zeros_like(photos[0])]
    return [preprocess.apply(photo)[0] for photo in photos]


def _run(deployed: Deployed, batch: npt.NDArray[Any]) -> Raw:
    with torch.no_grad():
        boxes, scores, labels, masks = deployed(torch.from_numpy(batch))
    return Raw(boxes.float().numpy(), scores.float().numpy(), labels.numpy(), masks.float().numpy())


def _verify_nothing(graph: Graph, pixels: npt.NDArray[Any]) -> None:
    frame = graph.record.preprocess.apply(np.zeros((480, 640, 3), np.uint8))[1]
    nothing = np.full(len(graph.record.labels), np.inf, np.float32)
    found = to_instances(graph.run(pixels[None]).image(0), frame, pixels.shape[:2], nothing)
    if len(found) or found.boxes.shape != (0, 4):
        raise ExportError(f"{len(found)} instances pass an infinite threshold; not written")


def compare(ours: Raw, theirs: Raw) -> str:
    """What differs between the detections of one image, matched one to one; empty if they agree.

    Rows are matched by label and nearness, because neighbours of nearly equal score may change places. A row whose
    score is that of the last one may be missing on the other side, where the cut fell otherwise.
    """
    if ours.boxes.shape != theirs.boxes.shape or ours.masks.shape != theirs.masks.shape:
        return f"shapes {ours.boxes.shape}, {ours.masks.shape} against {theirs.boxes.shape}, {theirs.masks.shape}"
    left = [i for i in range(len(ours.scores)) if ours.scores[i] > 0]
    cut = max(float(ours.scores[-1]), float(theirs.scores[-1])) + SCORE_TOLERANCE
    unmatched = []
    for j in np.flatnonzero(theirs.scores > 0):
        partner = next((i for i in left if _agree(ours, i, theirs, int(j))), None)
        if partner is not None:
            left.remove(partner)
        elif theirs.scores[j] > cut:
            unmatched.append(int(j))
    if not unmatched:
        return ""
    return f"{len(unmatched)} of {len(theirs.scores)} detections have no partner, first row {unmatched[0]}"


def _agree(ours: Raw, i: int, theirs: Raw, j: int) -> bool:
    if ours.labels[i] != theirs.labels[j] or abs(ours.scores[i] - theirs.scores[j]) > SCORE_TOLERANCE:
        return False
    if np.abs(ours.boxes[i] - theirs.boxes[j]).max() > BOX_TOLERANCE:
        return False
    a, b = ours.masks[i] > 0, theirs.masks[j] > 0
    different, union = int((a ^ b).sum()), int((a | b).sum())
    return different <= max(CELLS_FORGIVEN, MASK_TOLERANCE * union)


def _as_unsteady_as(deployed: Deployed, pixels: npt.NDArray[Any], ours: Raw, theirs: Raw) -> bool:
    """Whether the network itself moves as far when it computes in double precision.

    A network can hang on near ties (which of two tokens is the 300th, whether a mask ends a pixel earlier) so that
    rounding alone moves its results. Then detections can't be paired, and only their scores, sorted, are held together.
    """
    exact = Deployed(copy.deepcopy(deployed.network).double(), Preprocess(1, 1))
    exact.factor, exact.offset = deployed.factor.double(), deployed.offset.double()
    exact.plain = deployed.plain
    with torch.no_grad():
        reference = Raw(
            *(t.float().numpy() if t.is_floating_point() else t.numpy() for t in exact(torch.from_numpy(pixels[None])))
        )
    if not compare(theirs, reference.image(0)):
        return False
    log.warning("rounding alone moves this network's detections; graph and network were compared by their scores only")
    return float(np.abs(np.sort(ours.scores) - np.sort(theirs.scores)).max()) <= 0.05
