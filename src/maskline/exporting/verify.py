"""Proof that an exported graph does what its network does."""

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

# How far graph and network may be apart, for a detection of one and its partner of the other.
SCORE_TOLERANCE = 5e-4
BOX_TOLERANCE = 0.05  # pixels of the network's input
MASK_TOLERANCE = 0.01  # 1 - IoU on the mask grid
CELLS_FORGIVEN = 4  # masks that differ by so few cells are equal, whatever their IoU
NUMBER_TOLERANCE = 1e-3  # of the standard deviation of an array, plus a hundredth of its largest number
ROUNDING_SLACK = 5  # what misses by less may be rounding, and is told

KEPT = 0.05  # a score that any threshold of use is above

#: What is told of a network for which rounding decides what it finds.
ROUNDING = "by no more than rounding alone moves this network, because its weights leave near ties"
NOTHING_LEARNED = (
    "the network has learned almost nothing yet, and its scores are so nearly equal that rounding decides what it "
    "finds; the graph itself is proved: train longer before you use it"
)

logger = logging.getLogger("maskline")


class Answer(NamedTuple):
    """What one side says of a batch: the detections, and what its decisive layers gave, by layer and call."""

    found: Raw
    layers: Mapping[str, FloatArray] = MappingProxyType({})


def verify(
    deployed: Deployed, graph: Graph, open_pinned: Callable[[Sequence[Call]], Backend], *, single: bool = False
) -> None:
    """Run graph and network side by side on photos; raise ExportError where they disagree.

    Compared first is what the layers give that decide what is found, and then what is found if they give numbers
    chosen beforehand (`pinned`): of their own outputs, a network that has learned little makes nothing to compare, or
    so many near ties that rounding decides. Compared are two photos and one of them turned, so that sizes differ, each
    alone and, where a batch can hold them, all three together, else one of them with its mirror image. Then the photos
    alone again, as graph and network are: there counts what a user could keep, if anything; and a threshold that
    nothing passes must give no instances.
    Where sizes are free, all but the first are small, because a full batch of the largest networks takes minutes and
    gigabytes.

    Args:
        open_pinned: opens the graph with inputs and outputs for these calls of layers.
        single: the graph takes one image at a time, so nothing is compared in batches.
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
    unsteady = [told for pixels in inputs if (told := _verify_as_it_is(deployed, graph, pixels))]
    for told in dict.fromkeys(unsteady):
        logger.warning("on %d of %d photos graph and network differ: %s", unsteady.count(told), len(inputs), told)
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


def _verify_as_it_is(deployed: Deployed, graph: Graph, pixels: npt.NDArray[Any]) -> str:
    """Compare what is found in a photo; why it may differ, empty if it does not."""
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
    """Whether nothing could be kept, or most of what could has the score of another."""
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
    """What differs between the detections of a batch, first of its first image; empty if nothing does."""
    if len(ours.scores) != len(theirs.scores):
        return f"{counted(len(ours.scores), 'image')} instead of {len(theirs.scores)}"
    faults = (compare(ours.image(i), theirs.image(i), least=least) for i in range(len(theirs.scores)))
    return next(filter(None, faults), "")


def _differing_numbers(ours: Answer, theirs: Answer) -> str:
    """Where numbers before any selection differ, and how many; empty if none do."""
    for name, mine, other in _numbers(ours, theirs):
        if n := _beyond(mine, other):
            return f"{n} of {other.size} numbers of {name} differ"
    return ""


def _numbers(ours: Answer, theirs: Answer) -> Iterator[tuple[str, FloatArray, FloatArray]]:
    """What can be compared number by number: outputs of layers, and masks where both have the same detection."""
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
    """What differs between the detections of one image that score more than ``least``; empty if nothing does."""
    if [a.shape for a in ours] != [a.shape for a in theirs]:
        return f"shapes {[a.shape for a in ours]} against {[a.shape for a in theirs]}"
    n = without_partner(ours, theirs, least=least)
    return f"{counted(n, 'detection')} of {len(theirs.scores)} on each side without an equal" if n else ""


def without_partner(ours: Raw, theirs: Raw, slack: float = 1, *, least: float = 0) -> int:
    """How many rows of either side have no equal on the other, each row being used once; ``slack`` widens tolerances.

    Rows are matched by what they say, not by place, because neighbours of nearly equal score may change places. A row
    that would not have come before the other side's last row doesn't count, because the cut may have fallen otherwise;
    nor one that scores no more than ``least``.
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
    """Whether a row of this score should have been among the other side's rows, which end where their number or the
    network's own threshold cuts them off."""
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
    """How many numbers differ by more than the tolerance."""
    if ours.shape != theirs.shape or not theirs.size:
        return int(theirs.size)
    tolerance = NUMBER_TOLERANCE * (theirs.std() + np.abs(theirs).max() / 100)
    return int((np.abs(ours - theirs) > slack * tolerance).sum())


def _misses(ours: Answer, theirs: Answer, slack: float = 1) -> IntArray:
    """How many detections have no equal, and how many numbers differ."""
    images = range(len(theirs.found.scores))
    alone = sum(without_partner(ours.found.image(i), theirs.found.image(i), slack) for i in images)
    return np.array([alone, sum(_beyond(mine, other, slack) for _, mine, other in _numbers(ours, theirs))])


def _only_rounding(ours: Answer, theirs: Answer, run_exact: Callable[[], Answer]) -> bool:
    """Whether graph and network differ by no more than rounding does.

    Either nothing misses the tolerances by more than a small factor; or the network hangs on near ties (which of two
    tokens is the 300th, whether a mask ends a pixel earlier), so that computing it in double precision moves about as
    many detections as the graph has moved. Trained networks rarely do that, stand-in weights often.
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
