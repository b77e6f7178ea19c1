"""Verification of exported graphs against their networks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskline._files import ASSETS
from maskline._progress import track
from maskline._wording import counted
from maskline.errors import ExportError
from maskline.inputs import read_image
from maskline.instances import FloatArray, IntArray
from maskline.models.deployed import Deployed
from maskline.models.pinned import Call, pinned
from maskline.preprocess import Preprocess
from maskline.runtime.backend import Backend, RunError
from maskline.runtime.graph import OUTPUTS, Graph, Raw
from maskline.runtime.postprocess import to_instances

PHOTOS = ("fruit.jpg", "ski.jpg")

# Largest differences between a detection of the graph and its match in the network's.
SCORE_TOLERANCE = 5e-4
BOX_TOLERANCE = 0.05  # pixels of the network's input
MASK_TOLERANCE = 0.01  # 1 - IoU on the mask grid
CELLS_FORGIVEN = 4  # masks that differ in at most this many cells are equal, whatever their IoU
NUMBER_TOLERANCE = 1e-3  # of the array's standard deviation + 1/100 of its largest absolute value
ROUNDING_SLACK = 5  # factor on tolerances: a smaller miss may be rounding, and is logged

KEPT = 0.05  # below any useful score threshold

#: Warnings about networks whose detections depend on rounding.
ROUNDING = "by no more than rounding alone changes this network's detections, because its scores have near ties"
NOTHING_LEARNED = (
    "the network has learned almost nothing yet: its scores are nearly equal, and rounding decides what it detects; "
    "the graph itself is verified: train longer before using it"
)

logger = logging.getLogger("maskline")


class Answer(NamedTuple):
    """Results for a batch: detections, and outputs of decisive layers by layer and call."""

    found: Raw
    layers: Mapping[str, FloatArray] = MappingProxyType({})


def verify_graph(
    deployed: Deployed, graph: Graph, open_pinned: Callable[[Sequence[Call]], Backend], *, single: bool = False
) -> None:
    """Run graph and network on photos; raise ExportError if they disagree.

    First, the outputs of decisive layers are compared, and the detections with these outputs replaced by random
    numbers (`pinned`): an untrained network's own outputs would give no detections, or near ties that rounding
    decides. The inputs are two photos and one of them rotated, so that sizes differ, each alone and, if a batch can
    hold them, all three together, else one with its mirror image. Then the photos are run without replacements, where
    detections that a user could keep are compared; and an infinite threshold must give no instances.
    With free sizes, all inputs but the first are small, because a full batch takes minutes and gigabytes for the
    largest networks.

    Args:
        open_pinned: opens the graph with inputs and outputs for these calls.
        single: the graph takes one image at a time, so batches are not compared.
    """
    inputs = _verification_inputs(graph.record.preprocess)
    groups = [[pixels] for pixels in inputs]
    alike = len({pixels.shape for pixels in inputs}) == 1
    if not single:
        groups += [inputs] if alike else [[inputs[1], np.ascontiguousarray(inputs[1][:, ::-1])]]
    pinned_graph = None
    for group in track(groups, "checking the graph", len(groups)):
        batch = np.stack(group)
        theirs, calls = _run_pinned(deployed, batch)
        pinned_graph = pinned_graph or open_pinned(calls)
        ours = _run_graph(pinned_graph, batch, calls)
        fault = _differing_numbers(ours, theirs) or compare_all(ours.found, theirs.found)
        if fault and not _only_rounding(ours, theirs, partial(_run_pinned_exactly, deployed, batch)):
            raise ExportError(f"the graph disagrees with the network at batch {len(batch)}: {fault}; not written")
    reasons = [reason for pixels in inputs if (reason := _verify_unpinned(deployed, graph, pixels))]
    for reason in dict.fromkeys(reasons):
        logger.warning("on %d of %d photos graph and network differ: %s", reasons.count(reason), len(inputs), reason)
    _verify_nothing(graph, inputs[0])


def _run_pinned(deployed: Deployed, batch: npt.NDArray[Any]) -> tuple[Answer, list[Call]]:
    with pinned(deployed.network) as calls:
        found = deployed.run(batch)
    return Answer(found, {_key(call): call.output for call in calls}), calls


def _run_pinned_exactly(deployed: Deployed, batch: npt.NDArray[Any]) -> Answer:
    return _run_pinned(_exact(deployed), batch)[0]


def _run_graph(graph: Backend, batch: npt.NDArray[Any], calls: Sequence[Call]) -> Answer:
    try:
        outputs = graph.run(batch, *(call.replacement for call in calls))
    except RunError as error:
        raise ExportError(f"the graph failed on an input of shape {batch.shape}: {error}; not written") from None
    n = len(OUTPUTS)
    return Answer(Raw(*outputs[:n]), dict(zip(map(_key, calls), outputs[n:], strict=True)))


def _key(call: Call) -> str:
    return f"{call.layer}/{call.number}"


def _exact(deployed: Deployed) -> Deployed:
    return copy.deepcopy(deployed).double()


def _verify_unpinned(deployed: Deployed, graph: Graph, pixels: npt.NDArray[Any]) -> str:
    """Compare the detections in a photo; return why they may differ, empty if they don't."""
    ours, theirs = (side.run(pixels[None]) for side in (graph, deployed))
    if not compare_all(ours, theirs):
        return ""
    if _only_rounding(Answer(ours), Answer(theirs), lambda: Answer(_exact(deployed).run(pixels[None]))):
        return ROUNDING
    if _knows_nothing(theirs.scores):
        return NOTHING_LEARNED
    fault = compare_all(ours, theirs, least=KEPT)
    if fault:
        raise ExportError(f"the graph disagrees with the network: {fault}; not written")
    return ""


def _knows_nothing(scores: FloatArray) -> bool:
    """Whether no score is above `KEPT`, or most of those above have nearly equal neighbours."""
    kept = np.sort(scores[scores > KEPT])
    return len(kept) == 0 or bool(len(kept) > 2 and np.median(np.diff(kept)) < SCORE_TOLERANCE)


def _verification_inputs(preprocess: Preprocess) -> list[npt.NDArray[Any]]:
    photos = [read_image(ASSETS / name) for name in PHOTOS]
    photos.append(np.ascontiguousarray(np.rot90(photos[0])))
    small = replace(preprocess, height=preprocess.height // 2, width=preprocess.width // 2)
    others = small if preprocess.has_free_size else preprocess
    return [p.apply(photo)[0] for p, photo in zip((preprocess, others, others), photos, strict=True)]


def _verify_nothing(graph: Graph, pixels: npt.NDArray[Any]) -> None:
    frame = graph.record.preprocess.apply(np.zeros((480, 640, 3), np.uint8))[1]
    nothing = np.full(len(graph.record.labels), np.inf, np.float32)
    raw, mask_layout = graph.run(pixels[None]).image(0), graph.record.mask_layout
    found = to_instances(raw, frame, pixels.shape[:2], nothing, mask_layout=mask_layout)
    if len(found) or found.boxes.shape != (0, 4):
        raise ExportError(f"{counted(len(found), 'instance')} above an infinite threshold; not written")


def compare_all(ours: Raw, theirs: Raw, *, least: float = 0) -> str:
    """Describe the first difference between the detections of a batch; empty if there is none."""
    if len(ours.scores) != len(theirs.scores):
        return f"{counted(len(ours.scores), 'image')} instead of {len(theirs.scores)}"
    faults = (compare(ours.image(i), theirs.image(i), least=least) for i in range(len(theirs.scores)))
    return next(filter(None, faults), "")


def _differing_numbers(ours: Answer, theirs: Answer) -> str:
    """Describe the first difference in values before any selection; empty if there is none."""
    for name, mine, other in _numbers(ours, theirs):
        if n := _beyond(mine, other):
            return f"{n} of {other.size} numbers of {name} differ"
    return ""


def _numbers(ours: Answer, theirs: Answer) -> Iterator[tuple[str, FloatArray, FloatArray]]:
    """Yield the arrays to compare value by value: outputs of layers, and masks of equal detections."""
    for name, other in theirs.layers.items():
        yield name, ours.layers[name], other
    a, b = ours.found, theirs.found
    if a.masks.shape == b.masks.shape:
        near = (np.abs(a.boxes - b.boxes).max(axis=-1) <= BOX_TOLERANCE) & (
            np.abs(a.scores - b.scores) <= SCORE_TOLERANCE
        )
        same = near & (a.labels == b.labels) & (b.scores > 0)
        yield "masks", a.masks[same], b.masks[same]


def compare(ours: Raw, theirs: Raw, *, least: float = 0) -> str:
    """Describe the difference between the detections of one image above ``least``; empty if there is none."""
    if [a.shape for a in ours] != [a.shape for a in theirs]:
        return f"shapes {[a.shape for a in ours]} against {[a.shape for a in theirs]}"
    n = without_partner(ours, theirs, least=least)
    return f"{counted(n, 'detection')} of {len(theirs.scores)} on each side without an equal" if n else ""


def without_partner(ours: Raw, theirs: Raw, slack: float = 1, *, least: float = 0) -> int:
    """Count the rows of both sides without a match on the other, one to one; ``slack`` widens the tolerances.

    Rows are matched by content, not by index, because rows of nearly equal score may swap. Rows that do not score
    clearly above the other side's last row don't count, because the cut-off may differ; nor do rows of at most
    ``least``.
    """
    free = [i for i in range(len(ours.scores)) if ours.scores[i] > 0]
    alone = []
    for j in np.flatnonzero(theirs.scores > 0):
        partner = next((i for i in free if _agree(ours, i, theirs, int(j), slack)), None)
        if partner is not None:
            free.remove(partner)
        else:
            alone.append(int(j))
    return sum(_counts(theirs.scores[j], ours, least) for j in alone) + sum(
        _counts(ours.scores[i], theirs, least) for i in free
    )


def _counts(score: float, other: Raw, least: float) -> bool:
    """Whether a row of this score should be among the other side's rows, which are cut off by their number or by the
    network's own threshold."""
    last = other.scores[other.scores > 0].min(initial=1)
    return bool(score > max(last if last < 1 else 0, least) + SCORE_TOLERANCE)


def _agree(ours: Raw, i: int, theirs: Raw, j: int, slack: float) -> bool:
    if ours.labels[i] != theirs.labels[j] or abs(ours.scores[i] - theirs.scores[j]) > slack * SCORE_TOLERANCE:
        return False
    if np.abs(ours.boxes[i] - theirs.boxes[j]).max() > slack * BOX_TOLERANCE:
        return False
    a, b = ours.masks[i] > 0, theirs.masks[j] > 0
    different, union = int((a ^ b).sum()), int((a | b).sum())
    return different <= slack * max(CELLS_FORGIVEN, MASK_TOLERANCE * union)


def _beyond(ours: FloatArray, theirs: FloatArray, slack: float = 1) -> int:
    """Count the values that differ by more than the tolerance."""
    if ours.shape != theirs.shape or not theirs.size:
        return int(theirs.size)
    tolerance = NUMBER_TOLERANCE * (theirs.std() + np.abs(theirs).max() / 100)
    return int((np.abs(ours - theirs) > slack * tolerance).sum())


def _misses(ours: Answer, theirs: Answer, slack: float = 1) -> IntArray:
    """Count the detections without a match, and the values that differ."""
    images = range(len(theirs.found.scores))
    alone = sum(without_partner(ours.found.image(i), theirs.found.image(i), slack) for i in images)
    return np.array([alone, sum(_beyond(mine, other, slack) for _, mine, other in _numbers(ours, theirs))])


def _only_rounding(ours: Answer, theirs: Answer, run_exact: Callable[[], Answer]) -> bool:
    """Whether rounding explains the differences between graph and network.

    Either nothing misses the tolerances by more than a small factor; or the network has near ties (which of two tokens
    is the 300th, whether a mask ends a pixel earlier), so that running it in double precision changes about as many
    detections. That is rare for trained networks and frequent for random weights.
    """
    if [a.shape for a in ours.found] != [a.shape for a in theirs.found]:
        return False
    if not _misses(ours, theirs, ROUNDING_SLACK).any():
        return True
    exact = run_exact()
    shift, own_shift = (
        np.abs(np.sort(one.found.scores) - np.sort(theirs.found.scores)).max(axis=-1) for one in (ours, exact)
    )
    as_many = _misses(ours, theirs) <= 2 * _misses(theirs, exact)
    return bool(as_many.all() and (shift <= 3 * own_shift + SCORE_TOLERANCE).all())
