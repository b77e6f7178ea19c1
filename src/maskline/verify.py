"""Proof that an exported graph does what its network does."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskline.errors import ExportError
from maskline.inputs import read_image
from maskline.models.deployed import Deployed
from maskline.preprocess import Preprocess
from maskline.runtime.graph import Graph, Raw
from maskline.runtime.postprocess import to_instances
from maskline.wording import counted

PHOTOS = ("fruit.jpg", "ski.jpg")

# How far graph and network may be apart, for a detection of one and its partner of the other.
SCORE_TOLERANCE = 5e-4
BOX_TOLERANCE = 0.05  # pixels of the network's input
MASK_TOLERANCE = 0.01  # 1 - IoU on the mask grid
CELLS_FORGIVEN = 4  # masks that differ by so few cells are equal, whatever their IoU
ROUNDING_SLACK = 5  # what misses by less may be rounding, and is told

log = logging.getLogger("maskline")


def verify(deployed: Deployed, graph: Graph, *, single: bool = False) -> None:
    """Run graph and network side by side on photos; raise ExportError where they disagree.

    Compared are two photos and one of them turned, so that sizes differ, each alone and, where a batch can hold them,
    all three together, else one of them with its mirror image; then that a threshold nothing passes gives no instances.
    Where sizes are free, all but the first are small, because a full batch of the largest networks takes minutes and
    gigabytes.

    Args:
        single: the graph takes one image at a time, so nothing is compared in batches.
    """
    inputs = _verification_inputs(graph.record.preprocess)
    groups = [[pixels] for pixels in inputs]
    alike = len({pixels.shape for pixels in inputs}) == 1
    if not single:
        groups += [inputs] if alike else [[inputs[1], np.ascontiguousarray(inputs[1][:, ::-1])]]
    unsteady = 0
    for group in groups:
        batch = np.stack(group)
        ours, theirs = graph.run(batch), deployed.run(batch)
        for i in range(len(batch)):
            fault = compare(ours.image(i), theirs.image(i))
            if fault and not _only_rounding(deployed, batch[i], ours.image(i), theirs.image(i)):
                raise ExportError(f"the graph disagrees with the network at batch {len(batch)}: {fault}; not written")
            unsteady += bool(fault)
    if unsteady:
        log.warning(
            "on %d of %d photos graph and network differ, by no more than rounding alone moves this network: "
            "its weights leave near ties, as untrained ones do",
            unsteady,
            sum(map(len, groups)),
        )
    _verify_nothing(graph, inputs[0])


def _verification_inputs(preprocess: Preprocess) -> list[npt.NDArray[Any]]:
    photos = [read_image(Path(__file__).with_name("assets") / name) for name in PHOTOS]
    photos.append(np.ascontiguousarray(np.rot90(photos[0])))
    small = replace(preprocess, height=preprocess.height // 2, width=preprocess.width // 2)
    others = small if preprocess.has_free_size else preprocess
    return [p.apply(photo)[0] for p, photo in zip((preprocess, others, others), photos, strict=True)]


def _verify_nothing(graph: Graph, pixels: npt.NDArray[Any]) -> None:
    frame = graph.record.preprocess.apply(np.zeros((480, 640, 3), np.uint8))[1]
    nothing = np.full(len(graph.record.labels), np.inf, np.float32)
    raw, mask_frame = graph.run(pixels[None]).image(0), graph.record.mask_frame
    found = to_instances(raw, frame, pixels.shape[:2], nothing, mask_frame=mask_frame)
    if len(found) or found.boxes.shape != (0, 4):
        raise ExportError(f"{counted(len(found), 'instance')} above an infinite threshold; not written")


def compare(ours: Raw, theirs: Raw) -> str:
    """What differs between the detections of one image; empty if nothing does."""
    if [a.shape for a in ours] != [a.shape for a in theirs]:
        return f"shapes {[a.shape for a in ours]} against {[a.shape for a in theirs]}"
    n = without_partner(ours, theirs)
    return f"{counted(n, 'detection')} of {len(theirs.scores)} on each side without an equal" if n else ""


def without_partner(ours: Raw, theirs: Raw, slack: float = 1) -> int:
    """How many rows of either side have no equal on the other, each row being used once; ``slack`` widens tolerances.

    Rows are matched by what they say, not by place, because neighbours of nearly equal score may change places. A row
    that would not have come before the other side's last row doesn't count, because the cut may have fallen otherwise.
    """
    free = [i for i in range(len(ours.scores)) if ours.scores[i] > 0]
    alone = []
    for j in np.flatnonzero(theirs.scores > 0):
        partner = next((i for i in free if _agree(ours, i, theirs, int(j), slack)), None)
        if partner is not None:
            free.remove(partner)
        else:
            alone.append(int(j))
    return sum(_counts(theirs.scores[j], ours) for j in alone) + sum(_counts(ours.scores[i], theirs) for i in free)


def _counts(score: float, other: Raw) -> bool:
    """Whether a row of this score should have been among the other side's rows, which end where their number or the
    network's own threshold cuts them off."""
    last = other.scores[other.scores > 0].min(initial=1)
    return bool(score > (last if last < 1 else 0) + SCORE_TOLERANCE)


def _agree(ours: Raw, i: int, theirs: Raw, j: int, slack: float) -> bool:
    if ours.labels[i] != theirs.labels[j] or abs(ours.scores[i] - theirs.scores[j]) > slack * SCORE_TOLERANCE:
        return False
    if np.abs(ours.boxes[i] - theirs.boxes[j]).max() > slack * BOX_TOLERANCE:
        return False
    a, b = ours.masks[i] > 0, theirs.masks[j] > 0
    different, union = int((a ^ b).sum()), int((a | b).sum())
    return different <= slack * max(CELLS_FORGIVEN, MASK_TOLERANCE * union)


def _only_rounding(deployed: Deployed, pixels: npt.NDArray[Any], ours: Raw, theirs: Raw) -> bool:
    """Whether graph and network differ by no more than rounding does.

    Either nothing misses the tolerances by more than a small factor; or the network hangs on near ties (which of two
    tokens is the 300th, whether a mask ends a pixel earlier), so that computing it in double precision moves about as
    many detections as the graph has moved. Trained networks rarely do that, stand-in weights often.
    """
    if not without_partner(ours, theirs, slack=ROUNDING_SLACK):
        return True
    exact = copy.deepcopy(deployed).double().run(pixels[None]).image(0)
    shift = np.abs(np.sort(ours.scores) - np.sort(theirs.scores)).max()
    own_shift = np.abs(np.sort(theirs.scores) - np.sort(exact.scores)).max()
    as_many = without_partner(ours, theirs) <= 2 * without_partner(theirs, exact)
    return as_many and bool(shift <= 3 * own_shift + SCORE_TOLERANCE)
