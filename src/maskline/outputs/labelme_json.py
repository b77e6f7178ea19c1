"""LabelMe JSON, as written for data sets and predictions. https://github.com/wkentaro/labelme"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np

from maskline.masks import Mask, Window, outlines

Json: TypeAlias = dict[str, Any]

VERSION = "5.5.0"  # of LabelMe, whose format is written


def exact_shapes(mask: Mask, window: Window) -> list[Json]:
    """Shapes that cover exactly the pixels of a mask: one polygon per part, or a single ``mask`` if it has holes.

    LabelMe supports ``mask`` shapes from version 5.4 on.

    Args:
        mask: (bottom - top, right - left), foreground where not zero.
        window: position of the mask in the image.

    Returns:
        ``points``, ``shape_type`` and ``mask`` of each shape; empty for an empty mask.
    """
    outer, holes = outlines(mask, window.origin)
    if not holes:
        rings = (np.asarray(flat).reshape(-1, 2).tolist() for flat in outer)
        return [{"points": ring, "shape_type": "polygon", "mask": None} for ring in rings]
    _, data = cv2.imencode(".png", np.ascontiguousarray(mask != 0).view(np.uint8))
    corners = [[window.left, window.top], [window.right - 1, window.bottom - 1]]
    return [{"points": corners, "shape_type": "mask", "mask": base64.b64encode(data.tobytes()).decode("ascii")}]


def document(content: Json, dump: Callable[[Any], str]) -> str:
    """Serialize with one line per key and per shape: compact, and suitable for line-based diffs.

    Args:
        content: the whole file.
        dump: serializes a value as JSON.
    """
    shapes = ",".join(f"\n    {dump(shape)}" for shape in content["shapes"])
    values = {name: f"[{shapes}\n  ]" if name == "shapes" and shapes else dump(content[name]) for name in content}
    return "{\n" + ",\n".join(f"  {dump(name)}: {value}" for name, value in values.items()) + "\n}\n"
