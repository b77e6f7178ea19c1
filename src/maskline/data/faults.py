"""Faults of data sets: the table of kinds, and `Fault`.

An *error* makes training or its figures wrong, or loses data; a *warning* is worth a look. ``maskline check`` fails on
errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from maskline.data.dataset import Dataset, Id
from maskline.instances import IntArray

MAX_NAMES = 5  # of many, in a message

Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table.

    Attributes:
        title: what is wrong, in a few words.
        advice: what to do.
        fix: what ``--fix`` does in its copy; None where only a person can decide.
        loses: whether that leaves out what the fault is about.
    """

    code: str
    severity: Severity
    title: str
    advice: str
    fix: str | None = None
    loses: bool = False


# fmt: off
_ROWS = (
    Kind("leak", "warning", "the same image in two splits, which makes the evaluation too optimistic",
         advice="keep it in one split, unless you overfit on purpose",
         fix="kept only in the evaluation split, unless the other split would become empty", loses=True),
    Kind("leak-near", "warning", "nearly the same image in two splits, which makes the evaluation too optimistic",
         advice="keep both in one split (split by groups), unless you overfit on purpose"),
    Kind("file", "error", "an annotation file that can't be read", advice="correct the file, or export it again"),
    Kind("file-unread", "error", "unread annotations whose images have no other annotations",
         advice="give their format with --from, give the file itself, or remove them"),
    Kind("file-repeated", "warning", "unread annotations whose images have other annotations",
         advice="nothing to do if the right ones were read; otherwise give the format with --from, or the file itself"),
    Kind("file-unlisted", "warning", "annotation files that no split lists", advice="list them, or remove them"),
    Kind("label-unmatched", "error", "a label file without an image",
         advice="restore the image with the same name, or remove the label file"),
    Kind("no-labels", "error", "a data set without label files",
         advice="put the label files in a folder named labels next to the images folder"),
    Kind("split-missing", "warning", "a val or test split whose images are missing",
         advice="nothing to do unless you need it"),
    Kind("no-annotations", "warning", "a split without annotations", advice="annotate it, unless this is intended"),
    Kind("image-moved", "warning", "images found at a path other than the one in the annotations",
         advice="make sure that they are the right images"),
    Kind("image-format", "warning", "image files in an unsupported format",
         advice="save them as JPEG or PNG with the same name"),
    Kind("record", "error", "a record that can't be read",
         advice="correct the record in the file", fix="left out", loses=True),
    Kind("name", "error", "a name that is not valid Unicode (UTF-8)",
         advice="rename it", fix="the class name is escaped; the image is left out"),
    Kind("no-images", "error", "a split without images",
         advice="add images, or split the data set again (maskline split)"),
    Kind("empty-list", "warning", "a val or test list without images",
         advice="split the data set again (maskline split), or add images"),
    Kind("image-id", "error", "different images with the same id, which makes their annotations ambiguous",
         advice="give each image a unique id, and correct image_id in the annotations",
         fix="all of these images are left out", loses=True),
    Kind("image-listed-twice", "warning", "two records for the same image file",
         advice="merge them", fix="annotations are merged"),
    Kind("image-path", "error", "an image path that leads outside the image folder",
         advice="make it relative", fix="left out", loses=True),
    Kind("image-embedded", "warning", "an image that is embedded in its annotation file",
         advice="nothing to do: `maskline convert` and --fix write it to a file", fix="written to a file"),
    Kind("image-missing", "error", "a missing image file",
         advice="restore it, or remove its record", fix="left out", loses=True),
    Kind("image-unreadable", "error", "an image file that can't be read",
         advice="replace the file", fix="left out", loses=True),
    Kind("image-size", "error", "width and height differ from the file",
         advice="correct them; if the image was resized or cropped, transform its annotations too",
         fix="corrected if the masks fit the file, otherwise the image is left out"),
    Kind("image-turned", "error", "annotated without applying the EXIF rotation",
         advice="save the image without an EXIF orientation",
         fix="the orientation in the file is set to 1; if that is impossible, the image is left out"),
    Kind("image-rotation", "error",
         "width and height are swapped, and the masks do not show whether the EXIF rotation is the cause",
         advice=("compare a mask with the image as displayed: if it fits, swap width and height, else remove the "
                 "orientation")),
    Kind("image-exif", "warning", "an image with an EXIF orientation",
         advice="make sure that it was annotated the right way up: some tools ignore the orientation"),
    Kind("image-dark", "warning", "a 16-bit image that becomes nearly black or white in 8 bits",
         advice="stretch its levels to the full range: only the upper 8 bits are used"),
    Kind("image-unlisted", "warning", "image files that no split lists",
         advice="annotate or list them, or remove them"),
    Kind("category-id", "error", "different categories with the same id, which makes their annotations ambiguous",
         advice="give each a unique id, and correct category_id in the annotations",
         fix="later categories get new ids; annotations with this id are left out"),
    Kind("category-name", "warning", "two categories with the same name", advice="merge or rename them", fix="merged"),
    Kind("categories-differ", "error", "the splits do not list the same categories",
         advice="use the same list, in the same order, in all files", fix="the same list in all files"),
    Kind("category-no-object", "warning",
         "a class that is not an object (background, or the unused parent of all classes)",
         advice="rename it if it is an object class", fix="left out", loses=True),
    Kind("class-missing", "warning", "a class without instances in a split",
         advice="split the data set again, or remove the class"),
    Kind("id-type", "warning", 'ids that are numbers in one place and strings in another, such as 1 and "1"',
         advice="use numbers everywhere", fix="changed to the type used by the image or category"),
    Kind("unknown-image", "error", "an annotation for an image that is not listed",
         advice="correct image_id", fix="left out", loses=True),
    Kind("unknown-category", "error", "an annotation with an unknown category",
         advice="correct category_id", fix="left out", loses=True),
    Kind("ambiguous", "error", "an annotation for an image or category whose id is not unique",
         advice="make the ids unique, and correct the annotation", fix="left out", loses=True),
    Kind("annotation-id", "error", "two annotations with the same id",
         advice="renumber them", fix="the later one gets a new id"),
    Kind("no-mask", "error", "an annotation without a mask",
         advice="draw it, or remove the annotation", fix="left out", loses=True),
    Kind("crowd", "error", "iscrowd is neither 0 nor 1",
         advice="write 0 or 1", fix="1 for true, yes and the like, otherwise 0"),
    Kind("crowd-only", "error", "masks marked as crowd regions, as CVAT does for brush and SAM masks",
         advice=("crowd regions are ignored in training and evaluation: say what they are with `maskline check "
                 "--fix` or `maskline convert`, and `--crowd instances` or `--crowd regions`")),
    Kind("shape-ignored", "warning", "annotations that are not instances, such as background or stuff",
         advice="nothing to do if this is intended", fix="left out", loses=True),
    Kind("set-aside", "warning", "annotations that do not count (cancelled, superseded, or predicted)",
         advice="nothing to do if this is intended", fix="left out", loses=True),
    Kind("no-class", "warning", "annotations without a class name",
         advice="nothing to do if there is only one class; otherwise set the class in the annotation tool"),
    Kind("boxes-only", "warning", "a data set for detection, where nearly all masks are boxes",
         advice="draw outlines, or train a detector: a model trained on boxes predicts boxes"),
    Kind("polygon-unit", "error", "polygons in fractions or percent of the image size",
         advice="multiply by the image's width and height, or let `maskline check --fix` do it",
         fix="converted to pixels, if all polygons are affected"),
    Kind("polygon-corner", "warning", "polygons only in the upper left corner of large images",
         advice="check in the report that they are in pixels, not in percent"),
    Kind("masks-implausible", "error",
         "masks that can't be objects (all of them tiny, outside the image, or the whole image)",
         advice="check that coordinates are in pixels of these images, and that masks show objects"),
    Kind("polygon-broken", "error", "a polygon without area or with invalid numbers",
         advice="redraw it: at least 3 points as x y x y ..., finite numbers",
         fix="left out; other parts of the annotation are kept", loses=True),
    Kind("polygon-flat", "error", "a polygon that is not nested as in COCO",
         advice="write [[x, y, x, y, ...]]", fix="rewritten"),
    Kind("rle-broken", "error", "run lengths or a mask image that can't be read",
         advice="export the mask again", fix="left out", loses=True),
    Kind("polygon-crossing", "warning", "a polygon that crosses itself",
         advice="redraw it", fix="redrawn with the same pixels"),
    Kind("mask-empty", "warning", "a mask without pixels inside the image",
         advice="remove or redraw it", fix="left out", loses=True),
    Kind("mask-outside", "warning", "a polygon that extends beyond the image",
         advice="clip it to the image", fix="clipped to the image"),
    Kind("box-mismatch", "warning", "the box does not match the mask",
         advice="compute it from the mask", fix="computed from the mask"),
    Kind("area-mismatch", "warning", "the area does not match the mask",
         advice="compute it from the mask", fix="computed from the mask"),
    Kind("annotation-twice", "warning", "an object annotated twice",
         advice="remove one", fix="the later one is left out", loses=True),
    Kind("not-json", "warning", "NaN or Infinity, which is not valid JSON",
         advice="write null", fix="replaced by null"),
    Kind("image-twice", "warning", "the same image twice in a split", advice="remove one, with its annotations"),
)
# fmt: on

#: Errors of a whole file, which leaving out records does not fix.
WHOLE_FILE = ("crowd-only", "polygon-unit")
LEAKS = ("leak", "leak-near")
#: By code, in the order of the table.
KINDS = {row.code: row for row in _ROWS}


def ordered(faults: Iterable[Fault]) -> list[Fault]:
    """Sort faults for reports: leaks first, then errors, then warnings, in the order of the table."""
    places = {
        code: (code not in LEAKS, kind.severity != "error", place) for place, (code, kind) in enumerate(KINDS.items())
    }
    return sorted(faults, key=lambda fault: places[fault.code])


def markdown_table() -> str:
    """The table as Markdown, for the documents."""
    rows = [f"| {kind.severity} | `{kind.code}` | {kind.title} | {kind.fix or ''} |\n" for kind in KINDS.values()]
    return "| | code | what | `--fix` |\n| --- | --- | --- | --- |\n" + "".join(rows)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a data set.

    Attributes:
        code: its kind, a key of `KINDS`.
        split: the split concerned.
        file: the file concerned: an annotation file, or an image by the name it is listed under.
        what: description, in a sentence without a full stop, with ids if there are any.
        image_id, annotation_id: the record concerned.
        others: other images concerned, as ``(split, file name)``: the duplicate of an image, or one that is not in the
            `Dataset` because its record could not be used.
        lost: the number of annotations missing from the `Dataset` because of it.
    """

    code: str
    split: str
    file: str
    what: str
    image_id: Id | None = None
    annotation_id: Id | None = None
    others: tuple[tuple[str, str], ...] = ()
    lost: int = 0

    @property
    def kind(self) -> Kind:
        """The row of the table."""
        return KINDS[self.code]

    def __str__(self) -> str:
        return f"{self.kind.severity}: {self.file}: {self.what}; {self.kind.advice}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-serializable values."""
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
            "annotations_lost": self.lost,
        }


class UnusableError(Exception):
    """An unusable record: the code of its fault, and what is wrong. Internal to readers."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


class Count(NamedTuple):
    """Number of images and annotations of a split."""

    images: int
    annotations: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Result of a reader: everything usable, and faults for the rest.

    Attributes:
        splits: data sets by split (``train``, ``val``, ``test``, or ``all``).
        faults: in the order found.
        listed: images and annotations by split, including those that could not be used: an annotation of a split is
            either in its `Dataset` or counted in a fault's ``lost``.
        format: its key in `maskline.data.formats.FORMATS`.
        files: the annotation files that were read, relative to the folder of the data set.
        notes: what was done on request.
        areas: pixels of each annotation's mask by split, in the order of `Dataset.annotations`; only after a check.
    """

    splits: dict[str, Dataset]
    faults: list[Fault] = field(default_factory=list)
    listed: Mapping[str, Count] = field(default_factory=dict)
    format: str = ""
    files: Sequence[str] = ()
    notes: Sequence[str] = ()
    areas: Mapping[str, IntArray] = field(default_factory=dict)

    @property
    def errors(self) -> list[Fault]:
        """Faults that are errors."""
        return [fault for fault in self.faults if fault.kind.severity == "error"]

    def count(self, split: str) -> Count:
        """Images and annotations of a split, including those that could not be used, if known."""
        dataset = self.splits[split]
        return self.listed.get(split) or Count(len(dataset.images), len(dataset.annotations))
