"""Statistics of a split: counts, areas, sizes, in one pass over the annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskline.data.dataset import Annotation, Dataset
from maskline.data.shapes import area
from maskline.instances import IntArray

#: Areas in pixels from which an instance is medium, and large, for COCO (https://cocodataset.org/#detection-eval).
MEDIUM, LARGE = 32**2, 96**2
SIZE_CLASSES = ("small", "medium", "large")


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Statistics of one split. Crowd regions are counted separately and excluded from all other numbers.

    Attributes:
        split: its name.
        images: as listed.
        background: images without any annotation.
        crowds: crowd regions.
        names: class names by label; may repeat a name if the data set does.
        class_images: (C,) int64, images with each class.
        labels: (N,) int64, label of each instance, in the order of the file.
        areas: (N,) int64, pixels of each mask.
        per_image: (images,) int64, instances of each image.
        image_sizes: images by ``(width, height)``, the most frequent first.
        run_lengths: instances with an RLE mask; the others are polygons.
        several_parts: instances of two or more polygons.
    """

    split: str
    images: int
    background: int
    crowds: int
    names: tuple[str, ...]
    class_images: IntArray
    labels: IntArray
    areas: IntArray
    per_image: IntArray
    image_sizes: Mapping[tuple[int, int], int]
    run_lengths: int
    several_parts: int

    @property
    def instances(self) -> int:
        """N, the number of instances."""
        return len(self.areas)

    @property
    def class_instances(self) -> IntArray:
        """(C,) int64, instances of each class."""
        return np.bincount(self.labels, minlength=len(self.names)).astype(np.int64)

    @property
    def sizes(self) -> dict[str, int]:
        """Instances by COCO's size class."""
        counts = np.bincount(np.digitize(self.areas, (MEDIUM, LARGE)), minlength=3)
        return dict(zip(SIZE_CLASSES, counts.tolist(), strict=True))

    def by_name(self) -> dict[str, tuple[int, int]]:
        """``(instances, images)`` by class name, summed over classes with the same name."""
        found: dict[str, tuple[int, int]] = {}
        counts = zip(self.class_instances.tolist(), self.class_images.tolist(), strict=True)
        for name, (instances, images) in zip(self.names, counts, strict=True):
            before = found.get(name, (0, 0))
            found[name] = before[0] + instances, before[1] + images
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-serializable values."""
        counts = zip(self.names, self.class_instances.tolist(), self.class_images.tolist(), strict=True)
        return {
            "images": self.images,
            "background_images": self.background,
            "instances": self.instances,
            "crowd_regions": self.crowds,
            "instances_per_image": _spread(self.per_image),
            "area": _spread(self.areas),
            "sizes": self.sizes,
            "polygons": self.instances - self.run_lengths,
            "polygons_of_several_parts": self.several_parts,
            "run_lengths": self.run_lengths,
            "image_sizes": [{"width": w, "height": h, "images": n} for (w, h), n in self.image_sizes.items()],
            "classes": [{"name": name, "instances": n, "images": m} for name, n, m in counts],
        }


def statistics(dataset: Dataset, areas: IntArray | None = None) -> Statistics:
    """Compute the statistics of a split.

    Args:
        dataset: the split.
        areas: (annotations,) pixels of each mask, if known; computing them takes most of the time.
    """
    if areas is None:
        sizes_of = dataset.by_id
        areas = _array(area(a.segmentation, sizes_of[a.image_id].size) for a in dataset.annotations)
    single = [annotation for annotation in dataset.annotations if not annotation.crowd]
    labels = [dataset.labels[annotation.category_id] for annotation in single]
    annotated = {annotation.image_id for annotation in dataset.annotations}
    per_image = Counter(annotation.image_id for annotation in single)
    occurrences = {(annotation.image_id, label) for annotation, label in zip(single, labels, strict=True)}
    sizes = Counter((image.width, image.height) for image in dataset.images)
    return Statistics(
        split=dataset.split,
        images=len(dataset.images),
        background=sum(image.id not in annotated for image in dataset.images),
        crowds=len(dataset.annotations) - len(single),
        names=tuple(dataset.names),
        class_images=_counts((label for _, label in occurrences), len(dataset.categories)),
        labels=_array(labels),
        areas=areas[[not annotation.crowd for annotation in dataset.annotations]],
        per_image=_array(per_image[image.id] for image in dataset.images),
        image_sizes=dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        run_lengths=sum(isinstance(annotation.segmentation, str) for annotation in single),
        several_parts=sum(map(_has_several_parts, single)),
    )


def class_names(splits: Iterable[Statistics]) -> list[str]:
    """The class names of all splits, each once, in the order of the first split that has it."""
    return list(dict.fromkeys(name for split in splits for name in split.names))


def by_frequency(splits: Mapping[str, Statistics], names: Sequence[str]) -> list[str]:
    """Class names by descending instances in ``train``, then in all splits, then as given."""
    counts = {split: numbers.by_name() for split, numbers in splits.items()}

    def key(name: str) -> tuple[int, int]:
        everywhere = sum(count.get(name, (0, 0))[0] for count in counts.values())
        return -counts.get("train", {}).get(name, (0, 0))[0], -everywhere

    return sorted(names, key=key)


def _has_several_parts(annotation: Annotation) -> bool:
    return not isinstance(annotation.segmentation, str) and len(annotation.segmentation) > 1


def _array(values: Iterable[int]) -> IntArray:
    return np.fromiter(values, np.int64)


def _counts(values: Iterable[int], length: int) -> IntArray:
    return np.bincount(_array(values), minlength=length).astype(np.int64)


def _spread(values: IntArray) -> dict[str, float]:
    """Minimum, median, mean and maximum; zeros if there are no values."""
    if not len(values):
        return {"min": 0, "median": 0, "mean": 0, "max": 0}
    median, mean = round(float(np.median(values)), 2), round(float(values.mean()), 2)
    return {"min": int(values.min()), "median": median, "mean": mean, "max": int(values.max())}
