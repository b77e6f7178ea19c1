"""``serve``, and PaddleX's ``--serve``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import click

from maskline._options import Option
from maskline._wording import counted
from maskline.cli.options import options
from maskline.cli.predicting import THRESHOLD
from maskline.cli.running import Running, running_options
from maskline.errors import MissingDependencyError, ParameterError
from maskline.serve.settings import KEY_VARIABLE, ServiceSettings

if TYPE_CHECKING:
    from maskline.runtime.device import Device

CPU_WORKERS = 2
OTHER_BATCH = 8  # on a GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving(ServiceSettings):
    """A service with its processes."""

    workers: Annotated[
        int | None, Option("Worker processes.", most=256, unset=f"{CPU_WORKERS} on the CPU, else one per device")
    ] = None


PIPELINE = click.option("--pipeline", metavar="NAME|YAML", help="instance_segmentation, or a YAML configuration file.")
SELFTEST = click.option(
    "--selftest", is_flag=True, help="Load-test a service with these settings on this machine, and report the results."
)
serving_options = options(Serving, "serving", dict)


@click.command()
@PIPELINE
@THRESHOLD
@SELFTEST
@serving_options
@running_options(
    model_name="the pipeline's, or the embedded model",
    batch_size=f"the pipeline's, or 1 on the CPU, else {OTHER_BATCH}",
)
def serve(
    pipeline: str | None, threshold: float | None, selftest: bool, serving: Mapping[str, Any], running: Running
) -> None:
    """Start the HTTP service: POST /instance-segmentation, and a web page to try it."""
    if pipeline is not None:
        serve_pipeline(pipeline, threshold, selftest, serving, running)
    else:
        _serve(partial(Running.model, threshold=threshold), running, 1, serving, selftest)


def serve_pipeline(
    source: str | None, threshold: float | None, selftest: bool, serving: Mapping[str, Any], running: Running
) -> None:
    """Do what ``maskline --serve [--pipeline NAME|YAML]`` does. Options win over the file."""
    from maskline.paddlex.pipeline import PIPELINE as DEFAULT
    from maskline.paddlex.pipeline import load_pipeline

    source = DEFAULT if source is None else source
    config = load_pipeline(source)
    if running.device is None and config.device is not None:
        running = replace(running, device=config.device, cpu_fallback=True)
    opener = partial(Running.pipeline, source=source, threshold=threshold)
    _serve(opener, running, config.batch_size, {"visualize": config.visualize, **serving}, selftest)


def _serve(opener: partial[Any], running: Running, batch_size: int, serving: Mapping[str, Any], selftest: bool) -> None:
    """Run a service. ``batch_size`` is the configuration file's; 1 leaves it to the devices."""
    try:
        from maskline.serve import serve as run
        from maskline.serve.selftest import selftest as load_test
    except ImportError as error:
        raise MissingDependencyError(f"the HTTP service needs {error.name}: pip install 'maskline[serve]'") from None
    devices = running.devices()
    size = running.batch_size or (batch_size if batch_size > 1 else usual_batch(devices))
    key = os.environ.get(KEY_VARIABLE)
    settings = Serving(**{"batch_size": size, "api_key": None if key is None else key.strip(), **serving})
    openers = [partial(opener, part) for part in per_worker(running, devices, settings.workers)]
    if not selftest:
        run(openers, settings, partial(click.echo, err=True))
    elif not load_test(openers, settings, click.echo):
        raise SystemExit(1)


def per_worker(running: Running, devices: Sequence[Device], workers: int | None) -> list[Running]:
    """How each worker runs its model: devices in turn, and the cores of the CPU shared.

    Two workers on a CPU do more than one, because the work around the network is not parallel. Each of them may use all
    cores, so that one alone is as fast as it can be; more than two share the cores.

    Raises:
        ParameterError: more devices than workers.
    """
    from maskline._cpu import cores
    from maskline.runtime.device import CPU, device_text

    usual = min(CPU_WORKERS, cores()) if tuple(devices) == (CPU,) else len(devices)
    count = usual if workers is None else workers
    if count < len(devices):
        raise ParameterError(
            f"--workers {count} for {counted(len(devices), 'device')}: expected one per device or more"
        )
    threads = running.threads
    if threads is None and count > CPU_WORKERS:
        threads = max(1, CPU_WORKERS * cores() // count)
    names = [None if running.device is None else device_text([device]) for device in devices]
    return [replace(running, device=names[i % len(names)], threads=threads) for i in range(count)]


def usual_batch(devices: Sequence[Device]) -> int:
    """Images per run: on a CPU a batch takes as long as its images one by one, and more memory."""
    from maskline.runtime.device import CPU

    return 1 if CPU in devices else OTHER_BATCH
