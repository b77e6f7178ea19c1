"""COCO's JSON: the form in which maskline stores data sets, and the hub of all conversions.

Everything valid is read: polygons of several parts, RLE in both forms, crowds, images without annotations, integer and
string ids, images in sub-folders. Anything invalid becomes a fault, and reading continues.
https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from maskline._files import replace_file
from maskline._progress import track
from maskline._wording import counted, short
from maskline.data.accounting import first_names, moved_faults
from maskline.data.crowds import TRUE
from maskline.data.dataset import Annotation, Category, Dataset, Extra, Id, ImageRecord
from maskline.data.faults import Count, Fault
from maskline.data.file_access import relative_name
from maskline.data.formats.coco import values as values
from maskline.data.formats.coco.values import Json
from maskline.data.image_headers import image_size
from maskline.data.safe_json import dump_json, encode_json, escape_surrogates, is_valid_unicode
from maskline.data.shapes import Polygons, Ring, Segmentation, area, crop
from maskline.data.source import Located
from maskline.errors import InputError, ParameterError
from maskline.inputs import MAX_PIXELS
from maskline.masks import Window

Locate: TypeAlias = Callable[[Sequence[str]], Located]  # from file names to the files

_LISTS = ("images", "annotations", "categories")
_REFERENCES = {"images": "image_id", "categories": "category_id"}  # keys of annotations, by the list they refer to
_OF_IMAGE = ("id", "file_name", "width", "height")
_OF_ANNOTATION = ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd")


class CocoFile(NamedTuple):
    """Content of a file: the usable part, the faults, and the number of records in all."""

    dataset: Dataset
    faults: list[Fault]
    listed: Count


def read(path: Path, folder: Path | Locate, split: str) -> CocoFile:
    """Read a file of one split; invalid records are left out and reported as faults.

    Image files are opened only for their size, if the record has no valid one.

    Args:
        path: the JSON file.
        folder: the folder that image file names are relative to, or a function that locates the files.
        split: its name.

    Raises:
        DatasetNotFoundError: the file does not exist.
        DatasetError: it is not JSON, or not an object with the lists ``images``, ``annotations`` and ``categories``.
    """
    return _Reader(path, split, values.parse_json(path)).read(folder)


def write(dataset: Dataset, path: Path) -> None:
    """Write a data set so that `read` restores it. Raises OutputError, leaving files unchanged.

    Missing boxes and areas are computed from the masks. Values that JSON lacks, such as NaN, become null.
    """

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.writelines(map(encode_json, _chunks(dataset)))

    replace_file(path, save)


# ---- reading


class _Reader:
    """Reader of one file: its records, and the faults so far.

    Attributes:
        names: image names for messages, by id.
        mask_sizes: by image id, the sizes ``(height, width)`` stated by its RLE masks; includes None for invalid ones.
        unused: by list, ids of images and categories with an unusable record; their annotations are left out with them.
        ambiguous: by list, ids that different records share; each of their annotations is a fault.
    """

    def __init__(self, path: Path, split: str, content: Json) -> None:
        self.path = path
        self.split = split
        self.content = content
        if split == "test" and "images" in content:
            content.setdefault("annotations", [])  # benchmarks publish test splits without it
        self.images, self.annotations, self.categories = (values.records(content, key, path) for key in _LISTS)
        self.faults: list[Fault] = []
        self.names: dict[Id, str] = {}
        self.other_types: dict[str, list[tuple[Id | None, Id | None]]] = {}  # by list, as given and as meant
        self.unused: dict[str, set[Id]] = {"images": set(), "categories": set()}
        self.ambiguous: dict[str, set[Id]] = {"images": set(), "categories": set()}
        self.refused: dict[tuple[str, Id], int] = {}  # indices of faults, by list and id
        lists = {"images": self.images, "categories": self.categories}
        self.ids = {kind: values.Ids(values.id_of(record, "id") for record in found) for kind, found in lists.items()}
        self.uses = {
            kind: Counter(self.ids[kind].meant(values.id_of(record, key)) for record in self.annotations)
            for kind, key in _REFERENCES.items()
        }
        self.mask_sizes: dict[Id | None, set[tuple[int, int] | None]] = {}
        for record in self.annotations:
            shape = values.value_of(record, "segmentation")
            if isinstance(shape, dict):
                key = self.ids["images"].meant(values.id_of(record, "image_id"))
                self.mask_sizes.setdefault(key, set()).add(values.size(shape))

    def read(self, folder: Path | Locate) -> CocoFile:
        if isinstance(folder, Path):
            located = Located(folder, {})
        else:
            located = folder([name for name in map(file_name, self.images) if name is not None])
        self.faults += moved_faults(self.split, self.path.name, located.moved)
        images, duplicates = self.read_images(located)
        categories, known = self.read_categories()
        annotations = self.read_annotations({image.id: image for image in images}, known, duplicates)
        info = self.extra(self.content, _LISTS, "the file")
        dataset = Dataset(self.split, located.folder, images, annotations, categories, self.path, info)
        return CocoFile(dataset, self.faults, Count(len(self.images), len(self.annotations)))

    def fault(
        self,
        code: str,
        what: str,
        image_id: Id | None = None,
        annotation_id: Id | None = None,
        others: Iterable[str] = (),
        *,
        lost: bool = False,
    ) -> None:
        if image_id in self.names:
            what = f"{what} (image {self.names[image_id]})"
        pairs = tuple((self.split, name) for name in others)
        self.faults.append(Fault(code, self.split, self.path.name, what, image_id, annotation_id, pairs, int(lost)))

    def refuse(self, code: str, kind: str, key: Id | None, what: str, others: Iterable[str] = ()) -> None:
        """Add a fault for an unusable image or category, with the number of annotations left out with it."""
        if key is not None:
            self.unused[kind].add(key)
            uses = self.uses[kind][key]
            what = f"{what}; {counted(uses, 'annotation')} of it left out too" if uses else what
            self.refused.setdefault((kind, key), len(self.faults))
        self.fault(code, what, key if kind == "images" else None, None, others)

    def extra(
        self, record: Json, known: Iterable[str], who: str, image_id: Id | None = None, key: Id | None = None
    ) -> Extra:
        found, odd = values.extra(record, known)
        if odd:
            self.fault("not-json", f"{who} has NaN, Infinity or similar in {', '.join(map(short, odd))}", image_id, key)
        return found

    # -- categories

    def read_categories(self) -> tuple[tuple[Category, ...], set[Id]]:
        """The categories with unique ids, and the ids that are unambiguous in the file."""
        found: list[Category] = []
        for place, record in enumerate(self.categories):
            category = self.category(place, record)
            if category is not None:
                found.append(category)
        by_id: dict[Id, dict[str, None]] = {}
        for category in found:
            by_id.setdefault(category.id, {})[category.name] = None
        for key, names in by_id.items():
            if len(names) > 1 or key in self.unused["categories"]:
                self.ambiguous["categories"].add(key)
                which = " and ".join(repr(name) for name in names)
                which = f"categories {which}" if len(names) > 1 else f"category {which} and one that can't be read"
                uses = self.uses["categories"][key]
                self.fault("category-id", f"{which} both have the id {key!r}, with {counted(uses, 'annotation')}")
        return self.listed_once(found), by_id.keys() - self.ambiguous["categories"]

    def category(self, place: int, record: Any) -> Category | None:
        key, name = values.id_of(record, "id"), values.value_of(record, "name")
        if key is None or not isinstance(name, str) or not name.strip():
            self.refuse("record", "categories", key, f"category {place} is {short(record)}: expected an id and a name")
            return None
        if not is_valid_unicode(name):
            self.fault("name", f"category {key!r} is named {name!r}")
        return Category(key, escape_surrogates(name), self.extra(record, ("id", "name"), f"category {key!r}"))

    def listed_once(self, categories: Sequence[Category]) -> tuple[Category, ...]:
        """Drop repeated categories, and give new ids to those whose id an earlier one has."""
        fresh = count(max((c.id for c in categories if isinstance(c.id, int)), default=0) + 1)
        found: dict[Id, Category] = {}
        names: dict[str, Id] = {}
        for category in categories:
            key = category.id
            if key in found and found[key].name == category.name:
                self.fault("category-name", f"category {key!r} ({category.name!r}) is listed twice")
                continue
            if category.name in names:
                what = f"categories {names[category.name]!r} and {key!r} are both named {category.name!r}"
                self.fault("category-name", what)
            if key in found:
                category = replace(category, id=next(fresh))
            names[category.name] = key
            found[category.id] = category
        return tuple(found.values())

    # -- images

    def read_images(self, located: Located) -> tuple[tuple[ImageRecord, ...], dict[Id, Id]]:
        """The images, and for each later record of the same file its id, with that of the first record."""
        by_id: dict[Id, list[ImageRecord]] = {}
        for place, record in enumerate(self.images):
            image = self.image(place, record, located)
            if image is not None:
                by_id.setdefault(image.id, []).append(image)
        files: dict[str, ImageRecord] = {}
        duplicates: dict[Id, Id] = {}
        for key, same in by_id.items():
            image = self.unique_image(key, same)
            if image is None:
                continue
            first = files.setdefault(image.file_name, image)
            if first is not image:
                self.merge(first, image, duplicates)
        return tuple(files.values()), duplicates

    def unique_image(self, key: Id, same: Sequence[ImageRecord]) -> ImageRecord | None:
        """The image with an id; None if records with that id differ."""
        names = list(dict.fromkeys(image.file_name for image in same))
        sizes = {image.size for image in same}
        if len(names) > 1 or len(sizes) > 1 or key in self.unused["images"]:
            self.ambiguous["images"].add(key)
            which = " and ".join(map(repr, names)) + ("" if len(names) > 1 else " and another record of an image")
            uses = self.uses["images"][key]
            self.fault("image-id", f"{which} have the id {key!r}, with {counted(uses, 'annotation')}", key, None, names)
            return None
        self.names[key] = names[0]
        if len(same) > 1:
            self.fault("image-listed-twice", f"image {key!r} is listed {len(same)} times", key)
        return same[0]

    def merge(self, first: ImageRecord, image: ImageRecord, duplicates: dict[Id, Id]) -> None:
        """Assign the annotations of another record of a file to the first, if both records have the same size."""
        what = f"images {first.id!r} and {image.id!r} are both the file {image.file_name!r}"
        if image.size == first.size:
            duplicates[image.id] = first.id
            self.fault("image-listed-twice", what, first.id)
        else:
            sizes = f"{first.width} x {first.height} and {image.width} x {image.height}"
            self.refuse("record", "images", image.id, f"{what}, but with {sizes} pixels")

    def image(self, place: int, record: Any, located: Located) -> ImageRecord | None:
        key, name = values.id_of(record, "id"), file_name(record)
        if key is None or name is None:
            what = f"image {place} is {short(record)}: expected an id and a file_name"
            self.refuse("record", "images", key, what, [] if name is None else [name])
            return None
        inside = located.paths.get(name) or relative_name(name)
        if inside is None or not is_valid_unicode(name):
            code = "name" if not is_valid_unicode(name) else "image-path"
            self.refuse(code, "images", key, f"image {key!r} has the file_name {short(name)}", [name])
            return None
        if name in located.rivals:
            rivals = first_names(located.rivals[name])
            what = f"image {key!r}: {short(name)} could be any of {rivals}: name one folder (--images)"
            self.fault("image-missing", what, key)
        size = self.size(record, key, inside, located.folder)
        if size is None:
            return None
        return ImageRecord(key, inside, size[1], size[0], self.extra(record, _OF_IMAGE, f"image {key!r}", key))

    def size(self, record: Json, key: Id, name: str, folder: Path) -> tuple[int, int] | None:
        """``(height, width)`` as stated; from the file if that is invalid, or all masks are RLE of the file's size."""
        width, height = (values.as_integer(record.get(side)) for side in ("width", "height"))
        what = f"image {key!r} ({short(name)})"
        if width is not None and height is not None and min(width, height) > 0 and width * height <= MAX_PIXELS:
            swapped = (width, height)
            if width == height or self.mask_sizes.get(key) != {swapped} or _real_size(folder / name) != swapped:
                return height, width
            self.fault("image-size", f"{what} is listed as {width} x {height}, the file is {height} x {width}", key)
            return swapped
        given = f"width {short(record.get('width'))} and height {short(record.get('height'))}"
        what = f"{what} has {given}: expected pixels, at most {MAX_PIXELS} in all"
        real = _real_size(folder / name)
        if real is None:
            self.refuse("record", "images", key, what, [name])
        else:
            self.fault("image-size", f"{what}; the file is {real[1]} x {real[0]}", key)
        return real

    # -- annotations

    def read_annotations(
        self, images: Mapping[Id, ImageRecord], categories: set[Id], duplicates: Mapping[Id, Id]
    ) -> tuple[Annotation, ...]:
        found: list[Annotation] = []
        for place, record in enumerate(self.annotations):
            self.annotations[place] = None  # frees records that have been read: they take as much memory as the result
            key = values.id_of(record, "id") if isinstance(record, dict) and "id" in record else place + 1
            image_id, category_id = (self.reference(record, kind) for kind in _REFERENCES)
            if key is None or image_id is None or category_id is None:
                what = f"annotation {place} is {short(record)}: expected an id, an image_id and a category_id"
                self.fault("record", what, lost=True)
                continue
            image = images.get(duplicates.get(image_id, image_id))
            if self.belongs(key, image_id, category_id, image, categories) and image is not None:
                segmentation = self.segmentation(record, image, key)
                if segmentation is not None:
                    found.append(self.annotation(record, key, image.id, category_id, segmentation))
        for kind, pairs in self.other_types.items():
            given, meant = pairs[0]
            self.fault(
                "id-type", f"{counted(len(pairs), 'annotation')}: {_REFERENCES[kind]} {given!r} is read as {meant!r}"
            )
        return self.numbered(found)

    def reference(self, record: Any, kind: str) -> Id | None:
        """The id that an annotation refers to, with the type it has in the image or category."""
        given = values.id_of(record, _REFERENCES[kind])
        meant = self.ids[kind].meant(given)
        if meant != given:
            self.other_types.setdefault(kind, []).append((given, meant))
        return meant

    def belongs(self, key: Id, image_id: Id, category_id: Id, image: ImageRecord | None, categories: set[Id]) -> bool:
        """Whether image and category are known. If one was refused, the loss is counted in the fault of that record."""
        known = None if image is None else image.id
        if image_id in self.ambiguous["images"]:
            self.fault("ambiguous", f"annotation {key!r} is of image {image_id!r}", None, key, lost=True)
        elif category_id in self.ambiguous["categories"]:
            self.fault("ambiguous", f"annotation {key!r} has category {category_id!r}", known, key, lost=True)
        elif image is None and image_id not in self.unused["images"]:
            self.fault("unknown-image", f"annotation {key!r} is of image {image_id!r}", None, key, lost=True)
        elif category_id not in categories and category_id not in self.unused["categories"]:
            self.fault("unknown-category", f"annotation {key!r} has category {category_id!r}", known, key, lost=True)
        elif image is not None and category_id in categories:
            return True
        else:
            place = self.refused[("images", image_id) if image is None else ("categories", category_id)]
            self.faults[place] = replace(self.faults[place], lost=self.faults[place].lost + 1)
        return False

    def annotation(
        self, record: Json, key: Id, image_id: Id, category_id: Id, segmentation: Segmentation
    ) -> Annotation:
        """An annotation without those values that have the wrong type; these are faults."""
        who = f"annotation {key!r}"
        box, area_, crowd = (record.get(name) for name in ("bbox", "area", "iscrowd"))
        if box is not None and values.box(box) is None:
            what = f"{who} has the bbox {short(box)}: expected 4 numbers (x y width height)"
            self.fault("box-mismatch", what, image_id, key)
        if area_ is not None and not values.is_number(area_):
            self.fault("area-mismatch", f"{who} has the area {short(area_)}: expected a number", image_id, key)
        if crowd is not None and crowd not in (0, 1):
            self.fault("crowd", f"{who} has iscrowd {short(crowd)}: expected 0 or 1", image_id, key)
            crowd = str(crowd).strip().lower() in TRUE
        return Annotation(
            id=key,
            image_id=image_id,
            category_id=category_id,
            segmentation=segmentation,
            box=values.box(box),
            area=float(area_) if values.is_number(area_) else None,
            crowd=bool(crowd),
            extra=self.extra(record, _OF_ANNOTATION, who, image_id, key),
        )

    def numbered(self, annotations: Sequence[Annotation]) -> tuple[Annotation, ...]:
        """Give new ids to annotations whose id an earlier one has."""
        taken = {annotation.id for annotation in annotations}
        if len(taken) == len(annotations):
            return tuple(annotations)
        fresh = count(max((key for key in taken if isinstance(key, int)), default=0) + 1)
        found: dict[Id, Annotation] = {}
        for annotation in annotations:
            key = annotation.id
            if key in found:
                self.fault("annotation-id", f"annotation {key!r} is listed twice", annotation.image_id, key)
                key = next(fresh)
                annotation = replace(annotation, id=key)
            found[key] = annotation
        return tuple(found.values())

    # -- shapes

    def segmentation(self, record: Json, image: ImageRecord, key: Id) -> Segmentation | None:
        given = record.get("segmentation")
        if isinstance(given, values.Rings):
            return given.rings
        if isinstance(given, dict):
            return self.run_lengths(given, image, key)
        if isinstance(given, list) and given:
            return self.repaired(given, image, key)
        self.fault("no-mask", f"annotation {key!r} has the segmentation {short(given)}", image.id, key, lost=True)
        return None

    def repaired(self, given: list[Any], image: ImageRecord, key: Id) -> Polygons | None:
        """The valid polygons of a list with invalid ones, or of a list that is itself one polygon."""
        single = values.flat_ring(given)
        single = values.ring_of_points(given) if single is None else single
        plain = [values.flat_ring(flat) for flat in given]
        rings = [single] if single is not None else list(map(_ring, given))
        broken = [place for place, ring in enumerate(rings) if ring is None]
        good = tuple(ring for ring in rings if ring is not None)
        if len(good) > sum(ring is not None for ring in plain):
            self.fault("polygon-flat", f"annotation {key!r} has the segmentation {short(given)}", image.id, key)
        if broken:
            more = f", and {len(broken) - 1} more are not polygons" if len(broken) > 1 else ""
            what = f"polygon {broken[0] + 1} of {len(given)} is {short(given[broken[0]])}{more}"
            self.fault("polygon-broken", f"annotation {key!r}: {what}", image.id, key, lost=not good)
        return good or None

    def run_lengths(self, given: Json, image: ImageRecord, key: Id) -> str | None:
        try:
            return values.compressed_rle(given, image.size)
        except ParameterError as error:
            self.fault("rle-broken", f"annotation {key!r}: {error}", image.id, key, lost=True)
            return None


def file_name(record: Any) -> str | None:
    """The file name of an image; LVIS has only its URL."""
    name, url = values.value_of(record, "file_name"), values.value_of(record, "coco_url")
    if isinstance(name, str) and name.strip():
        return name
    return urlsplit(url).path.strip("/") or None if isinstance(url, str) else None


def _ring(given: Any) -> Ring | None:
    """A polygon as a flat list, or as a list of points."""
    ring = values.flat_ring(given)
    return values.ring_of_points(given) if ring is None else ring


def _real_size(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except InputError:
        return None


# ---- writing


def _chunks(dataset: Dataset) -> Iterator[str]:
    """The file in pieces, one record per line: readable, diffable, and light on memory."""
    yield "{\n"
    for key, value in dataset.info.items():
        yield f"{dump_json(key)}: {dump_json(value)},\n"
    yield from _list("categories", ({"id": c.id, "name": c.name, **c.extra} for c in dataset.categories))
    yield ",\n"
    yield from _list("images", map(_image_record, dataset.images))
    yield ",\n"
    annotations = track(dataset.annotations, f"annotations of {dataset.split}", len(dataset.annotations))
    yield from _list("annotations", (_annotation_record(a, dataset.by_id[a.image_id]) for a in annotations))
    yield "\n}\n"


def _list(key: str, records: Iterable[Json]) -> Iterator[str]:
    yield f'"{key}": ['
    for place, record in enumerate(records):
        yield f"{',' if place else ''}\n{dump_json(record)}"
    yield "\n]"


def _image_record(image: ImageRecord) -> Json:
    return {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height, **image.extra}


def _annotation_record(annotation: Annotation, image: ImageRecord) -> Json:
    shape = annotation.segmentation
    box, pixels = annotation.box, annotation.area
    if box is None:
        found = crop(shape, image.size)
        window = Window(0, 0, 0, 0) if found is None else found[1]
        box = (*window.origin, window.width, window.height)
    return {
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": annotation.category_id,
        "bbox": list(box),
        "area": area(shape, image.size) if pixels is None else pixels,
        "iscrowd": int(annotation.crowd),
        "segmentation": {"size": list(image.size), "counts": shape}
        if isinstance(shape, str)
        else [ring.ravel().tolist() for ring in shape],
        **annotation.extra,
    }
