"""PaddleX's step ``check_dataset``: convert and split if asked to, check, and write reports."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskline._checks import check_path
from maskline._files import AnyPath, replace_file
from maskline.data.categories import unify_categories
from maskline.data.check.run import check
from maskline.data.convert import convert_in_place
from maskline.data.dataset import Dataset
from maskline.data.faults import Reading
from maskline.data.formats.coco.layout import find_annotation_files
from maskline.data.options import Crowd, SplitConfig
from maskline.data.report import charts, demo, page
from maskline.data.safe_json import dump_json, encode_json
from maskline.data.source import Source
from maskline.data.split import split_in_place
from maskline.data.stats import class_names, statistics
from maskline.errors import DatasetError, DatasetNotFoundError

# PaddleX's words, to the letter: scripts look for them.
PASSED = "Check dataset passed !"
CONVERTED = "Convert dataset successfully !"
SPLIT = "Split dataset successfully !"
FOLDER = "check_dataset"
RESULTS = ("report.html", "faults.json", "histogram.png")  # in `FOLDER`, next to demo_img

logger = logging.getLogger("maskline")


class DatasetCheckError(DatasetError):
    """A data set has errors. ``details`` is what `check_dataset` would have returned."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


def check_dataset(
    dataset_dir: AnyPath,
    output: AnyPath,
    *,
    convert_from: str | None = None,
    split: SplitConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Check a data set in PaddleX's layout, optionally after converting and splitting it in place.

    Args:
        dataset_dir: the folder with ``annotations/instance_{train,val}.json`` and ``images/``.
        output: gets ``check_dataset/`` with ``report.html``, ``faults.json``, ``histogram.png`` and ``demo_img/``.
        convert_from: a format of `maskline.data.convert`, such as LabelMe.
        split: how to split it again; None leaves it as it is.
        seed: of the split that converting a data set without ``val`` needs.

    Returns:
        Content of ``check_dataset_result.json``; paths are relative to ``output``. ``train_samples`` and
        ``val_samples`` count annotations, as in PaddleX; images and instances have keys of their own.

    Raises:
        DatasetCheckError: the data set has errors; the reports are written all the same.
        DatasetError: there is nothing to check.
    """
    dataset_dir, output = check_path(dataset_dir, "dataset_dir"), check_path(output, "output")
    _clear(output)
    if convert_from is not None:
        convert_in_place(dataset_dir, convert_from, seed=seed)
        logger.info(CONVERTED)
    if split is not None:
        split_in_place(dataset_dir, split)
        logger.info(SPLIT)
    source = Source.of(dataset_dir)
    found = find_annotation_files(source)
    for name in ("train", "val"):
        if name not in found:
            root = (source.root / next(iter(found.values()))).parent
            both = "Ensure that both `instance_train.json` and `instance_val.json` exist in"
            raise DatasetNotFoundError(f"{root / f'instance_{name}.json'} does not exist. {both} {root}")
    reading, result = examine(dataset_dir, output)
    if reading.errors:
        first = reading.errors[0]
        summary = f"errors in the data set: {len(reading.errors)}, the first: {first.file}: {first.what}"
        raise DatasetCheckError(f"{summary}; all are in {output / FOLDER / 'report.html'}", result)
    logger.info(PASSED)
    return result


def examine(
    root: AnyPath,
    output: AnyPath,
    format_: str | None = None,
    images: AnyPath | None = None,
    *,
    crowd: Crowd | None = None,
    strict: bool = False,
) -> tuple[Reading, dict[str, Any]]:
    """Check a data set of any format and write the reports, after removing those of an earlier check.

    Args:
        root, format_, images, crowd: as for `maskline.data.check.run.check`.
        output: gets the folder ``check_dataset``.
        strict: ``check_pass`` is False for warnings too.

    Returns:
        The usable part of the data set with its faults; and what `check_dataset` returns.

    Raises:
        DatasetError: there is nothing to check.
        OutputError: the results can't be written.
    """
    root, output = check_path(root, "root"), check_path(output, "output")
    _clear(output)
    reading = check(root, format_, images, crowd)
    folder = output / FOLDER
    samples = {split: demo.demo_images(dataset, folder / "demo_img") for split, dataset in reading.splits.items()}
    measured = {split: statistics(dataset, reading.areas[split]) for split, dataset in reading.splits.items()}
    classes = class_names(measured.values())
    charts.histogram(measured, classes, folder / "histogram.png")
    page.write_report(reading, folder / "report.html", title=root.resolve().name, numbers=measured, strict=strict)
    data = encode_json(dump_json([fault.as_dict() for fault in reading.faults], indent=1))
    replace_file(folder / "faults.json", lambda file: file.write_bytes(data))
    passed = not (reading.faults if strict else reading.errors)
    return reading, _result(root, reading, samples, passed=passed)


def _clear(output: Path) -> None:
    """Remove the reports of an earlier check, which must not pass for those of one that fails."""
    shutil.rmtree(output / FOLDER / "demo_img", ignore_errors=True)
    for name in RESULTS:
        with contextlib.suppress(OSError):  # writing it will report the reason
            (output / FOLDER / name).unlink(missing_ok=True)


def _result(root: Path, reading: Reading, samples: Mapping[str, list[str]], *, passed: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "num_classes": len(unify_categories(reading.splits)[next(iter(reading.splits))].categories)
    }
    for split, dataset in reading.splits.items():
        attributes |= _counts(split, dataset)
        attributes[f"{split}_sample_paths"] = [f"{FOLDER}/demo_img/{name}" for name in samples[split]]
    return {
        "check_pass": passed,
        "attributes": attributes,
        "analysis": {
            "histogram": f"{FOLDER}/histogram.png",
            "report": f"{FOLDER}/report.html",
            "faults": f"{FOLDER}/faults.json",
            "errors": len(reading.errors),
            "warnings": len(reading.faults) - len(reading.errors),
        },
        "dataset_path": root.resolve().name,
        "show_type": "image",
        "dataset_type": "COCOInstSegDataset",
    }


def _counts(split: str, dataset: Dataset) -> dict[str, int]:
    return {
        f"{split}_samples": len(dataset.annotations),
        f"{split}_images": len(dataset.images),
        f"{split}_instances": sum(not annotation.crowd for annotation in dataset.annotations),
    }
