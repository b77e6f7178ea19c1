"""``serve``, and the reference's ``--serve``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskline._checks import check_count
from maskline._wording import counted
from maskline.cli.running import MODEL, MODEL_DIR, THRESHOLD, Running, gathered, running_options
from maskline.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from maskline.runtime.device import Device
    from maskline.serve import ServiceSettings

CPU_WORKERS = 2
OTHER_BATCH = 8  # on a GPU
KEY_VARIABLE = "MASKLINE_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a service behaves, as written on the command line. None: the default of `maskline.serve.Settings`.

    Attributes:
        max_body: MiB.
        max_pixels, queue_pixels: millions.
    """

    host: str | None = None
    port: int | None = None
    workers: int | None = None
    timeout: float | None = None
    drain: float | None = None
    max_body: float | None = None
    max_pixels: float | None = None
    queue_pixels: float | None = None
    api_key_file: str | None = None
    trusted_host: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    allow_url_host: tuple[str, ...] = ()
    allow_url_network: tuple[str, ...] = ()
    visualize: bool | None = None
    access_log: bool | None = None

    def settings(self, batch_size: int, visualize: bool) -> ServiceSettings:
        """Raises ParameterError for what makes no sense."""
        from maskline.fetching.url_policy import UrlPolicy
        from maskline.serve import ServiceSettings
        from maskline.serve.settings import MB, MP

        given = {
            "host": self.host,
            "port": self.port,
            "visualize": visualize if self.visualize is None else self.visualize,
            "timeout": self.timeout,
            "drain": self.drain,
            "max_body": None if self.max_body is None else int(self.max_body * MB),
            "max_pixels": None if self.max_pixels is None else int(self.max_pixels * MP),
            "queue_pixels": None if self.queue_pixels is None else int(self.queue_pixels * MP),
            "api_key": self._api_key(),
            "access_log": self.access_log,
        }
        urls = UrlPolicy.of(self.allow_url_host, self.allow_url_network)
        named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return ServiceSettings(
            batch_size=batch_size, trusted_hosts=self.trusted_host, cors=self.cors, urls=urls, **named
        )

    def _api_key(self) -> str | None:
        if self.api_key_file is None:
            key = os.environ.get(KEY_VARIABLE)
            return None if key is None else key.strip()
        try:
            return Path(self.api_key_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ParameterError(f"--api-key-file {self.api_key_file} can't be read: {reason}") from None


PIPELINE = click.option("--pipeline", metavar="NAME|YAML", help="instance_segmentation, or a YAML configuration file.")
SELFTEST = click.option(
    "--selftest", is_flag=True, help="Load-test a service with these settings on this machine, and report the results."
)
_OPTIONS = (
    click.option("--host", metavar="ADDRESS", help="Address to listen on. Default: 127.0.0.1, this machine only."),
    click.option("--port", type=int, metavar="N", help="Port. Default: 8080; 0 picks a free one."),
    click.option(
        "--workers", type=int, metavar="N", help="Worker processes. Default: 2 on the CPU, else one per device."
    ),
    click.option("--timeout", type=float, metavar="S", help="Time limit for a response, in seconds. Default: 60."),
    click.option(
        "--drain", type=float, metavar="S", help="Time for requests to finish at shutdown, in seconds. Default: 30."
    ),
    click.option("--max-body", type=float, metavar="MB", help="Largest request, in MB. Default: 64."),
    click.option("--max-pixels", type=float, metavar="MP", help="Largest image, in megapixels. Default: 64."),
    click.option("--queue-pixels", type=float, metavar="MP", help="Largest queue, in megapixels. Default: 256."),
    click.option(
        "--api-key-file", metavar="FILE", help=f"File with the API key that clients must send. Default: {KEY_VARIABLE}."
    ),
    click.option(
        "--trusted-host",
        multiple=True,
        metavar="NAME",
        help="Host name the service is reached by, behind a proxy on this machine.",
    ),
    click.option(
        "--cors", multiple=True, metavar="ORIGIN", help="Origin of web pages allowed to call the service; * for any."
    ),
    click.option(
        "--allow-url-host",
        multiple=True,
        metavar="HOST",
        help="Host from which image URLs may be fetched. Default: none.",
    ),
    click.option(
        "--allow-url-network", multiple=True, metavar="CIDR", help="Private network that these hosts may resolve to."
    ),
    click.option(
        "--visualize/--no-visualize", default=None, help="Whether responses include a drawn image by default."
    ),
    click.option("--access-log/--no-access-log", default=None, help="Log each request as a line of JSON, to stdout."),
)


def serving_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options, which come to the function as one argument ``serving``."""
    return gathered(function, "serving", Serving, _OPTIONS)


@click.command()
@PIPELINE
@MODEL
@MODEL_DIR
@THRESHOLD
@SELFTEST
@serving_options
@running_options
def serve(
    pipeline: str | None,
    model_name: str | None,
    model_dir: str | None,
    threshold: float | None,
    selftest: bool,
    serving: Serving,
    running: Running,
) -> None:
    """Start the HTTP service: POST /instance-segmentation, and a web page to try it."""
    if pipeline is not None:
        serve_pipeline(pipeline, model_name, model_dir, threshold, selftest, serving, running)
        return
    opener = partial(Running.model, name=model_name, folder=model_dir, threshold=threshold)
    _serve(opener, running, 1, True, serving, selftest)


def serve_pipeline(
    source: str | None,
    model_name: str | None,
    model_dir: str | None,
    threshold: float | None,
    selftest: bool,
    serving: Serving,
    running: Running,
) -> None:
    """What ``maskline --serve [--pipeline NAME|YAML]`` does. Options win over the file."""
    from maskline.paddlex.pipeline import PIPELINE as DEFAULT
    from maskline.paddlex.pipeline import load_pipeline

    source = DEFAULT if source is None else source
    config = load_pipeline(source)
    if running.device is None and config.device is not None:
        running = replace(running, device=config.device, cpu_fallback=True)
    opener = partial(Running.pipeline, source=source, name=model_name, folder=model_dir, threshold=threshold)
    _serve(opener, running, config.batch_size, config.visualize, serving, selftest)


def _serve(
    opener: partial[Any], running: Running, batch_size: int, visualize: bool, serving: Serving, selftest: bool
) -> None:
    """Run a service; ``batch_size`` is the file's, of which 1 says nothing."""
    try:
        from maskline.serve import serve as run
        from maskline.serve.selftest import selftest as strain
    except ImportError as error:
        told = f"the HTTP service needs {error.name}: pip install 'maskline[serve]'"
        raise MissingDependencyError(told) from None
    devices = running.devices()
    size = running.batch_size or (batch_size if batch_size > 1 else usual_batch(devices))
    settings = serving.settings(size, visualize)
    openers = [partial(opener, part) for part in divided(running, devices, serving.workers)]
    if not selftest:
        run(openers, settings, partial(click.echo, err=True))
    elif not strain(openers, settings, click.echo):
        raise SystemExit(1)


def divided(running: Running, devices: Sequence[Device], workers: int | None) -> list[Running]:
    """How each worker runs its model: devices in turns, and the processor's cores shared.

    Two workers on a processor do more than one, because what is done around the network is not parallel. Each may use
    all the cores, because one alone shall be as quick as it can; but more than two share them.

    Raises:
        ParameterError: more devices than workers.
    """
    from maskline._cpu import cores
    from maskline.runtime.device import CPU, device_text

    usual = min(CPU_WORKERS, cores()) if tuple(devices) == (CPU,) else len(devices)
    count = usual if workers is None else check_count(workers, "--workers", 256)
    if count < len(devices):
        raise ParameterError(f"--workers {count} for {counted(len(devices), 'device')}: expected one for each at least")
    threads = running.threads
    if threads is None and count > CPU_WORKERS:
        threads = max(1, CPU_WORKERS * cores() // count)
    names = [None if running.device is None else device_text([device]) for device in devices]
    return [replace(running, device=names[i % len(names)], threads=threads) for i in range(count)]


def usual_batch(devices: Sequence[Device]) -> int:
    """Images in one run: on a processor a batch takes as long as its images one by one, and more memory."""
    from maskline.runtime.device import CPU

    return 1 if CPU in devices else OTHER_BATCH
