"""How the masks of a model are to be read: independent facts, which its graph's record states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class MaskLayout:
    """What the grids in a graph's output ``masks`` (B, K, h, w) cover and mean.

    A pixel is foreground where the bilinear interpolation of its mask at the pixel's centre is positive; beyond the
    mask's outermost cells their values go on.

    Attributes:
        over: what a mask lies over. ``input``: the network's whole input, padding included. ``box``: the mask's own
            box, with a ring of one cell around it: cells 1 to h - 2 cover the box's height and 1 to w - 2 its width,
            also of a box that extends beyond the image; the ring lies outside and is background. (With probability
            - 0.5 in the box and -0.5 in the ring, that is Mask R-CNN's paste: zero beyond the box, then >= 0.5.)
        boxes_from_masks: a box is the extent of its mask: the graph's box holds all of it, the image's is cut to its
            pixels, and a mask without a pixel in the image is dropped. Otherwise boxes are predicted.
        beyond_boxes: what is positive outside a mask's box belongs to the object: the predicted box is too small, and
            may be enlarged. Otherwise a mask means nothing there.
        via_input: masks are enlarged in PaddleDetection's two steps: to the input's pixels, of which those outside the
            box become background (-0.5), and from there to the image's. A cell is a whole number of pixels high and
            wide. Otherwise they are enlarged to the image's pixels at once.
    """

    over: Literal["input", "box"] = "input"
    boxes_from_masks: bool = False
    beyond_boxes: bool = True
    via_input: bool = False

    def __post_init__(self) -> None:
        if self.over not in ("input", "box"):
            raise ValueError(f"masks over {self.over!r}: expected input or box")
        flags = {name: value for name, value in asdict(self).items() if name != "over"}
        if wrong := {name: value for name, value in flags.items() if not isinstance(value, bool)}:
            raise ValueError(f"mask layout {wrong!r}: expected true or false")
        if self.over == "box" and (self.beyond_boxes or self.via_input):
            raise ValueError("masks over their boxes neither extend beyond them nor lie in the input")
        if self.via_input and self.beyond_boxes:
            raise ValueError("masks that are cut at their boxes in the input do not extend beyond them")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the record in a model file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskLayout:
        """The inverse of `to_dict`. Raises ValueError for other keys or values."""
        known = [field.name for field in fields(cls)]
        if sorted(values) != sorted(known):
            raise ValueError(f"mask layout {dict(values)!r}: expected the keys {', '.join(known)}")
        return cls(**values)


#: What records up to version 2 called ``mask_frame``.
MASK_FRAMES = {
    "image": MaskLayout(),
    "within": MaskLayout(beyond_boxes=False),
    "twice": MaskLayout(beyond_boxes=False, via_input=True),
    "box": MaskLayout(over="box", beyond_boxes=False),
    "tight": MaskLayout(boxes_from_masks=True, beyond_boxes=False),
}
