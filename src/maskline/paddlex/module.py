"""The configuration of a module's jobs: check a data set, train, evaluate, export, predict.

Sections, keys and defaults are PaddleX's, except that ``Global.dataset_dir`` and ``Global.device`` have no default
(PaddleX's are those of one machine), ``Train.num_classes`` and ``Train.learning_rate`` follow from the data set and the
devices unless they are given, and some keys are ours. docs/config.md has the meaning of each key.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial, reduce
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias, cast, get_args

from maskline import catalog
from maskline._checks import check_count, check_threshold, wrong
from maskline._files import read_text
from maskline._options import hints_of, like, settings_of
from maskline.data.formats import FORMATS
from maskline.data.options import SplitConfig
from maskline.errors import InputError, InputNotFoundError, MasklineError, ParameterError, UnknownNameError
from maskline.paddlex import values
from maskline.paddlex.overrides import parse, read_yaml
from maskline.training.settings import TrainOptions, TrainSettings

MODES = ("check_dataset", "train", "evaluate", "export", "predict")

#: Folders of the module files in PaddleX's documents, new and old. The file need not exist: its name is the model's.
FOLDERS = ("/paddlex/configs/modules/instance_segmentation", "/paddlex/configs/instance_segmentation")

#: Keys of PaddleX without effect here. Setting one is allowed, with a warning.
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
OFFICIAL = "official"  # stands for the URL of the official weights
OTHER_NAMES = {"Predict.hpip_config": "hpi_config"}  # as PaddleX's newest document spells it

_DEMO_IMAGE = "https://paddle-model-ecology.bj.bcebos.com/paddlex/imgs/demo_image/general_instance_segmentation_004.png"

logger = logging.getLogger("maskline")

# Type of a key and the check of its value. None is not checked, if it is allowed.
Count: TypeAlias = Annotated[int, check_count]
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
        """Raises ParameterError if ``enable`` is set without a format; UnknownNameError for an unknown format."""
        if not self.enable:
            return
        if self.src_dataset_type is None:
            raise ParameterError(
                "CheckDataset.convert.src_dataset_type is not set, but CheckDataset.convert.enable is: "
                "name the format of the data set, such as LabelMe"
            )
        if self.src_dataset_type.lower() not in FORMATS:
            raise UnknownNameError.of("CheckDataset.convert.src_dataset_type", self.src_dataset_type, FORMATS)

    def source(self) -> str | None:
        """The format to convert from; None: no conversion."""
        return self.src_dataset_type if self.enable else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSection:
    """``CheckDataset.split``. One percentage determines the other."""

    enable: Switch = False
    train_percent: Annotated[float | None, like(SplitConfig, "val_percent")] = None
    val_percent: Annotated[float | None, like(SplitConfig, "val_percent")] = None
    seed: Annotated[int, like(SplitConfig, "seed")] = 0
    stratify: Annotated[bool, like(SplitConfig, "stratify")] = False
    group: Annotated[str | None, like(SplitConfig, "group")] = None

    def __post_init__(self) -> None:
        """Raises ParameterError if the percentages contradict each other."""
        self.percents()

    def percents(self) -> tuple[float, float] | None:
        """Percentages of train and val, with a sum of 100. None: no split.

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
class TrainSection(TrainOptions):
    """``Train``: PaddleX's keys, and those of `TrainOptions` that PaddleX does not have.

    ``batch_size`` and ``pretrain_weight_path`` have defaults of the model.
    """

    num_classes: Annotated[int | None, like(TrainOptions, "num_classes")] = None
    epochs_iters: Annotated[int, like(TrainSettings, "epochs")] = 40
    batch_size: Annotated[int, like(TrainOptions, "batch_size")]
    learning_rate: Annotated[float | None, like(TrainOptions, "learning_rate")] = None
    pretrain_weight_path: Text
    warmup_steps: Annotated[int, like(TrainOptions, "warmup_steps")] = 100
    resume_path: Text = None
    log_interval: Annotated[int, like(TrainOptions, "log_interval")] = 10
    eval_interval: Annotated[int, like(TrainOptions, "eval_interval")] = 1
    save_interval: Annotated[int | None, like(TrainOptions, "save_interval")] = None
    amp: Annotated[str, values.as_precision] = "OFF"
    dy2st: Switch = False
    dist_ips: Text = None
    basic_config_path: Text = None
    uniform_output_enabled: Switch = True

    def shared(self) -> dict[str, Any]:
        """The settings of `TrainOptions`, by name."""
        return {field.name: getattr(self, field.name) for field in fields(TrainOptions)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSection:
    """``Evaluate``."""

    weight_path: Text = "output/best_model/best_model.pdparams"
    unaligned: Annotated[bool, like(TrainOptions, "unaligned")] = False
    log_interval: Count = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSection:
    """``Export``. The default is the model's official weights."""

    weight_path: Text
    unaligned: Annotated[bool, like(TrainOptions, "unaligned")] = False


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
    """Read a module's configuration; one error reports all faults.

    Args:
        path: a YAML file; or, if there is no such file, a path as in PaddleX's documents (one of `FOLDERS`, and
            ``<Model>.yaml``), or the name of a model. None: the override ``Global.model`` names the model.
        overrides: ``Section.key=value``, applied in order; see `maskline.paddlex.overrides`.

    Raises:
        InputNotFoundError: the file does not exist.
        InputError: it can't be read.
        UnknownNameError: unknown section, key, model or mode; the message names the nearest.
        ParameterError: not YAML, or values of the wrong type or out of range.
    """
    return gather(path, overrides).checked()


@dataclass(frozen=True, slots=True)
class Given:
    """A module's configuration before it is checked.

    Attributes:
        content: of the file and the overrides.
        faults: errors so far.
        readable: whether the file could be read.
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
        _warn_without_effect(config)
        return cast(ModuleConfig, config)

    @property
    def mode(self) -> str | None:
        """``Global.mode``, if it is known and valid."""
        mode = self._global("mode")
        return mode if mode in MODES else None

    @property
    def output(self) -> str | None:
        """``Global.output``, if it is known and valid."""
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
    """The configuration before overrides: the content of a file, or only a model's name."""
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
    """The content of a file. Its name may be the model's, and ``Global.model`` then be left out."""
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
            f"{path} has the settings of a training run, not the sections of a configuration: to resume the run, "
            f"`maskline train MODEL DATA --resume {path.parent}`; `maskline config MODEL` prints a configuration"
        )
    if catalog.has(path.stem) and isinstance(content.setdefault("Global", {}), dict):
        content["Global"].setdefault("model", path.stem)
    return content


def _put(given: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    """Set a key, creating its sections. Raises ParameterError if one of these is a value."""
    for depth, part in enumerate(key[:-1], 1):
        if given.get(part) is None:
            given[part] = {}
        given = given[part]
        if not isinstance(given, dict):
            raise ParameterError(f"override {'.'.join(key)}: {'.'.join(key[:depth])} is {given!r}, which has no keys")
    given[key[-1]] = value


def _given_model_defaults(given: Mapping[str, Any], faults: list[MasklineError]) -> dict[str, Any]:
    """The defaults that depend on the model; none for an unknown one, which the check of its key reports."""
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
    """Build a dataclass ``kind`` from the values given. None, and an entry in ``faults``, if they are not valid.

    Args:
        defaults: values of fields that have no default of their own.
        prefix: of keys in messages: empty, or a section and a full stop.
    """
    before = len(faults)
    hints = hints_of(kind)
    known, described = _known(given, hints, prefix, faults), settings_of(kind)
    found = dict(defaults)
    for key, hint in hints.items():
        if is_dataclass(hint):
            found[key] = _section(hint, known.get(key), defaults.get(key, {}), f"{prefix}{key}.", faults)
        elif key in known:
            check = partial(values.as_setting, described[key]) if key in described else get_args(hint)[1]
            found |= _checked(f"{prefix}{key}", known[key], get_args(hint)[0], check, faults)
    if len(faults) > before or any(field.default is MISSING and field.name not in found for field in fields(kind)):
        return None
    try:
        return kind(**found)
    except ParameterError as fault:  # of values that contradict each other
        faults.append(fault)
        return None


def _known(given: Any, hints: Mapping[str, Any], prefix: str, faults: list[MasklineError]) -> dict[str, Any]:
    """The values given for known keys."""
    if given is not None and not isinstance(given, Mapping):
        faults.append(wrong(given, prefix.rstrip(".") or "the configuration", "keys and values"))
        return {}
    known: dict[str, Any] = {}
    for key, value in (given or {}).items():
        name = str(OTHER_NAMES.get(f"{prefix}{key}", key))
        if name in hints:
            known[name] = value
        else:
            what, where = ("key", f"in {prefix[:-1]}") if prefix else ("section", "")
            faults.append(UnknownNameError.of(what, name, hints, where))
    return known


def _checked(
    key: str, value: Any, kind: Any, check: Callable[[Any, str], Any], faults: list[MasklineError]
) -> dict[str, Any]:
    """The last part of ``key`` with its value; nothing if that is wrong, or None where the default applies instead."""
    name = key.rpartition(".")[2]
    if value in (None, "", "None"):  # if quoted, the last two are strings
        return {name: None} if type(None) in get_args(kind) else {}
    try:
        return {name: check(value, key)}
    except ParameterError as fault:
        faults.append(fault)
        return {}


def _together(faults: Sequence[MasklineError]) -> MasklineError:
    """One error for all faults."""
    if len(faults) == 1:
        return faults[0]
    kind = UnknownNameError if all(isinstance(fault, UnknownNameError) for fault in faults) else ParameterError
    return kind("\n  ".join([f"{len(faults)} faults in the configuration:", *map(str, faults)]))


def _warn_without_effect(config: Any) -> None:
    for name in sorted(WITHOUT_EFFECT):
        *sections, key = name.split(".")
        section = reduce(getattr, sections, config)
        if getattr(section, key) != next(field.default for field in fields(section) if field.name == key):
            logger.warning("%s has no effect", name)
