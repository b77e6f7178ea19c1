"""What can be wrong with a data set: THE TABLE of kinds, and one fault found.

An *error* makes training or its figures wrong, or loses data; a *warning* is worth a look. ``maskline check`` fails on
errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from maskline.data.dataset import Dataset, Id
from maskline.instances import IntArray
from maskline.wording import counted as counted  # for readers of formats, which need them with every fault
from maskline.wording import short as short

NAMES_TOLD = 5  # of many, in a message

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


_OUT: tuple[str, bool] = ("left out", True)
_ROWS = (
    Kind(
        *("leak", "warning", "one image in two splits: figures of the evaluation are too good"),
        *("keep it in one of them, unless you overfit on purpose",),
        "kept in the evaluation split only, unless that leaves the other without images",
        True,
    ),
    Kind(
        *("leak-near", "warning", "nearly the same image in two splits: figures of the evaluation are too good"),
        "keep both in one split (split by groups), unless you overfit on purpose",
    ),
    Kind("file", "error", "an annotation file that can't be read", "correct the file, or make it anew"),
    Kind(
        *("file-unread", "error", "annotations that were not read, of images that have none in what was read"),
        "name their format with --from, or their file; or take them away",
    ),
    Kind(
        *("file-repeated", "warning", "annotations that were not read, of images that have others in what was read"),
        "nothing, if the right ones were read; else name their format with --from, or their file",
    ),
    Kind("file-unlisted", "warning", "annotation files that no split lists", "list them, or take them away"),
    Kind(
        *("label-unmatched", "error", "a label file without an image"),
        "restore the image under the name of the label file, or take the label file away",
    ),
    Kind(
        *("no-labels", "error", "images without a single label file"),
        "put the label files into folders named labels, beside those of the images",
    ),
    Kind("no-annotations", "warning", "a split without annotations", "annotate it, if that is not meant"),
    Kind(
        *("image-moved", "warning", "images found under another path than the annotations give"),
        "see that they are the right ones",
    ),
    Kind(
        *("image-format", "warning", "image files of formats that are not read"),
        "save them as JPEG or PNG under the same name",
    ),
    Kind("record", "error", "a record that can't be read", "correct the record in the file", "left out", True),
    Kind(
        *("name", "error", "a name that is no Unicode: it holds half a character, or bytes that are no UTF-8"),
        *("rename it", "a class gets an escape for it, an image is left out"),
    ),
    Kind("no-images", "error", "a split without images", "add images, or make the split anew (maskline split)"),
    Kind(
        "empty-list", "warning", "a val or test split that lists no image", "divide anew (maskline split), or add some"
    ),
    Kind(
        *("image-id", "error", "different images with one id: which one an annotation is of can't be told"),
        *("give each image an id of its own, and correct image_id of their annotations", "all of them are left out"),
        True,
    ),
    Kind("image-listed-twice", "warning", "two records of one image file", "merge them", "annotations are merged"),
    Kind(
        *("image-path", "error", "an image path that leads out of the images' folder", "make it relative", "left out"),
        True,
    ),
    Kind(
        *("image-embedded", "warning", "an image that only its annotation file holds"),
        *("nothing: `maskline convert` and --fix write it", "written as a file"),
    ),
    Kind("image-missing", "error", "an image file that is not there", "restore it, or remove its record", *_OUT),
    Kind("image-unreadable", "error", "an image file that can't be read", "replace the file", *_OUT),
    Kind(
        *("image-size", "error", "width and height are not those of the file"),
        *("correct them; if the image was resized or cropped, do the same to its annotations",),
        "those of the file where the masks show that they were drawn on it, else it is left out",
    ),
    Kind(
        *("image-turned", "error", "annotated without the EXIF rotation that readers apply"),
        "save the image without an EXIF orientation",
        "the orientation in the file is set to 1; where that is not possible, the image is left out",
    ),
    Kind(
        *("image-rotation", "error", "width and height are swapped, and masks do not show if the EXIF rotation is why"),
        "compare one with the image as shown: where it fits, swap width and height, else remove the EXIF orientation",
    ),
    Kind(
        *("image-exif", "warning", "an EXIF orientation"),
        "make sure that it was annotated as shown: a tool that ignores the orientation shows it differently",
    ),
    Kind(
        *("image-dark", "warning", "a 16-bit image that is nearly black or white in 8 bits"),
        "scale its levels to the full range: only the upper 8 bits are used",
    ),
    Kind("image-unlisted", "warning", "files that no split lists", "annotate or list them, or take them away"),
    Kind(
        *("category-id", "error", "different categories with one id: which one an annotation is of can't be told"),
        *("give each an id of its own, and correct category_id of the annotations",),
        "the later get new ids; annotations of the id are left out",
    ),
    Kind("category-name", "warning", "two categories with one name", "merge or rename them", "merged"),
    Kind(
        *("categories-differ", "error", "the splits do not list the same categories"),
        *("write one list, in one order, into all files", "one list in all files"),
    ),
    Kind(
        *("category-no-object", "warning", "a class that is no object: background, or the empty parent of all others"),
        *("rename it if it is a class of objects", "left out", True),
    ),
    Kind("class-missing", "warning", "a class without instances in a split", "split anew, or remove the class"),
    Kind(
        *("id-type", "warning", 'ids that are numbers in one place and text in another, such as 1 and "1"'),
        *("write them all as numbers", "written as the image or category has it"),
    ),
    Kind("unknown-image", "error", "an annotation of an image that is not listed", "correct image_id", *_OUT),
    Kind("unknown-category", "error", "an annotation of an unknown category", "correct category_id", *_OUT),
    Kind(
        *("ambiguous", "error", "an annotation of an image or category that shares its id with another"),
        *("see to it that the ids are different, and correct it", "left out", True),
    ),
    Kind("annotation-id", "error", "two annotations with one id", "number them anew", "the later gets a new id"),
    Kind("no-mask", "error", "an annotation without a mask", "draw it, or remove the annotation", *_OUT),
    Kind(
        *("crowd", "error", "an iscrowd that is neither 0 nor 1", "write 0 or 1"),
        "1 for true, yes and the like, else 0",
    ),
    Kind(
        *("crowd-only", "error", "masks marked as crowd regions, as CVAT marks all of its brush and of SAM"),
        "crowd regions are neither learned from nor counted: say what they are, to `maskline check --fix` or "
        "`maskline convert`, with `--crowd instances` or `--crowd regions`",
    ),
    Kind(
        *("shape-ignored", "warning", "annotations that are not instances, such as background or stuff"),
        *("nothing, if that is meant", *_OUT),
    ),
    Kind(
        *("set-aside", "warning", "annotations that do not count: cancelled, replaced by others, or predicted"),
        *("nothing, if that is meant", *_OUT),
    ),
    Kind(
        *("no-class", "warning", "annotations whose class is not named"),
        "nothing, if there is only one class; else name it in the tool",
    ),
    Kind(
        *("boxes-only", "warning", "a data set for detection"),
        "draw the outlines, or train a detector: masks learned from boxes are boxes",
    ),
    Kind(
        *("polygon-unit", "error", "polygons in shares or percent of the image"),
        *(
            "multiply by the image's width and height, or have `maskline check --fix` do it",
            "multiplied, where all polygons are so",
        ),
    ),
    Kind(
        *("polygon-corner", "warning", "polygons that all lie in the upper left corner of large images"),
        "see in the report that they are in pixels, not in percent",
    ),
    Kind(
        *("masks-implausible", "error", "masks that can't be objects: all tiny, outside the image, or all of it"),
        "see that coordinates are pixels of these images, and that masks are objects",
    ),
    Kind(
        *("polygon-broken", "error", "a polygon that encloses nothing or holds wrong numbers"),
        *("draw it anew: 3 points or more, x y x y ..., finite", "left out; other parts of the annotation stay", True),
    ),
    Kind(
        *("polygon-flat", "error", "a polygon that is not a list of its own, or whose points are"),
        *("write [[x, y, x, y, ...]]", "written so"),
    ),
    Kind("rle-broken", "error", "run lengths or a mask picture that can't be read", "export the mask anew", *_OUT),
    Kind("polygon-crossing", "warning", "a polygon that crosses itself", "draw it anew", "its pixels stay, redrawn"),
    Kind("mask-empty", "warning", "a mask without pixels in the image", "remove or redraw it", *_OUT),
    Kind("mask-outside", "warning", "a polygon that leaves the image", "cut it at the border", "cut at the border"),
    Kind("box-mismatch", "warning", "the box is not that of the mask", "compute it from the mask", "the mask's box"),
    Kind("area-mismatch", "warning", "the area is not that of the mask", "compute it from the mask", "the mask's area"),
    Kind("annotation-twice", "warning", "one object annotated twice", "remove one", "the later is left out", True),
    Kind("not-json", "warning", "NaN or Infinity, which JSON does not have", "write null", "null"),
    Kind("image-twice", "warning", "one picture twice in a split", "remove one, with its annotations"),
)

#: Errors of a whole file: leaving out records does not mend them.
WHOLE_FILE = ("crowd-only", "polygon-unit")
LEAKS = ("leak", "leak-near")
#: By code, in the order of the table.
KINDS = {row.code: row for row in _ROWS}


def ordered(faults: Iterable[Fault]) -> list[Fault]:
    """As they are told: what spoils the evaluation first, then errors, then warnings, in the order of the table."""
    places = {
        code: (code not in LEAKS, kind.severity != "error", place) for place, (code, kind) in enumerate(KINDS.items())
    }
    return sorted(faults, key=lambda fault: places[fault.code])


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
        others: further images concerned, as ``(split, file name)``: the twin of a picture, or one that is not in the
            `Dataset` because its record could not be used.
        lost: the number of annotations that are not in the `Dataset` because of it.
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
            "annotations_lost": self.lost,
        }


class UnusableError(Exception):
    """A record that gives nothing: the code of its fault, and what is wrong. For readers, within themselves."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


class Count(NamedTuple):
    """How much there is of a split."""

    images: int
    annotations: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader of a format gives: everything that could be used, and what could not.

    Attributes:
        splits: data sets by split (``train``, ``val``, ``test``, or ``all``), sound as `Dataset` promises.
        faults: in the order met.
        listed: images and annotations by split, including those that could not be used: an annotation of a split is
            either in its `Dataset` or counted in a fault's ``lost``.
        format: its key in `maskline.data.reading.FORMATS`.
        files: the annotation files that were read, relative to the folder of the data set.
        notes: what was done because it was asked for.
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
        """Faults that are not mere warnings."""
        return [fault for fault in self.faults if fault.kind.severity == "error"]

    def count(self, split: str) -> Count:
        """What a split has, as far as is known with what could not be used."""
        dataset = self.splits[split]
        return self.listed.get(split) or Count(len(dataset.images), len(dataset.annotations))
