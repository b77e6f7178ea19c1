"""`Result`, the prediction for one image: a dict that can be printed, drawn and saved."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from maskline._files import AnyPath, replace_file
from maskline.errors import MissingDependencyError, ParameterError, UnknownNameError
from maskline.instances import ByteArray, Instances
from maskline.outputs.formats import MASK_FORMATS
from maskline.outputs.paths import IMAGE_FORMATS, Stems, check_folder, named_file, stem_of
from maskline.render import draw

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from supervision import Detections

ENCODER_OPTIONS = {
    "JPEG": {"subsampling": 0},
    "PNG": {"compress_level": 3},
}  # 3: twice the speed of 6, files 15% larger

Text: TypeAlias = str  # inside Result, `str` is a property
MaskWriter: TypeAlias = Callable[[int, tuple[str, str]], bytes]

_taken = Stems()  # names taken by this process


class Result(dict[str, Any]):
    """Prediction for one image: a read-only dict with the keys below, in this order; ``dict(result)`` copies it.

    >>> import numpy as np
    >>> from maskline import Instances, Result
    >>> masks = (np.ones((2, 3), np.uint8),)
    >>> boxes, scores, labels = np.array([[1, 1, 4, 3]], np.float32), np.array([0.9], np.float32), np.array([0])
    >>> instances = Instances(boxes, scores, labels, masks, np.zeros(1, np.float32), size=(10, 10))
    >>> result = Result(instances, ["cat"], np.zeros((10, 10, 3), np.uint8))
    >>> [(box["label"], box["coordinate"]) for box in result["boxes"]]
    [('cat', [1.0, 1.0, 4.0, 3.0])]
    >>> result.save_all("output")  # doctest: +SKIP

    ``input_path`` (str or None), ``page_index`` (int or None), ``input_img`` ((H, W, 3) uint8 BGR), ``boxes`` and
    ``masks``, best first. A box is a dict of ``cls_id`` (int), ``label`` (str), ``score`` (float) and ``coordinate``
    (four floats, ``x1 y1 x2 y2`` in pixels of the image). A mask is an (h, w) uint8 array of 0 and 1 over the pixels of
    its rounded box, `maskline.instances.pixel_window`; ``instances.full_mask(i)`` returns it over the whole image.

    Attributes:
        instances: the same data as arrays.
        names: class names, by class index.
        stem: name of files saved into a folder, before ``_res``: the input's name, with ``_<page>`` for a page; for an
            array, the time and a number. Long names are cut.

    Compares by identity. Can be pickled.
    """

    def __init__(
        self,
        instances: Instances,
        names: Sequence[Text],
        image: ByteArray,
        input_path: AnyPath | None = None,
        page_index: int | None = None,
        *,
        stems: Stems | None = None,
    ) -> None:
        """Build a result.

        Args:
            instances: instances of this image.
            names: class names, indexed by the labels.
            image: (H, W, 3) uint8 BGR. Not copied, and never modified.
            input_path: source file, or None.
            page_index: index from 0 of a page or frame, else None.
            stems: names in use; by default, shared by all results of this process.

        Raises:
            ParameterError: a label has no name, or the image differs in size from its instances.
        """
        if image.shape != (*instances.size, 3):
            raise ParameterError(f"image has shape {image.shape}: expected {(*instances.size, 3)}")
        self.instances = instances
        self.names = tuple(names)
        path = None if input_path is None else os.fspath(input_path)
        self.stem = stem_of(path, page_index)
        self._stems = _taken if stems is None else stems
        source = {"input_path": path, "page_index": page_index, "input_img": image}
        super().__init__(source | {"boxes": _boxes(instances, self.names), "masks": list(instances.masks)})

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        """Files and images are created from ``instances``, so changes would have no effect on them."""
        raise TypeError("a Result can't be changed: change a copy, dict(result)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __reduce__(self) -> tuple[Any, ...]:
        source = self["input_img"], self["input_path"], self["page_index"]
        return _again, (self.instances, self.names, *source, self.stem)

    def __repr__(self) -> Text:
        count, (height, width) = len(self.instances), self.instances.size
        source = "array" if self["input_path"] is None else Path(self["input_path"]).name
        page = "" if self["page_index"] is None else f" page {self['page_index']}"
        return f"Result({source}{page}: {count} instance{'' if count == 1 else 's'}, {width}x{height})"

    @property
    def json(self) -> dict[Text, Any]:
        """``{"res": {"input_path", "page_index", "boxes", "masks"}}``, masks as nested lists of 0 and 1."""
        return {"res": self._head() | {"masks": [mask.tolist() for mask in self["masks"]]}}

    @property
    def img(self) -> dict[Text, PilImage]:
        """``{"res": image}``, the rendered image as a PIL image in RGB. Rendered on each access."""
        from PIL import Image

        return {"res": Image.fromarray(draw(self["input_img"], self.instances, self.names))}

    @property
    def str(self) -> Text:
        """The string that `print` prints, in one line."""
        return repr(self._summary())

    def print(
        self,
        json_format: bool = False,
        indent: int | None = 4,
        ensure_ascii: bool = False,
        *,
        format_json: bool | None = None,
    ) -> None:
        """Print the result, without its masks, to stdout.

        Args:
            json_format: print JSON rather than a Python dict in one line.
            indent, ensure_ascii: as in `json.dumps`.
            format_json: alias of ``json_format``.
        """
        if json_format if format_json is None else format_json:
            text = json.dumps(self._summary(), indent=indent, ensure_ascii=ensure_ascii)
            plain = json.dumps(self._summary(), indent=indent)
        else:
            text, plain = self.str, ascii(self._summary())
        print(text if _can_print(text) else plain)

    def save_to_json(
        self,
        save_path: AnyPath,
        indent: int | None = 4,
        ensure_ascii: bool = False,
        *,
        mask_format: Text = "list",
    ) -> Path:
        """Write the result as JSON: the content of `json`, without the wrapper ``res``.

        Args:
            save_path: a ``.json`` file, or a folder for ``<stem>_res.json``. Created if missing.
            indent, ensure_ascii: as in `json.dumps`, except that a row of a mask is always one line without spaces.
            mask_format: ``list`` for rows of 0 and 1 over the rounded box; ``rle`` for COCO's
                ``{"size": [height, width], "counts": "..."}`` over the **whole image**; ``polygon`` for COCO's flat
                lists in pixels of the image, which lose holes (see `maskline.masks.polygons`).

        Returns:
            Path of the file.

        Raises:
            ParameterError: ``save_path`` has another file suffix, or ``mask_format`` is unknown.
            OutputError: the file can't be written; an existing file is unchanged.
        """
        if mask_format not in MASK_FORMATS:
            raise UnknownNameError.of("mask_format", str(mask_format), MASK_FORMATS)
        path = named_file(save_path, (".json",)) or self.file_in(save_path, "_res.json")
        head = json.dumps(self._head(), indent=indent, ensure_ascii=ensure_ascii)
        chunks = _json_chunks(head, _mask_writer(self.instances, mask_format), len(self.instances), indent)

        def write(file: Path) -> None:
            with file.open("wb") as opened:
                opened.writelines(chunks)

        return replace_file(path, write)

    def save_to_img(self, save_path: AnyPath) -> Path:
        """Write the rendered image.

        JPEG is saved with Pillow's default quality, 75, but without chroma subsampling, for crisp lines and text.

        Args:
            save_path: a file with an image suffix, or a folder for ``<stem>_res`` with the suffix of the input, or
                ``.png`` if that can't be written in colour. Created if missing.

        Returns:
            Path of the file.

        Raises:
            ParameterError: ``save_path`` has another file suffix.
            OutputError: the file can't be written; an existing file is unchanged.
        """
        encoders = _encoders()
        suffix = Path(self["input_path"] or "").suffix
        suffix = suffix if suffix.lower() in encoders else ".png"
        path = named_file(save_path, encoders) or self.file_in(save_path, f"_res{suffix}")
        kind = encoders[path.suffix.lower()]
        image = self.img["res"]
        return replace_file(path, lambda file: image.save(file, kind, **ENCODER_OPTIONS.get(kind, {})))

    def save_all(self, save_path: AnyPath, *, mask_format: Text = "list") -> None:
        """Write JSON and image into a folder.

        Raises:
            ParameterError: ``save_path`` names a file, or ``mask_format`` is unknown.
            OutputError: see `save_to_json`.
        """
        check_folder(save_path)
        self.save_to_json(save_path, mask_format=mask_format)
        self.save_to_img(save_path)

    def file_in(self, folder: AnyPath, ending: Text) -> Path:
        """Path ``<stem><ending>`` of this result in a folder, which is not created.

        If another input has the same stem, a number is added, the same for all files of this result in the folder.
        Names of arrays are always unique.
        """
        stem = self.stem
        if self["input_path"] is not None:
            owner = f"{Path(self['input_path']).resolve()}|{self['page_index']}"
            stem = self._stems.claim(Path(folder), stem, owner)
        return Path(folder) / f"{stem}{ending}"

    def to_supervision(self) -> Detections:
        """Convert to `supervision.Detections`: xyxy, mask, confidence, class_id, and ``data["class_name"]``.

        Masks are (N, H, W) bool over the whole image, that is N x H x W bytes, which matters for large images.

        Raises:
            MissingDependencyError: the library supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError:
            raise MissingDependencyError("to_supervision() needs supervision: pip install supervision") from None
        found = self.instances
        return Detections(
            xyxy=found.boxes.copy(),
            mask=found.full_masks(),
            confidence=found.scores.copy(),
            class_id=found.labels.copy(),
            data={"class_name": np.array([self.names[label] for label in found.labels.tolist()], np.str_)},
        )

    def _head(self) -> dict[Text, Any]:
        return {key: self[key] for key in ("input_path", "page_index", "boxes")}

    def _summary(self) -> dict[Text, Any]:
        return {"res": self._head() | {"masks": "..."}}


def _again(
    instances: Instances, names: Sequence[str], image: ByteArray, path: str | None, page: int | None, stem: str
) -> Result:
    """Unpickle a result."""
    result = Result(instances, names, image, path, page)
    result.stem = stem
    return result


def _boxes(instances: Instances, names: Sequence[str]) -> list[dict[str, Any]]:
    labels = instances.labels.tolist()
    if wrong := [label for label in labels if not 0 <= label < len(names)]:
        raise ParameterError(f"label {wrong[0]} has no name: there are {len(names)} class names")
    rows = zip(labels, instances.scores.tolist(), instances.boxes.tolist(), strict=True)
    return [{"cls_id": c, "label": names[c], "score": score, "coordinate": box} for c, score, box in rows]


def _can_print(text: str) -> bool:
    """Whether the encoding of stdout has all characters of a string."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=1)
def _encoders() -> dict[str, str]:
    """The `IMAGE_FORMATS` that this build of Pillow can write."""
    from PIL import Image

    Image.init()
    return {suffix: kind for suffix, kind in IMAGE_FORMATS.items() if kind in Image.SAVE}


def _json_chunks(head: str, mask: MaskWriter, count: int, indent: int | None) -> Iterator[bytes]:
    """Extend a JSON object with a member ``masks``, in chunks of about one mask.

    Args:
        head: the object without it, from `json.dumps` with this ``indent``; not empty.
        mask: returns the JSON of mask ``i``, given ``(closing indent, row indent)``.
    """
    lines = ["" if indent is None else "\n" + " " * indent * level for level in range(4)]
    comma = ", " if indent is None else ","
    start = head.removesuffix(f"{lines[0]}}}") + f'{comma}{lines[1]}"masks": ['
    yield start.encode("utf-8", "backslashreplace")  # non-Unicode file names: escaped as by json.dumps
    for i in range(count):
        yield f"{comma if i else ''}{lines[2]}".encode()
        yield mask(i, (lines[2], lines[3]))
    yield f"{lines[1] if count else ''}]{lines[0]}}}".encode()


def _mask_writer(instances: Instances, mask_format: str) -> MaskWriter:
    def rle(i: int) -> dict[str, Any]:
        return {"size": list(instances.size), "counts": instances.rle(i)}

    if mask_format == "list":
        return lambda i, lines: _rows_text(instances.masks[i], *lines)
    value = rle if mask_format == "rle" else instances.polygons
    return lambda i, lines: json.dumps(value(i)).encode()


def _rows_text(mask: ByteArray, closing: str, line: str) -> bytes:
    """``[[0,1],[1,1]]``, with ``line`` before each row and ``closing`` before the last bracket. Values up to 9."""
    if not mask.size:
        return json.dumps(mask.tolist()).encode()
    height, width = mask.shape
    start = f"{line}[".encode()
    text = np.empty((height, len(start) + 2 * width + 1), np.uint8)  # start, a digit and a comma for each pixel, "],"
    text[:, : len(start)] = np.frombuffer(start, np.uint8)
    digits = text[:, len(start) : -2]
    digits[:, ::2] = mask + np.uint8(ord("0"))
    digits[:, 1::2] = ord(",")
    text[:, -2:] = np.frombuffer(b"],", np.uint8)
    return b"[" + text.tobytes()[:-1] + f"{closing}]".encode()
