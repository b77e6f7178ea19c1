"""Masks in the browser: run lengths and outlines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fixtures.browser import needs_browser
from fixtures.page import disc, module

from maskline.masks import rle_encode

pytestmark = needs_browser


VECTORS = [
    ("0Xg0", 24, 31, [[1] * 31] * 24),
    ("0T^2", 50, 50, [[1] * 50] * 50),
    ("0`<", 20, 20, [[1] * 20] * 20),
    ("0X6", 10, 20, [[1] * 20] * 10),
    ("41202", 3, 4, [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]),
    ("0<", 4, 3, [[1] * 3] * 4),
    ("0", 4, 0, [[]] * 4),
]
DECODE = """
const ends = m.runEnds(a[0], [a[1], a[2]]);
const mask = m.columns(ends, [a[1], a[2]]);
const hit = Array.from(mask, (_, i) => +m.covers(ends, [a[1], a[2]], Math.floor(i / a[1]), i % a[1]));
const around = [[-1, 0], [0, -1], [a[2], 0], [0, a[1]]].some(([x, y]) => m.covers(ends, [a[1], a[2]], x, y));
return { mask: Array.from(mask), area: m.area(ends), hit, around };
"""


def masks() -> Iterator[np.ndarray]:
    noise = np.random.default_rng(0)
    for height, width, share in ((1, 1, 1.0), (7, 5, 0.5), (40, 33, 0.1), (33, 40, 0.97), (700, 3, 0.001), (9, 9, 0)):
        yield (noise.random((height, width)) < share).astype(np.uint8)


def test_masks_are_decoded(page: Any) -> None:
    """F81: run lengths in the browser, against the vectors of SPEC 6.4 and what Python encodes."""
    made = [(rle_encode(mask), *mask.shape, mask.tolist()) for mask in masks()]
    for counts, height, width, expected in VECTORS + made:
        seen = module(page, "rle.js", DECODE, counts, height, width)
        assert np.reshape(seen["mask"], (width, height)).T.tolist() == expected
        assert seen["hit"] == seen["mask"] and seen["area"] == np.sum(expected) and not seen["around"]


@pytest.mark.parametrize("counts", ["0Xg", "0Xh0", "é", "", "0X~0", "0oooooooo0", "0" * 5 + "O"])
def test_damaged_masks_are_noticed(page: Any, counts: str) -> None:
    assert "RangeError" in module(page, "rle.js", "return Array.from(m.runEnds(a[0], [24, 31]))", counts)


INSIDE = """
const ends = (await import("./page/rle.js")).runEnds(a[0], [a[1], a[2]]);
const rings = m.rings(ends, [a[1], a[2]]);
const path = new Path2D(rings.map((ring) => `M${ring.join(" ")}Z`).join(""));
const context = document.createElement("canvas").getContext("2d");
const inside = [];
for (let y = 0; y < a[1]; y++) {
  for (let x = 0; x < a[2]; x++) inside.push(context.isPointInPath(path, x + 0.5, y + 0.5, "evenodd"));
}
return { inside, rings: rings.length, points: rings.reduce((sum, ring) => sum + ring.length / 2, 0) };
"""


def test_outlines_follow_masks(page: Any) -> None:
    """The centre of (nearly) every pixel is on the right side; holes stay open; few points are needed."""
    for mask, rings in ((disc(60, 25), 1), (disc(60, 28, 15), 2), (np.ones((5, 9), np.uint8), 1)):
        seen = module(page, "contour.js", INSIDE, rle_encode(mask), *mask.shape)
        inside = np.reshape(seen["inside"], mask.shape)
        assert (inside != mask).mean() < 0.005 and seen["rings"] == rings
        assert seen["points"] < 100
    diagonal = np.eye(6, dtype=np.uint8)
    seen = module(page, "contour.js", INSIDE, rle_encode(diagonal), 6, 6)
    assert seen["rings"] == 1 and np.reshape(seen["inside"], (6, 6)).diagonal().all()
