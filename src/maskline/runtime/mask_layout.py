"""Interpretation of a model's masks, as stated in the graph's record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class MaskLayout:
    """What the grids in a graph's output ``masks`` (B, K, h, w) cover and mean.

    A pixel is foreground where the bilinear interpolation of its mask at the pixel's centre is positive; the values of
    the outermost cells are extended outward.

    Attributes:
        over: area that a mask covers. ``input``: the network's whole input, including padding. ``box``: the mask's own
            box, with a ring of one cell around it: cells 1 to h - 2 cover the box's height and 1 to w - 2 its width,
            even if the box extends beyond the image; the ring is outside and is background. (With probability - 0.5
            in the box and -0.5 in the ring, this is Mask R-CNN's paste: zero beyond the box, then >= 0.5.)
        boxes_from_masks: a box is the extent of its mask: the graph's box contains all of it, the image's box is the
            bounding box of its pixels, and a mask without pixels in the image is dropped. Otherwise boxes are
            predicted.
        beyond_boxes: positive values outside a mask's box belong to the object: the predicted box is too small and may
            be enlarged. Otherwise masks are undefined there.
        via_input: masks are upsampled in PaddleDetection's two steps: to the pixels of the input, with those outside
            the box set to background (-0.5), and from there to the image. A cell's height and width are integer
            numbers of pixels. Otherwise masks are upsampled directly to the image.
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
            raise ValueError("masks over their boxes can't extend beyond them or be upsampled via the input")
        if self.via_input and self.beyond_boxes:
            raise ValueError("masks that are upsampled via the input can't extend beyond their boxes")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values, for the record in a model file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskLayout:
        """The inverse of `to_dict`. Raises ValueError for other keys or values."""
        known = [field.name for field in fields(cls)]
        if sorted(values) != sorted(known):
            raise ValueError(f"mask layout {dict(values)!r}: expected the keys {', '.join(known)}")
        return cls(**values)


#: Layouts by the ``mask_frame`` of records up to version 2.
MASK_FRAMES = {
    "image": MaskLayout(),
    "within": MaskLayout(beyond_boxes=False),
    "twice": MaskLayout(beyond_boxes=False, via_input=True),
    "box": MaskLayout(over="box", beyond_boxes=False),
    "tight": MaskLayout(boxes_from_masks=True, beyond_boxes=False),
}
