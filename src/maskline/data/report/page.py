"""Write the report on a data set: a self-contained HTML file with statistics, faults and sample masks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np

from maskline import __version__
from maskline._checks import check_count
from maskline._files import replace_file
from maskline._templates import template
from maskline.data.dataset import Annotation, Dataset, ImageRecord
from maskline.data.faults import KINDS, LEAKS, Fault, Kind, Reading, ordered
from maskline.data.file_access import relative_name
from maskline.data.report import charts
from maskline.data.report.thumbnails import FAULTY, Shot, Thumbnail, thumbnails
from maskline.data.stats import SIZE_CLASSES, Statistics, by_frequency, class_names, statistics
from maskline.render import PALETTE

FAULTS_SHOWN = 20  # of a kind
OTHERS_SHOWN = 3  # other images of a fault
CLASSES_SHOWN = 120  # rows of the class chart; the rest is collapsed
MOST_SAMPLES = 100  # of a class
SAMPLES_IN_ALL = 640  # with very many classes, fewer samples per class, but at least one
SAMPLE_PIXELS = 13_000_000  # of all samples in total: 3 MB
SAMPLE_EDGES = 96, 320  # pixels: smallest, largest
FAULT_EDGE = 224  # pixels
COMMON_SIZES = 3  # image sizes named in the summary

#: Faults that make an image unreliable: it is not used for samples.
_UNRELIABLE = ("image-missing", "image-unreadable", "image-size", "image-turned", "image-rotation")
#: Faults shown with all masks of the image as listed.
_MISPLACED = ("image-size", "image-turned", "image-rotation", "image-exif")

Names: TypeAlias = Mapping[str, Dataset]


@dataclass(frozen=True, slots=True)
class Bar:
    """A split's count of a class: ``width`` is in percent of the longest bar."""

    split: str
    instances: int
    images: int
    width: float


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class in the chart."""

    name: str
    colour: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class InstanceSample:
    """A sample instance; ``pixels`` is the area of its mask."""

    thumbnail: Thumbnail
    split: str
    file: str
    pixels: int


@dataclass(frozen=True, slots=True)
class Gallery:
    """The samples of a class."""

    name: str
    colour: str
    instances: int
    samples: tuple[InstanceSample, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """A fault with its images and those of duplicates, each with a caption."""

    fault: Fault
    images: tuple[tuple[Thumbnail, str], ...]


@dataclass(frozen=True, slots=True)
class FaultGroup:
    """The faults of a kind."""

    kind: Kind
    count: int
    cards: tuple[Card, ...]

    @property
    def hidden(self) -> int:
        """Number of faults that are not shown."""
        return self.count - len(self.cards)


@dataclass(frozen=True, slots=True)
class SizeShare:
    """Instances of a size class in a split, and their share in percent."""

    name: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A split in the table."""

    source: str
    numbers: Statistics
    shares: tuple[SizeShare, ...]
    sizes: tuple[str, ...]
    more_sizes: int


def write_report(
    reading: Reading,
    path: Path,
    *,
    title: str,
    samples_per_class: int = 4,
    numbers: Mapping[str, Statistics] | None = None,
    strict: bool = False,
) -> None:
    """Write the report.

    Args:
        reading: the data set and its faults.
        path: the HTML file; its folder is created if missing.
        title: name of the data set.
        samples_per_class: largest number of sample instances per class, 1 to 100.
        numbers: statistics of all splits, if already known.
        strict: warnings fail the check too.

    Raises:
        ParameterError: ``samples_per_class`` is out of range.
        OutputError: the file can't be written.
    """
    check_count(samples_per_class, "samples_per_class", MOST_SAMPLES)
    numbers = numbers or {split: statistics(dataset) for split, dataset in reading.splits.items()}
    names = class_names(numbers.values())
    order = by_frequency(numbers, names)
    errors = len(reading.errors)
    text = template("maskline.data.report", "page.html", {"percent": _percent}).render(
        title=title,
        date=datetime.now().astimezone(),
        version=__version__,
        errors=errors,
        warnings=len(reading.faults) - errors,
        passed=not (reading.faults if strict else errors),
        splits={split: charts.split_colour(split, place) for place, split in enumerate(numbers)},
        summaries={split: _summary(reading.splits[split], numbers[split]) for split in numbers},
        classes=_class_rows(numbers, names, order),
        classes_shown=CLASSES_SHOWN,
        sizes=charts.size_columns(numbers),
        crowding=charts.crowding_columns(numbers),
        groups=_fault_groups(reading),
        prominent=LEAKS,
        clean=[kind.title for kind in KINDS.values() if kind.code not in {fault.code for fault in reading.faults}],
        galleries=_galleries(reading, numbers, names, order, samples_per_class),
    )
    replace_file(
        path, lambda file: file.write_bytes(text.encode("utf-8", "replace"))
    )  # JSON can contain lone surrogates


def _percent(share: float) -> str:
    """A percentage in few digits; only 0 becomes ``0%``."""
    return f"{share:.0f}%" if share >= 10 or not share else "<1%" if share < 1 else f"{share:.1f}%".replace(".0%", "%")


# ---- numbers


def _summary(dataset: Dataset, numbers: Statistics) -> Summary:
    total = max(1, numbers.instances)
    shares = tuple(SizeShare(name, numbers.sizes[name], 100 * numbers.sizes[name] / total) for name in SIZE_CLASSES)
    sizes = [f"{w} × {h} ({count:,})" for (w, h), count in numbers.image_sizes.items()]
    return Summary(dataset.source.name, numbers, shares, tuple(sizes[:COMMON_SIZES]), len(sizes[COMMON_SIZES:]))


def _class_rows(numbers: Mapping[str, Statistics], names: Sequence[str], order: Sequence[str]) -> list[ClassRow]:
    counts = {split: split_numbers.by_name() for split, split_numbers in numbers.items()}
    longest = max((pair[0] for count in counts.values() for pair in count.values()), default=0) or 1
    colours = _colours(names)
    rows = []
    for name in order:
        pairs = {split: count.get(name, (0, 0)) for split, count in counts.items()}
        bars = tuple(Bar(split, found, images, 100 * found / longest) for split, (found, images) in pairs.items())
        rows.append(ClassRow(name, colours[name], bars))
    return rows


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Class colours, the same in all images, as ``#rrggbb``."""
    return {name: "#{:02x}{:02x}{:02x}".format(*PALETTE[place % len(PALETTE)]) for place, name in enumerate(names)}


# ---- samples


@dataclass(frozen=True, slots=True)
class _Candidate:
    split: str
    annotation: Annotation
    pixels: int


def _galleries(
    reading: Reading, numbers: Mapping[str, Statistics], names: Sequence[str], order: Sequence[str], samples: int
) -> list[Gallery]:
    """Sample instances of all sizes for each class, from different images if possible, largest first."""
    samples = min(samples, max(1, SAMPLES_IN_ALL // max(1, len(names))))
    candidates = _candidates(reading, numbers)
    chosen = {name: _spread(candidates.get(name, []), samples) for name in order}
    flat = [(name, candidate) for name, found in chosen.items() for candidate in found]
    edge = int(np.clip(math.isqrt(SAMPLE_PIXELS // max(1, len(flat))), *SAMPLE_EDGES))
    colours = _colours(names)
    shots = [_sample_shot(reading.splits[candidate.split], candidate, edge, colours[name]) for name, candidate in flat]
    drawn: dict[str, list[InstanceSample]] = {name: [] for name in order}
    for (name, candidate), thumbnail in zip(flat, thumbnails(shots), strict=True):
        if thumbnail is not None:
            file = reading.splits[candidate.split].by_id[candidate.annotation.image_id].file_name
            drawn[name].append(InstanceSample(thumbnail, candidate.split, file, candidate.pixels))
    counts = [split_numbers.by_name() for split_numbers in numbers.values()]
    return [
        Gallery(name, colours[name], sum(count.get(name, (0, 0))[0] for count in counts), tuple(found))
        for name, found in drawn.items()
        if found
    ]


def _candidates(reading: Reading, numbers: Mapping[str, Statistics]) -> dict[str, list[_Candidate]]:
    """Non-empty instances in reliable images, by class name."""
    bad = {(fault.split, fault.image_id) for fault in reading.faults if fault.code in _UNRELIABLE}
    found: dict[str, list[_Candidate]] = {}
    for split, dataset in reading.splits.items():
        single = (annotation for annotation in dataset.annotations if not annotation.crowd)
        for annotation, pixels in zip(single, numbers[split].areas.tolist(), strict=True):
            if pixels and (split, annotation.image_id) not in bad:
                name = dataset.names[dataset.labels[annotation.category_id]]
                found.setdefault(name, []).append(_Candidate(split, annotation, pixels))
    return found


def _spread(candidates: Sequence[_Candidate], samples: int) -> list[_Candidate]:
    """One candidate per size quantile, near its middle, preferably from a new image and split."""
    by_size = sorted(candidates, key=lambda candidate: -candidate.pixels)
    groups = np.array_split(np.arange(len(by_size)), max(1, min(samples, len(by_size))))
    used: set[object] = set()
    chosen = []
    for group in groups if by_size else ():
        middle = float(group.mean())
        place = min(group.tolist(), key=lambda place: (*_seen(by_size[place], used), abs(place - middle)))
        chosen.append(by_size[place])
        used |= {by_size[place].split, _image(by_size[place])}
    return chosen


def _seen(candidate: _Candidate, used: set[object]) -> tuple[bool, bool]:
    return _image(candidate) in used, candidate.split in used


def _image(candidate: _Candidate) -> tuple[str, object]:
    return candidate.split, candidate.annotation.image_id


def _sample_shot(dataset: Dataset, candidate: _Candidate, edge: int, colour: str) -> Shot:
    focus = candidate.annotation
    image = dataset.by_id[focus.image_id]
    others = [annotation for annotation in dataset.of(image) if annotation is not focus]
    red, green, blue = bytes.fromhex(colour[1:])
    return Shot(dataset.path(image), edge, image, focus, others, (blue, green, red))


# ---- faults


def _fault_groups(reading: Reading) -> list[FaultGroup]:
    """Faults by kind, in the order of reports."""
    by_code: dict[str, list[Fault]] = {}
    for fault in ordered(reading.faults):
        by_code.setdefault(fault.code, []).append(fault)
    shown = [fault for found in by_code.values() for fault in found[:FAULTS_SHOWN]]
    cards = iter(_cards(reading.splits, shown))
    return [
        FaultGroup(KINDS[code], len(found), tuple(next(cards) for _ in found[:FAULTS_SHOWN]))
        for code, found in by_code.items()
    ]


def _cards(splits: Names, faults: Sequence[Fault]) -> Iterator[Card]:
    shots = [list(_fault_shots(splits, fault)) for fault in faults]
    drawn = iter(thumbnails([shot for found in shots for shot, _ in found]))
    for fault, found in zip(faults, shots, strict=True):
        images = ((next(drawn), what) for _, what in found)
        yield Card(fault, tuple((thumbnail, what) for thumbnail, what in images if thumbnail is not None))


def _fault_shots(splits: Names, fault: Fault) -> Iterator[tuple[Shot, str]]:
    """The shots of a fault with captions: its image, and those of duplicates."""
    dataset = splits.get(fault.split)
    if dataset is None or fault.code in ("image-missing", "image-unreadable"):
        return
    image = _image_of(dataset, fault)
    if image is not None:
        yield _fault_shot(dataset, image, fault), f"{fault.split} · {image.file_name}"
    for split, name in fault.others[:OTHERS_SHOWN]:
        other = splits.get(split)
        inside = relative_name(name)
        if other is not None and inside is not None:
            yield Shot(other.folder / inside, FAULT_EDGE), f"{split} · {name}"


def _image_of(dataset: Dataset, fault: Fault) -> ImageRecord | None:
    if fault.image_id is not None:
        return dataset.by_id.get(fault.image_id)
    return next((image for image in dataset.images if image.file_name == fault.file), None)


def _fault_shot(dataset: Dataset, image: ImageRecord, fault: Fault) -> Shot:
    focus = _first(a for a in dataset.of(image) if fault.annotation_id is not None and a.id == fault.annotation_id)
    others = dataset.of(image) if fault.code in _MISPLACED else ()
    box = focus.box if focus is not None and fault.code == "box-mismatch" else None
    return Shot(dataset.path(image), FAULT_EDGE, image, focus, others, FAULTY, True, box)


def _first(annotations: Iterable[Annotation]) -> Annotation | None:
    return next(iter(annotations), None)
