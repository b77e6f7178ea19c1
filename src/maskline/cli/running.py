"""The options of every command that runs an exported model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce, wraps
from typing import TYPE_CHECKING, Any

import click

from maskline.errors import ParameterError

if TYPE_CHECKING:
    from maskline.runtime.device import Device
    from maskline.runtime.predictor import Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Where and how a model runs. None: what the configuration says, else the default.

    Attributes:
        cpu_fallback: the CPU stands in for a device that is not there, as in PaddleX's own forms of the command line.
    """

    device: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    use_hpip: bool | None = None
    hpi_config: Mapping[str, Any] | None = None
    engine: str | None = None
    engine_config: Mapping[str, Any] | None = None
    cpu_fallback: bool = False

    def model(
        self, name: str | None, folder: str | None, *, threshold: float | None = None, grow_boxes: bool = False
    ) -> Predictor:
        """`maskline.create_model` with these options."""
        from maskline.api import create_model

        options = self._options() | {"batch_size": 1 if self.batch_size is None else self.batch_size}
        return create_model(name, folder, threshold=threshold, grow_boxes=grow_boxes, **options)

    def pipeline(
        self,
        source: str,
        name: str | None,
        folder: str | None,
        *,
        threshold: float | None = None,
        grow_boxes: bool = False,
    ) -> Predictor:
        """`maskline.create_pipeline` with these options, which win over a file's."""
        from maskline.paddlex.pipeline import create_pipeline

        return create_pipeline(
            source, model_name=name, model_dir=folder, threshold=threshold, grow_boxes=grow_boxes, **self._options()
        )

    def devices(self) -> tuple[Device, ...]:
        """The devices to run on, all of them there: see `maskline.runtime.opening.choose_devices`."""
        from maskline.runtime.backend import Acceleration
        from maskline.runtime.opening import choose_devices

        return choose_devices(self.device, Acceleration(cpu_fallback=self.cpu_fallback))

    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _mapping(context: click.Context, parameter: click.Parameter, text: str | None) -> Mapping[str, Any] | None:
    """``{"backend": "openvino"}``, as JSON, YAML or Python write it."""
    if text is None:
        return None
    from maskline.paddlex.overrides import parse_value

    value = parse_value(text)
    if value is not None and not isinstance(value, Mapping):
        raise ParameterError(f'{parameter.opts[0]} is {text}: expected a mapping, such as {{"backend": "openvino"}}')
    return value


def _talk(context: click.Context, parameter: click.Parameter, verbose: bool) -> None:
    if verbose:
        logging.getLogger("maskline").setLevel(logging.INFO)


MODEL = click.option(
    "--model",
    "model_name",
    metavar="NAME",
    help="A model listed by `maskline models`. Default: the pipeline's, or the embedded model.",
)
MODEL_DIR = click.option(
    "--model-dir", metavar="DIR", help="Folder of an exported model, such as best_model of a training run."
)
THRESHOLD = click.option(
    "--threshold", type=float, metavar="SCORE", help="Keep scores above this, 0 to 1. Default: the model's own."
)
_OPTIONS = (
    click.option("--device", help="cpu, gpu, gpu:1, gpu:0,1 … Default: the first GPU if there is one."),
    click.option(
        "--batch-size", type=int, metavar="N", help="Images per batch. Default: 1; up to 8 for a service on a GPU."
    ),
    click.option("--threads", type=int, metavar="N", help="CPU threads. Default: one per core."),
    click.option("--engine", metavar="NAME", help="onnxruntime, openvino or tensorrt. Default: onnxruntime."),
    click.option(
        "--engine-config", metavar="{...}", callback=_mapping, help='Engine options, such as {"precision": "fp16"}.'
    ),
    click.option("--use-hpip", is_flag=True, default=None, help="Use the fastest known backend for the model."),
    click.option("--hpi-config", metavar="{...}", callback=_mapping, help="Options for --use-hpip, as in PaddleX."),
    click.option("--verbose", is_flag=True, expose_value=False, callback=_talk, help="Show progress messages."),
)


def running_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options, which come to the function as one argument ``running``."""
    return gathered(function, "running", Running, _OPTIONS)


def gathered(
    function: Callable[..., None], name: str, kind: type[Any], options: Sequence[Callable[..., Any]]
) -> Callable[..., None]:
    """A command with these options, the values of which come as one argument: ``name``, of a dataclass ``kind``."""

    @wraps(function)
    def command(**values: Any) -> None:
        given = {field.name: values.pop(field.name) for field in fields(kind) if field.name in values}
        function(**{name: kind(**given)}, **values)

    return reduce(lambda decorated, option: option(decorated), reversed(options), command)
