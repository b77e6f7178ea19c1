"""The configuration of a module's jobs: check a data set, train, evaluate, export, predict.

Sections, keys and defaults are the reference's. But ``Global.dataset_dir`` and ``Global.device`` have no default here
(the reference's are those of one machine), ``Train.num_classes`` and ``Train.learning_rate`` follow from the data set
and the devices where they are not given, and some keys are ours. docs/config.md says what each key means.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial, reduce
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias, cast, get_args, get_type_hints

from maskline import catalog
from maskline._checks import check_count, check_threshold
from maskline._files import read_text
from maskline.errors import InputError, InputNotFoundError, MasklineError, ParameterError, UnknownNameError
from maskline.paddlex import values
from maskline.paddlex.overrides import parse, read_yaml

MODES = ("check_dataset", "train", "evaluate", "export", "predict")

#: Folders of the module files in the documents, new and old. No file need be there: its name says the model.
FOLDERS = ("/paddlex/configs/modules/instance_segmentation", "/paddlex/configs/instance_segmentation")

# fmt: off
#: What a data set can be converted from: `maskline.data.convert.FORMATS`, which needs the extra ``data``.
SOURCE_FORMATS = (
    "coco", "cvat", "labelme", "yolo", "voc",
    "labelstudio", "via", "supervisely", "panoptic", "cityscapes", "qupath", "kaggle",
)
# fmt: on

#: Keys of the reference that mean nothing here. Setting one is legal, and told.
WITHOUT_EFFECT = frozenset(
    (
        "Global.export_with_pir",
        "Train.dy2st",
        "Train.dist_ips",
        "Train.basic_config_path",
        "Train.uniform_output_enabled",
        "Predict.kernel_option.run_mode",
    )
)
UNREAD_SECTION = "Benchmark"
OFFICIAL = "official"  # in the place of the address of the official weights
OTHER_NAMES = {"Predict.hpip_config": "hpi_config"}  # as the newest document of the reference spells it

_DEMO_IMAGE = "https://paddle-model-ecology.bj.bcebos.com/paddlex/imgs/demo_image/general_instance_segmentation_004.png"

logger = logging.getLogger("maskline")

# A key's type, and the check that its value must pass. Where None is legal, it is not checked.
Count: TypeAlias = Annotated[int, check_count]
MaybeCount: TypeAlias = Annotated[int | None, check_count]
Natural: TypeAlias = Annotated[int, values.as_natural]
Rate: TypeAlias = Annotated[float, values.as_rate]
Percent: TypeAlias = Annotated[float | None, values.as_percent]
Switch: TypeAlias = Annotated[bool, values.as_switch]
Text: TypeAlias = Annotated[str | None, values.as_text]
Options: TypeAlias = Annotated[Mapping[Any, Any] | None, values.as_mapping]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSection:
    """``Global``."""

    model: Annotated[str, values.as_model]
    mode: Annotated[str, partial(values.one_of, MODES)] = "check_dataset"
    dataset_dir: Text = None
    device: Annotated[str | None, values.as_devices] = None
    output: Text = "output"
    export_with_pir: Switch = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSection:
    """``CheckDataset.convert``."""

    enable: Switch = False
    src_dataset_type: Text = None

    def __post_init__(self) -> None:
        """Raises ParameterError if it is to convert, but not from what; UnknownNameError if there is no such format."""
        if not self.enable:
            return
        if self.src_dataset_type is None:
            raise ParameterError(
                "CheckDataset.convert.src_dataset_type is not set, but CheckDataset.convert.enable is: "
                "name the format of the data set, such as LabelMe"
            )
        if self.src_dataset_type.lower() not in SOURCE_FORMATS:
            raise UnknownNameError.of("CheckDataset.convert.src_dataset_type", self.src_dataset_type, SOURCE_FORMATS)

    def source(self) -> str | None:
        """The format to convert from, None not to."""
        return self.src_dataset_type if self.enable else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSection:
    """``CheckDataset.split``. A percentage that is not given is what the other leaves."""

    enable: Switch = False
    train_percent: Percent = None
    val_percent: Percent = None
    seed: Natural = 0
    stratify: Switch = False
    group: Text = None

    def __post_init__(self) -> None:
        """Raises ParameterError if the percentages do not fit, or the group is not a regular expression."""
        self.percents()
        try:
            re.compile(self.group or "" if self.enable else "")
        except re.error as error:
            expected = "folder, similar, key:NAME or a regular expression"
            raise ParameterError(f"CheckDataset.split.group is {self.group!r}: expected {expected} ({error})") from None

    def percents(self) -> tuple[float, float] | None:
        """Of training and validation, each from 0 to 100, together 100. None: no split.

        Raises:
            ParameterError: neither is given, or their sum is not 100.
        """
        if not self.enable:
            return None
        train, val = self.train_percent, self.val_percent
        if train is None and val is None:
            raise ParameterError(
                "CheckDataset.split.train_percent and val_percent are not set, but CheckDataset.split.enable is: "
                "give one or both, such as 80 and 20"
            )
        train = 100 - cast(float, val) if train is None else train
        val = 100 - train if val is None else val
        if not math.isclose(train + val, 100):
            raise ParameterError(
                f"CheckDataset.split.train_percent is {train:g} and val_percent is {val:g}: "
                f"expected a sum of 100, not {train + val:g}"
            )
        return train, val


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDatasetSection:
    """``CheckDataset``."""

    convert: ConvertSection = ConvertSection()
    split: SplitSection = SplitSection()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSection:
    """``Train``. Defaults of the model: ``batch_size`` and ``pretrain_weight_path``."""

    num_classes: MaybeCount = None
    epochs_iters: Count = 40
    batch_size: Count
    learning_rate: Annotated[float | None, values.as_rate] = None
    pretrain_weight_path: Text
    warmup_steps: Natural = 100
    resume_path: Text = None
    log_interval: Count = 10
    eval_interval: Count = 1
    save_interval: MaybeCount = None
    amp: Annotated[str, values.as_precision] = "OFF"
    processes: Count = 1
    workers: Natural = 2
    threads: MaybeCount = None
    accumulate: Count = 1
    patience: MaybeCount = None
    clip_norm: Annotated[float | None, values.as_rate] = None
    drop_background: Switch = False
    augment: Options = None
    seed: Natural = 0
    unaligned: Switch = False
    dy2st: Switch = False
    dist_ips: Text = None
    basic_config_path: Text = None
    uniform_output_enabled: Switch = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSection:
    """``Evaluate``."""

    weight_path: Text = "output/best_model/best_model.pdparams"
    unaligned: Switch = False
    log_interval: Count = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSection:
    """``Export``. The default is the model's official weights."""

    weight_path: Text
    unaligned: Switch = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelOptionSection:
    """``Predict.kernel_option``."""

    run_mode: Text = "paddle"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSection:
    """``Predict``."""

    batch_size: Count = 1
    model_dir: Text = "output/best_model/inference"
    input: Annotated[str | list[str], values.as_inputs] = _DEMO_IMAGE
    threshold: Annotated[float | dict[int | str, float] | None, check_threshold] = None
    kernel_option: KernelOptionSection = KernelOptionSection()
    use_hpip: Switch = False
    hpi_config: Options = None
    engine: Text = None
    engine_config: Options = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleConfig:
    """All sections, by the names they have in files and overrides."""

    Global: GlobalSection
    CheckDataset: CheckDatasetSection = CheckDatasetSection()
    Train: TrainSection
    Evaluate: EvaluateSection = EvaluateSection()
    Export: ExportSection
    Predict: PredictSection = PredictSection()


def load(path: str | None, overrides: Sequence[str] = ()) -> ModuleConfig:
    """Read a module's configuration; all that is wrong with it is told at once.

    Args:
        path: a YAML file; or, without a file, a path as the documents have it (one of `FOLDERS`, and
            ``<Model>.yaml``), or the name of a model. None: the model is said by the override ``Global.model``.
        overrides: ``Section.key=value``, applied in order; see `maskline.paddlex.overrides`.

    Raises:
        InputNotFoundError: there is no such file.
        InputError: it can't be read.
        UnknownNameError: a section, key, model or mode that does not exist; the message names the nearest.
        ParameterError: not YAML, or values of the wrong type or out of range.
    """
    return gather(path, overrides).checked()


@dataclass(frozen=True, slots=True)
class Given:
    """What is given for a module's configuration, before it is checked.

    Attributes:
        content: of the file and the overrides.
        faults: what was wrong so far.
        readable: whether ``content`` has that of the file.
    """

    content: dict[str, Any]
    faults: list[MasklineError]
    readable: bool

    def checked(self) -> ModuleConfig:
        """The configuration. Raises as `load`."""
        if not self.readable:
            raise self.faults[0]
        given, faults = {key: value for key, value in self.content.items() if key != UNREAD_SECTION}, list(self.faults)
        if self.content.get(UNREAD_SECTION):
            logger.warning("section %s has no effect", UNREAD_SECTION)
        config = _section(ModuleConfig, given, _given_model_defaults(given, faults), "", faults)
        if faults:
            raise _together(faults)
        _tell_without_effect(config)
        return cast(ModuleConfig, config)

    @property
    def mode(self) -> str | None:
        """``Global.mode``, if it is known and legal."""
        mode = self._global("mode")
        return mode if mode in MODES else None

    @property
    def output(self) -> str | None:
        """``Global.output``, if it is known and legal."""
        output = self._global("output")
        try:
            return None if output in (None, "", "None") else values.as_text(output, "Global.output")
        except ParameterError:
            return None

    def _global(self, key: str) -> Any:
        section = self.content.get("Global")
        default = next(field.default for field in fields(GlobalSection) if field.name == key) if self.readable else None
        return section.get(key, default) if isinstance(section, Mapping) else default


def gather(path: str | None, overrides: Sequence[str] = ()) -> Given:
    """Read a module's configuration without checking it; ``path`` and ``overrides`` as for `load`."""
    faults, readable = list[MasklineError](), True
    try:
        content = _source(path)
    except MasklineError as fault:
        faults.append(fault)
        content, readable = {}, False
    for override in overrides:
        try:
            _put(content, *parse(override))
        except ParameterError as fault:
            faults.append(fault)
    return Given(content, faults, readable)


def _source(path: str | None) -> dict[str, Any]:
    """What is given before overrides: the content of a file, or no more than a model's name."""
    if path is None:
        return {}
    if os.path.isfile(path):  # noqa: PTH113 (Path's raises for names that are too long)
        return _read(Path(path))
    place = PurePosixPath(path.replace("\\", "/"))
    is_file = place.suffix.lower() in (".yaml", ".yml")
    if is_file and f"/{place.parent}".endswith(FOLDERS):
        path = place.stem
    elif is_file or "/" in path or "\\" in path:
        raise InputNotFoundError(
            f"no configuration file {path}: give a module's YAML file, a model's name, or {FOLDERS[0][1:]}/<Model>.yaml"
        )
    model = catalog.get(path).name
    logger.info("configuration: the defaults of %s", model)
    return {"Global": {"model": model}}


def _read(path: Path) -> dict[str, Any]:
    """The content of a file. One called after a model need not say the model."""
    try:
        content = read_yaml(read_text(path))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    except (UnicodeDecodeError, ParameterError) as error:
        raise ParameterError(f"{path} is not a configuration: {error}") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path} is not a configuration: expected sections such as Global, with keys and values")
    if {"model", "data", "output"} <= content.keys():
        raise ParameterError(
            f"{path} has the settings of a training run, not the sections of a configuration: to go on with the run, "
            f"`maskline train MODEL DATA --resume {path.parent}`; `maskline config MODEL` prints a configuration"
        )
    if catalog.has(path.stem) and isinstance(content.setdefault("Global", {}), dict):
        content["Global"].setdefault("model", path.stem)
    return content


def _put(given: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    """Set a key, making the sections it lies in. Raises ParameterError if one of these holds a value instead."""
    for depth, part in enumerate(key[:-1], 1):
        if given.get(part) is None:
            given[part] = {}
        given = given[part]
        if not isinstance(given, dict):
            raise ParameterError(f"override {'.'.join(key)}: {'.'.join(key[:depth])} is {given!r}, and has no keys")
    given[key[-1]] = value


def _given_model_defaults(given: Mapping[str, Any], faults: list[MasklineError]) -> dict[str, Any]:
    """The defaults that depend on the model; none for an unknown one, which the check of its key tells."""
    section = given.get("Global") or {}
    name = section.get("model") if isinstance(section, Mapping) else ""
    if name is None:
        faults.append(ParameterError("Global.model is not set: give -c <Model>, or -o Global.model=<Model>"))
    if not isinstance(name, str) or not catalog.has(name):
        return {}
    return model_defaults(catalog.get(name))


def model_defaults(spec: catalog.Model) -> dict[str, Any]:
    """The defaults of a model, by section and key."""
    weights = spec.pretrained_url or OFFICIAL
    train = {"batch_size": spec.recipe.batch_size, "pretrain_weight_path": weights}
    return {"Train": train, "Export": {"weight_path": weights}}


def _section(kind: Any, given: Any, defaults: Mapping[str, Any], prefix: str, faults: list[MasklineError]) -> Any:
    """A dataclass ``kind`` from what is given for it. None, and something in ``faults``, if that won't do.

    Args:
        defaults: values of fields that have no default of their own.
        prefix: what comes before the keys in messages: nothing, or a section and a full stop.
    """
    before = len(faults)
    hints = get_type_hints(kind, include_extras=True)
    known = _known(given, hints, prefix, faults)
    found = dict(defaults)
    for key, hint in hints.items():
        if is_dataclass(hint):
            found[key] = _section(hint, known.get(key), defaults.get(key, {}), f"{prefix}{key}.", faults)
        elif key in known:
            found |= _checked(key, known[key], hint, prefix, faults)
    if len(faults) > before or any(field.default is MISSING and field.name not in found for field in fields(kind)):
        return None
    try:
        return kind(**found)
    except ParameterError as fault:  # of values that do not fit each other
        faults.append(fault)
        return None


def _known(given: Any, hints: Mapping[str, Any], prefix: str, faults: list[MasklineError]) -> dict[str, Any]:
    """What is given for keys that exist."""
    if given is not None and not isinstance(given, Mapping):
        faults.append(values.wrong(given, prefix.rstrip(".") or "the configuration", "keys and values"))
        return {}
    known: dict[str, Any] = {}
    for key, value in (given or {}).items():
        name = str(OTHER_NAMES.get(f"{prefix}{key}", key))
        if name in hints:
            known[name] = value
        else:
            what = f"key of {prefix[:-1]}" if prefix else "section"
            faults.append(UnknownNameError.of(what, name, hints))
    return known


def _checked(key: str, value: Any, hint: Any, prefix: str, faults: list[MasklineError]) -> dict[str, Any]:
    """The key with its value; nothing if that is wrong, or if it is None and the default has to do."""
    kind, check = get_args(hint)
    if value in (None, "", "None"):  # quoted, the last two come as text
        return {key: None} if type(None) in get_args(kind) else {}
    try:
        return {key: check(value, f"{prefix}{key}")}
    except ParameterError as fault:
        faults.append(fault)
        return {}


def _together(faults: Sequence[MasklineError]) -> MasklineError:
    """One error that tells all."""
    if len(faults) == 1:
        return faults[0]
    kind = UnknownNameError if all(isinstance(fault, UnknownNameError) for fault in faults) else ParameterError
    return kind("\n  ".join([f"{len(faults)} faults in the configuration:", *map(str, faults)]))


def _tell_without_effect(config: Any) -> None:
    for name in sorted(WITHOUT_EFFECT):
        *sections, key = name.split(".")
        section = reduce(getattr, sections, config)
        if getattr(section, key) != next(field.default for field in fields(section) if field.name == key):
            logger.warning("%s has no effect", name)
