"""QuPath: a GeoJSON file per image, with the same name, whose features are annotations, detections and cells.

Coordinates are pixels of the full image. The class of an object is its classification, or without one its type. https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from maskline._wording import short
from maskline.data.dataset import ImageRecord
from maskline.data.faults import Reading, UnusableError
from maskline.data.formats.assembly import OBJECT, Assembly, Sheet, as_dict, located
from maskline.data.formats.outlines import with_holes
from maskline.data.shapes import Segmentation, union
from maskline.data.source import Source

TITLE = "QuPath GeoJSON"

_NO_OBJECTS = ("tile", "tma_core", "root")  # types of objects that only partition an image
_IGNORED = "*"  # suffix of class names that QuPath ignores, such as Ignore*


def detect(source: Source) -> list[str]:
    """The GeoJSON files."""
    return source.of_kind("geojson")


def read(source: Source) -> Reading:
    """Read all files; the split of each is the one that its folder mentions. Images without a file are not read.

    Raises:
        DatasetError: there are no files, or none can be read.
    """
    assembly = Assembly(source)
    names = {file: str(PurePosixPath(file).with_suffix("")) for file in detect(source)}
    for sheet, name, path in located(assembly, names):
        with sheet.reading():
            _read_file(sheet, name, path)
    return assembly.reading("GeoJSON files with the names of images, as QuPath exports them")


def _read_file(sheet: Sheet, name: str, path: str | None) -> None:
    """Add the image of a file and its objects. Raises UnusableError if the file as a whole can't be read."""
    features = _features(sheet.json())
    image = sheet.image(name, path, annotations=len(features))
    if image is None:
        return
    unnamed = nuclei = 0
    for number, feature in enumerate(features):
        with sheet.losing(f"feature {number}", image):
            record = as_dict(feature, "it")
            properties = record.get("properties") or {}
            unnamed += not _class_of(as_dict(properties, "properties"))
            nuclei += record.get("nucleusGeometry") is not None
            _add(sheet, image, record, properties)
    if unnamed:
        what = f"{unnamed} of {len(features)} features without a classification: their class is the type of the object"
        sheet.fault("no-class", what, image)
    if nuclei:
        sheet.fault("shape-ignored", f"the nuclei in {nuclei} cells: the cells are read", image)


def _features(content: Any) -> list[Any]:
    """The features of a GeoJSON file. Raises UnusableError if it has no list of them."""
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if isinstance(content, list):
        return content
    raise UnusableError("file", f"has the features {short(content)}: expected a list")


def _add(sheet: Sheet, image: ImageRecord, feature: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
    """Add a feature to the data set. Raises UnusableError if QuPath ignores it, or it has no valid region."""
    kind, label = str(properties.get("objectType") or OBJECT), _class_of(properties)
    if kind.lower() in _NO_OBJECTS:
        raise UnusableError("shape-ignored", f"a {kind}")
    if label.endswith(_IGNORED):
        raise UnusableError("shape-ignored", f"its class is {label}, which QuPath ignores")
    geometry = as_dict(feature.get("geometry"), "geometry")
    sheet.add(image, label or kind, _region(geometry, image.size))


def _class_of(properties: Mapping[str, Any]) -> str:
    """The name of the classification, or an empty string."""
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = ": ".join(map(str, names)) if isinstance(names, list) else found.get("name")
    return found.strip() if isinstance(found, str) else ""


def _region(geometry: Mapping[str, Any], size: tuple[int, int]) -> Segmentation:
    """The mask of a polygon or multipolygon. Raises UnusableError for other geometries and for invalid coordinates."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        raise UnusableError("no-mask", f"a {kind} encloses no pixels of its own: expected Polygon, MultiPolygon")
    found = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(found, list) or not found or not all(isinstance(rings, list) and rings for rings in found):
        raise UnusableError("polygon-broken", f"its coordinates are {short(coordinates)}: expected lists of points")
    return union([with_holes(rings[0], rings[1:], size) for rings in found], size)
