"""The same mask twice: found among many as a comparison of all with all finds it, in a fraction of its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from maskline.data.check import masks
from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.shapes import Segmentation, rles

SIZE = (30, 40)  # height, width

corners = st.tuples(*(st.integers(-2, side + 2) for side in (*SIZE[::-1], *SIZE[::-1])))
numbers = st.lists(st.one_of(corners, st.sampled_from([(2, 2, 30, 25), (2, 2, 30, 26), (3, 2, 30, 25)])), max_size=25)


def polygon(x1: float, y1: float, x2: float, y2: float) -> Segmentation:
    """A quadrilateral, and so not always the box of its corners."""
    return (np.asarray([[x1, y1], [x2, y1], [x2, y2], [x1 + 1, y2]], np.float64),)


def dataset(shapes: list[Segmentation], crowds: list[bool] | None = None, size: tuple[int, int] = SIZE) -> Dataset:
    marks = crowds or [False] * len(shapes)
    annotations = [Annotation(i, 1, 1, s, crowd=c) for i, (s, c) in enumerate(zip(shapes, marks, strict=True))]
    return Dataset("train", Path(), (ImageRecord(1, "a.png", size[1], size[0]),), annotations, (Category(1, "cell"),))


def all_with_all(shapes: list[Segmentation], crowds: list[bool]) -> dict[int, int]:
    """Each mask that is the same as an earlier one, with the first such."""
    encoded = rles(shapes, SIZE)
    use = [i for i, mask in enumerate(encoded) if coco.area(mask) and not crowds[i]]
    some = [encoded[i] for i in use]
    same = np.triu(coco.iou(some, some, [0] * len(some)) if some else np.zeros((0, 0)), 1) >= masks.SAME
    return {use[later]: use[int(np.argmax(same[:, later]))] for later in np.flatnonzero(same.any(axis=0))}


@settings(max_examples=200, deadline=None)
@given(numbers, st.randoms())
def test_twins_are_those_of_all_with_all(boxes: list[tuple[int, int, int, int]], chance: object) -> None:
    shapes = [polygon(*box) for box in boxes]
    crowds = [chance.random() < 0.1 for _ in shapes]  # type: ignore[attr-defined]
    found = dataset(shapes, crowds)
    faults = masks.check_masks(found, found.images[0]).faults
    twins = {f.annotation_id: f.what for f in faults if f.code == "annotation-twice"}
    expected = {
        later: f"annotation {later} (cell): the same mask as annotation {earlier} (cell)"
        for later, earlier in all_with_all(shapes, crowds).items()
    }
    assert twins == expected


def test_areas_are_in_the_order_of_the_annotations() -> None:
    shapes: list[Segmentation] = [polygon(0, 0, 10, 10), polygon(50, 50, 60, 60), polygon(0, 0, 4, 4)]
    found = dataset(shapes * 100)  # pycocotools fails on more than 255 at once
    areas = masks.check_masks(found, found.images[0]).areas
    assert areas.tolist() == [int(coco.area(mask)) for mask in rles(shapes * 100, SIZE)]


DENSE = """
import numpy as np
from maskline.data.check.masks import check_masks
from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
rng = np.random.default_rng(0)
t = np.linspace(0, 2 * np.pi, 12, endpoint=False)
discs = np.stack([np.cos(t), np.sin(t)], axis=1)
annotations = [Annotation(i, 1, 1, (rng.uniform(12, 2036, 2) + rng.uniform(4, 10) * discs,)) for i in range(20_000)]
image = ImageRecord(1, "a.png", 2048, 2048)
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
before = peak()
look = check_masks(Dataset("train", "", (image,), annotations, (Category(1, "cell"),)), image)
assert len(look.areas) == 20_000
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_twenty_thousand_objects_of_one_image_need_little_memory() -> None:
    """All with all took 7 GB."""
    done = subprocess.run([sys.executable, "-c", DENSE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150  # MiB
