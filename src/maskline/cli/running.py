"""The options of every command that runs an exported model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import click

from maskline._checks import MOST
from maskline._cpu import MOST_THREADS
from maskline._options import Checked, Option
from maskline.cli.options import options
from maskline.runtime.backend import BACKENDS

if TYPE_CHECKING:
    from maskline.runtime.device import Device
    from maskline.runtime.predictor import Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Running(Checked):
    """Which model runs, where and how. None: what the configuration says, else the default of `maskline.create_model`.

    Attributes:
        cpu_fallback: the CPU stands in for an unavailable device, as in PaddleX's own forms of the command line.
    """

    model_name: Annotated[
        str | None,
        Option(
            "Name of a model, as in the list of `maskline models`.",
            flag="--model",
            metavar="NAME",
        ),
    ] = None
    model_dir: Annotated[
        str | None, Option("Folder of an exported model, such as best_model of a training run.", metavar="DIR")
    ] = None
    device: Annotated[
        str | None, Option("Where to run: cpu, gpu, gpu:1, gpu:0,1 …", unset="the first GPU if there is one, else cpu")
    ] = None
    batch_size: Annotated[int | None, Option("Images per run of the network.", most=MOST)] = None
    threads: Annotated[int | None, Option("CPU threads.", most=MOST_THREADS, unset="one per core")] = None
    engine: Annotated[
        str | None, Option("Backend; om is Ascend's CANN.", metavar="NAME", listed=BACKENDS.keys, unset="onnxruntime")
    ] = None
    engine_config: Annotated[
        Mapping[str, Any] | None,
        Option('Options of the backend, such as {"precision": "fp16"}.', metavar="{...}"),
    ] = None
    use_hpip: Annotated[bool | None, Option("Use the fastest known backend for the model.")] = None
    hpi_config: Annotated[
        Mapping[str, Any] | None,
        Option("Options for --use-hpip, as in PaddleX.", metavar="{...}"),
    ] = None
    cpu_fallback: bool = False

    def model(self, **more: Any) -> Predictor:
        """`maskline.create_model` with these options and ``more``."""
        from maskline.api import create_model

        batch_size = 1 if self.batch_size is None else self.batch_size
        return create_model(**self._arguments() | {"batch_size": batch_size} | more)

    def pipeline(self, source: str, **more: Any) -> Predictor:
        """`maskline.create_pipeline` with these options, which win over a file's, and ``more``."""
        from maskline.paddlex.pipeline import create_pipeline

        return create_pipeline(source, **self._arguments() | more)

    def devices(self) -> tuple[Device, ...]:
        """The devices to run on, all available: see `maskline.runtime.opening.choose_devices`."""
        from maskline.runtime.backend import Acceleration
        from maskline.runtime.opening import choose_devices

        return choose_devices(self.device, Acceleration(cpu_fallback=self.cpu_fallback))

    def _arguments(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _be_verbose(context: click.Context, parameter: click.Parameter, verbose: bool) -> None:
    if verbose:
        logging.getLogger("maskline").setLevel(logging.INFO)


VERBOSE = click.option(
    "--verbose", is_flag=True, expose_value=False, callback=_be_verbose, help="Show progress messages."
)


def running_options(**unset: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options to a command, which gets them as one argument ``running``.

    Args:
        unset: by field, what no value stands for in this command: the default differs between commands.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        return options(Running, "running", unset=unset)(VERBOSE(function))

    return decorate
