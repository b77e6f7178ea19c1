"""What can be wrong with a data set: THE TABLE of kinds, and one fault found.

An *error* makes training or its figures wrong, or loses data; a *warning* is worth a look. ``maskline check`` fails on
errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from maskline.data.dataset import Dataset, Id

LONGEST_VALUE = 60  # characters, in a message

Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table.

    Attributes:
        title: what is wrong, in a few words.
        advice: what to do.
        fix: what ``--fix`` does in its copy; None where only a person can decide.
    """

    code: str
    severity: Severity
    title: str
    advice: str
    fix: str | None = None


_ROWS = (
    Kind("record", "error", "a record that can't be read", "correct the record in the file", "left out"),
    Kind("no-images", "error", "a split without images", "add images, or make the split anew (maskline split)"),
    Kind("image-id", "error", "two images with one id", "give each image an id of its own", "the later is left out"),
    Kind("image-listed-twice", "warning", "two records of one image file", "merge them", "annotations are merged"),
    Kind("image-path", "error", "an image path that leads out of the images' folder", "make it relative", "left out"),
    Kind("image-missing", "error", "an image file that is not there", "restore it, or remove its record", "left out"),
    Kind("image-unreadable", "error", "an image file that can't be read", "replace the file", "left out"),
    Kind(
        *("image-size", "error", "width and height are not those of the file"),
        *("correct them; if the picture was resized, scale its annotations too",),
        "annotations are scaled if the picture was resized, else it is left out",
    ),
    Kind(
        *("image-turned", "error", "annotated without the EXIF rotation that readers apply"),
        *("save the picture without an EXIF orientation", "a JPEG is saved as annotated, others left out"),
    ),
    Kind(
        *("image-exif", "warning", "an EXIF orientation"),
        "see that it was annotated turned as readers show it; tools that ignore the orientation disagree",
    ),
    Kind("image-unlisted", "warning", "files that no split lists", "annotate or list them, or take them away"),
    Kind("category-id", "error", "two categories with one id", "give each an id of its own", "the later is left out"),
    Kind("category-name", "warning", "two categories with one name", "merge or rename them", "merged"),
    Kind(
        *("categories-differ", "error", "the splits do not list the same categories"),
        *("write one list, in one order, into all files", "one list in all files"),
    ),
    Kind("class-missing", "warning", "a class without instances in a split", "split anew, or remove the class"),
    Kind("unknown-image", "error", "an annotation of an image that is not listed", "correct image_id", "left out"),
    Kind("unknown-category", "error", "an annotation of an unknown category", "correct category_id", "left out"),
    Kind("annotation-id", "error", "two annotations with one id", "number them anew", "the later gets a new id"),
    Kind("no-mask", "error", "an annotation without a mask", "draw it, or remove the annotation", "left out"),
    Kind("shape-ignored", "warning", "a shape that marks what is no object", "nothing, if that is meant", "left out"),
    Kind(
        *("polygon-broken", "error", "a polygon that encloses nothing or holds wrong numbers"),
        *("draw it anew: 3 points or more, x y x y ..., finite", "left out; other parts of the annotation stay"),
    ),
    Kind("rle-broken", "error", "run lengths or a mask picture that can't be read", "export the mask anew", "left out"),
    Kind("polygon-crossing", "warning", "a polygon that crosses itself", "draw it anew", "its pixels stay, redrawn"),
    Kind("mask-empty", "warning", "a mask without pixels in the image", "remove or redraw it", "left out"),
    Kind("mask-outside", "warning", "a polygon that leaves the image", "cut it at the border", "cut at the border"),
    Kind("box-mismatch", "warning", "the box is not that of the mask", "compute it from the mask", "the mask's box"),
    Kind("area-mismatch", "warning", "the area is not that of the mask", "compute it from the mask", "the mask's area"),
    Kind("annotation-twice", "warning", "one object annotated twice", "remove one", "the later is left out"),
    Kind("leak", "error", "one picture in two splits", "keep it in one of them", "kept in the evaluation split only"),
    Kind("leak-near", "warning", "nearly the same picture in two splits", "keep both in one split (split by groups)"),
    Kind("image-twice", "warning", "one picture twice in a split", "remove one, with its annotations"),
)

#: By code, in the order of reports.
KINDS = {row.code: row for row in _ROWS}


def markdown_table() -> str:
    """The table as the documents have it."""
    rows = [f"| {kind.severity} | `{kind.code}` | {kind.title} | {kind.fix or ''} |\n" for kind in KINDS.values()]
    return "| | code | what | `--fix` |\n| --- | --- | --- | --- |\n" + "".join(rows)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        code: its kind, a key of `KINDS`.
        split: the split concerned.
        file: the file concerned: an annotation file, or an image by the name it is listed under.
        what: what was found, in a sentence without a full stop; names ids where there are any.
        image_id, annotation_id: of the record concerned.
        others: further images concerned, as ``(split, file name)``: the twin of a picture.
    """

    code: str
    split: str
    file: str
    what: str
    image_id: Id | None = None
    annotation_id: Id | None = None
    others: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> Kind:
        """The row of the table."""
        return KINDS[self.code]

    def __str__(self) -> str:
        return f"{self.kind.severity}: {self.file}: {self.what}; {self.kind.advice}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        kind = self.kind
        return {
            "severity": kind.severity,
            "code": self.code,
            "split": self.split,
            "file": self.file,
            "image_id": self.image_id,
            "annotation_id": self.annotation_id,
            "what": self.what,
            "advice": kind.advice,
            "fix": kind.fix,
            "others": [{"split": split, "file": file} for split, file in self.others],
        }


class UnusableError(Exception):
    """A record that gives nothing: the code of its fault, and what is wrong. For readers, within themselves."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


def short(value: Any) -> str:
    """A value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader of a format gives: everything that could be used, and what could not.

    Attributes:
        splits: data sets by split (``train``, ``val``, ``test``, or ``all``), sound as `Dataset` promises.
        faults: in the order met.
    """

    splits: dict[str, Dataset]
    faults: list[Fault] = field(default_factory=list)

    @property
    def errors(self) -> list[Fault]:
        """Faults that are not mere warnings."""
        return [fault for fault in self.faults if fault.kind.severity == "error"]
