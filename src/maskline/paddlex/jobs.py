"""The jobs of PaddleX's documents: ``maskline -c CONFIG -o Section.key=value …``, one mode per run.

Programs read the outcome from ``<Global.output>/<mode>_result.json``, written after each failure, and after a success
of the modes with a result (check_dataset, evaluate).
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskline import catalog
from maskline._files import replace_file
from maskline.errors import MasklineError, ParameterError, UnknownNameError
from maskline.outputs.paths import TRAIN_RESULTS
from maskline.paddlex import train_results
from maskline.paddlex.module import MODES, OFFICIAL, ModuleConfig

if TYPE_CHECKING:
    from maskline.training.settings import Precision

logger = logging.getLogger("maskline")


def run(config: ModuleConfig) -> dict[str, Any] | None:
    """Run the mode ``Global.mode`` and write the result file.

    Returns:
        Content of the result file without ``done_flag``; None for modes without one.

    Raises:
        UnknownNameError: unknown mode.
        MasklineError: raised by the mode. Any error is in the result file too, with its ``details``.
    """
    if config.Global.mode not in MODES:
        raise UnknownNameError.of("Global.mode", config.Global.mode, MODES)
    with recorded(config.Global.mode, config.Global.output):
        content = _dispatch(config)
        if content is not None and config.Global.output is not None:
            write_result(result_file(config.Global.output, config.Global.mode), content)
    return content


def result_file(output: str | Path, mode: str) -> Path:
    """The result file of a mode."""
    return Path(output, f"{mode}_result.json")


@contextlib.contextmanager
def recorded(mode: str | None, output: str | None) -> Iterator[None]:
    """Remove the result file of an earlier run on entry, and write one for an exception.

    Args:
        mode, output: the place of the file; None if unknown, and then nothing is removed or written.
    """
    if mode is None or output is None:
        yield
        return
    record = result_file(output, mode)
    clear_result(record)
    try:
        yield
    except Exception as error:
        _write_failure(record, error)
        raise


def clear_result(record: Path) -> None:
    """Remove the result of an earlier run, which must not pass for that of the new one.

    ``train_results.json`` stays, because it lists existing checkpoints, but with ``done_flag`` false.
    """
    with contextlib.suppress(OSError):  # writing it will report the reason
        record.unlink(missing_ok=True)
    listed = record.with_name(TRAIN_RESULTS[1])
    if record.name == "train_result.json" and listed.is_file():
        with contextlib.suppress(OSError, ValueError, MasklineError):
            _write(listed, json.loads(listed.read_text(encoding="utf-8")) | {"done_flag": False})


def _dispatch(config: ModuleConfig) -> dict[str, Any] | None:
    match config.Global.mode:
        case "check_dataset":
            return _check_dataset(config)
        case "train":
            _train(config)
        case "evaluate":
            return _evaluate(config)
        case "export":
            _export(config)
        case "predict":
            _predict(config)
    return None


def _check_dataset(config: ModuleConfig) -> dict[str, Any]:
    from maskline.data.options import SplitConfig
    from maskline.paddlex.check_dataset import check_dataset

    source, split = config.CheckDataset.convert.source(), config.CheckDataset.split
    percents = split.percents()
    how = None if percents is None else SplitConfig(percents[1], split.seed, split.stratify, split.group)
    folder, output = _data(config), _output(config)
    return check_dataset(folder, output, convert_from=source, split=how, seed=split.seed)


def _train(config: ModuleConfig) -> None:
    from maskline.training import TrainSettings, devices, train

    given, device = config.Train, devices.resolve(config.Global.device, cpu_fallback=True)
    settings = TrainSettings(
        model=config.Global.model,
        data=_data(config),
        output=_output(config),
        epochs=given.epochs_iters,
        weights=_first_weights(config),
        resume=None if given.resume_path is None else Path(given.resume_path),
        device=device,
        precision=_precision(given.amp, device),
        **given.shared(),
    )
    train(settings, train_results.write)


def _first_weights(config: ModuleConfig) -> str:
    """None is the pretrained backbone, as in PaddleX."""
    given = config.Train.pretrain_weight_path
    if given is None:
        return "backbone"
    return OFFICIAL if given == catalog.get(config.Global.model).pretrained_url else given


def _precision(amp: str, device: str) -> Precision:
    """O1 and O2 are fp16 in PaddleX; on the CPU they are bf16."""
    if amp == "OFF":
        return "fp32"
    return "bf16" if device.startswith("cpu") else "fp16"


def _evaluate(config: ModuleConfig) -> dict[str, Any]:
    from maskline import hub
    from maskline.evaluate import load_split
    from maskline.training import devices
    from maskline.training.validate import evaluate_weights

    device = devices.resolve(_first_device(config.Global.device), cpu_fallback=True)
    spec, given = catalog.get(config.Global.model), config.Evaluate.weight_path
    dataset, output = load_split(_data(config)), _output(config)
    weights = hub.weights_file(spec) if given in (None, OFFICIAL, spec.pretrained_url) else Path(str(given))
    found = evaluate_weights(
        spec.name,
        weights,
        dataset,
        output,
        device=device,
        unaligned=config.Evaluate.unaligned,
    )
    print(found.summary())
    return found.to_dict()


def _export(config: ModuleConfig) -> None:
    from maskline import hub

    spec, weights = catalog.get(config.Global.model), config.Export.weight_path
    if weights in (OFFICIAL, spec.pretrained_url):
        weights = None  # the hub downloads the official ones
    elif weights is not None and "://" in weights:
        raise ParameterError(
            f"Export.weight_path is {weights}: the only URL allowed is the official one of {spec.name} "
            f"({spec.pretrained_url}); download the file and give its path"
        )
    folder = hub.make_model_dir(spec.name, _output(config), weights, unaligned=config.Export.unaligned)
    logger.info("exported to %s", folder)


def _predict(config: ModuleConfig) -> None:
    from maskline import api
    from maskline.outputs.paths import check_folder

    output, wanted = config.Global.output, config.Predict
    if output is not None:
        check_folder(output)
    model = api.create_model(
        config.Global.model,
        wanted.model_dir,
        device=_first_device(config.Global.device),
        use_hpip=wanted.use_hpip or None,
        hpi_config=wanted.hpi_config,
        engine=wanted.engine,
        engine_config=wanted.engine_config,
        cpu_fallback=True,
    )
    for result in model.predict(wanted.input, batch_size=wanted.batch_size, threshold=wanted.threshold):
        result.print()
        if output is not None:
            result.save_all(output)


def _data(config: ModuleConfig) -> Path:
    if config.Global.dataset_dir is None:
        raise ParameterError("Global.dataset_dir is not set: name the data set's folder, -o Global.dataset_dir=DIR")
    return Path(config.Global.dataset_dir)


def _output(config: ModuleConfig) -> Path:
    if config.Global.output is None:
        raise ParameterError(f"Global.output is not set, but Global.mode={config.Global.mode} writes its results there")
    return Path(config.Global.output)


def _first_device(devices: str | None) -> str | None:
    """The first of several devices, ``gpu:2`` of ``gpu:2,3``: only training uses more."""
    return None if devices is None else devices.partition(",")[0]


def _write_failure(record: Path, error: Exception) -> None:
    content = {"done_flag": False, "err_type": str(type(error)), "err_msg": str(error)}
    try:
        _write(record, content | getattr(error, "details", {}) | content)
    except MasklineError as fault:  # the user has to see the error itself
        logger.warning("%s", fault)


def write_result(record: Path, content: Mapping[str, Any]) -> None:
    """Write the result file of a success. Raises OutputError."""
    _write(record, {"done_flag": True, **content})


def _write(record: Path, content: Mapping[str, Any]) -> None:
    data = train_results.json_text(content)
    replace_file(record, lambda file: file.write_bytes(data))
