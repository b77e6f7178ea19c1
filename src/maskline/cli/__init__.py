"""The command line: parse, one public call, print. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any, TextIO, cast

import click
from click.core import ParameterSource

from maskline import __version__
from maskline._progress import log_to_terminal
from maskline._wording import shortened
from maskline.cli.configs import config, save_pipeline_config
from maskline.cli.datasets import check, convert, split
from maskline.cli.predicting import Showing, predict, predict_by_pipeline, showing_options
from maskline.cli.running import Running, running_options
from maskline.cli.serving import PIPELINE, SELFTEST, serve, serve_pipeline, serving_options
from maskline.cli.signals import terminable
from maskline.cli.training import compare, evaluate, export, train
from maskline.errors import MasklineError, OutputError

PLUGINS = (
    "maskline has no plugins to install; pip install 'maskline[train]' trains, 'maskline[serve]' answers HTTP, "
    "'maskline[openvino]' speeds up CPUs"
)


class _Cli(click.Group):
    """Commands, and the options for use without a command, as in PaddleX."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        params = [p for p in self.get_params(context) if not getattr(p, "hidden", False)]
        own = [p for p in params if {"--help", "--version"} & set(p.opts)]
        self._write(context, formatter, "Options", own)
        self.format_commands(context, formatter)
        self._write(context, formatter, "Without a command, as PaddleX", [p for p in params if p not in own])

    def _write(
        self, context: click.Context, formatter: click.HelpFormatter, title: str, params: Sequence[click.Parameter]
    ) -> None:
        with formatter.section(title):
            formatter.write_dl([record for p in params if (record := p.get_help_record(context))])


def _hyphens(name: str) -> str:
    """Accept underscores in options and commands, as PaddleX writes them."""
    return name.replace("_", "-")


def _install(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        click.echo(PLUGINS, err=True)
        context.exit()


def _ignore(context: click.Context, parameter: click.Parameter, given: object) -> None:
    if given:
        click.echo(f"maskline: {parameter.opts[-1]} has no effect", err=True)


@click.group(
    cls=_Cli,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _hyphens},
)
@click.version_option(__version__, package_name="maskline")
@PIPELINE
@click.option("--input", "inputs", multiple=True, metavar="INPUT", help="Input to predict; can be repeated.")
@showing_options
@running_options(
    model_name="the pipeline's", batch_size="the pipeline's", device="the pipeline's, or the first GPU, else cpu"
)
@click.option(
    "--get-pipeline-config",
    metavar="NAME",
    help="Write the configuration file to --save-path, or to the current folder.",
)
@click.option("--force", is_flag=True, help="Let --get-pipeline-config overwrite a file.")
@click.option("-c", "--config", "config_file", metavar="CONFIG", help="Run a job: a module's YAML file, or a model.")
@click.option(
    "-o",
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of -c: Section.key=value.",
)
@click.option(
    "--install",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_install,
    help="Show which extras can be installed with pip.",
)
@click.option("--serve", "serves", is_flag=True, help="Start the HTTP service, with the options of `maskline serve`.")
@SELFTEST
@serving_options
@click.option("-p", "--profiler-options", hidden=True, expose_value=False, callback=_ignore)
@click.option("--serial-number", hidden=True, expose_value=False, callback=_ignore)
@click.option("--update-license", is_flag=True, hidden=True, expose_value=False, callback=_ignore)
@click.pass_context
def cli(
    context: click.Context,
    pipeline: str | None,
    inputs: tuple[str, ...],
    showing: Showing,
    running: Running,
    get_pipeline_config: str | None,
    force: bool,
    config_file: str | None,
    overrides: tuple[str, ...],
    serves: bool,
    selftest: bool,
    serving: Mapping[str, Any],
) -> None:
    """Instance segmentation: a photo in, masks out."""
    given = {str(p.name): p.opts[0] for p in cli.params if p.expose_value and _is_given(context, p)}
    running = replace(running, cpu_fallback=True)
    if context.invoked_subcommand is not None:
        _refuse(given, (), f"is for use without a command; give it after {context.invoked_subcommand}")
    elif get_pipeline_config is not None:
        _refuse(given, ("get_pipeline_config", "save_path", "force"), "does not go with --get-pipeline-config")
        save_pipeline_config(get_pipeline_config, showing.save_path, force)
    elif config_file is not None or overrides:
        _refuse(
            given, ("config_file", "overrides"), "does not go with -c and -o: set the key, such as -o Predict.input=…"
        )
        _run_job(config_file, overrides)
    elif serves:
        _refuse(given, ("serves", *_names(serve)), "does not go with --serve")
        serve_pipeline(pipeline, showing.threshold, selftest, serving, running)
    elif pipeline is not None:
        _refuse(given, [name for name in given if name != "force"], "goes with --get-pipeline-config")
        _refuse(given, ("pipeline", *_names(predict)), "goes with --serve")
        predict_by_pipeline(pipeline, inputs, showing, running)
    else:
        _refuse(given, (), "needs --pipeline instance_segmentation, or a pipeline's YAML file")
        click.echo(context.get_help(), err=True)
        sys.exit(2)


def _names(command: click.Command) -> list[str]:
    return [str(parameter.name) for parameter in command.params]


def _is_given(context: click.Context, parameter: click.Parameter) -> bool:
    return context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE


def _refuse(given: Mapping[str, str], allowed: Collection[str], why: str) -> None:
    """Raise UsageError for the first option given that is not among the allowed ones."""
    for name, option in given.items():
        if name not in allowed:
            raise click.UsageError(f"{option} {why}")


@click.command()
@click.option("--links", is_flag=True, help="Also list the URLs of the official weights and Paddle models.")
def models(links: bool) -> None:
    """List the models with their accuracy, published times and size."""
    from maskline import catalog

    click.echo(catalog.markdown_table(links=links))
    click.echo(f"\n{catalog.EDITION}")


for command in (predict, serve, train, evaluate, compare, export, check, convert, split, config, models):
    cli.add_command(command)


def _run_job(config_file: str | None, overrides: Sequence[str]) -> None:
    """Run a job, as ``python main.py -c CONFIG -o Section.key=value …`` does. Exits with 1 if it fails."""
    from maskline.paddlex import jobs
    from maskline.paddlex.module import gather
    from maskline.runtime.device import parse_devices

    logging.getLogger("maskline").setLevel(logging.INFO)  # the documents show what is logged
    given = gather(config_file, overrides)
    with jobs.recorded(given.mode, given.output):
        config = given.checked()
        if config.Global.device is not None:
            parse_devices(config.Global.device)
        try:
            jobs.run(config)
        except MasklineError as error:
            _end(str(error), 1)


class _StdoutError(OutputError):
    """Standard output is not writable."""


class _Stdout:
    """Wraps standard output to distinguish its errors from those of files and libraries."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._named_errors():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._named_errors():
            self._stream.flush()

    @staticmethod
    @contextmanager
    def _named_errors() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _StdoutError(f"can't write to standard output: {error.strerror or error}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a `MasklineError` becomes one line and an exit code."""
    log_to_terminal()
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # `InputError` says what is wrong with an image
    warnings.filterwarnings("ignore", module="PIL")
    for stream in (sys.stdout, sys.stderr):  # file names may have characters that the terminal can't show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminable(), redirect_stdout(cast(TextIO, sys.stdout and _Stdout(sys.stdout))):
            cli.main(arguments, standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()
    except _StdoutError as error:
        sys.stdout = None  # so that Python does not try to flush it at exit
        if isinstance(error.__cause__, BrokenPipeError):  # the reader has gone
            sys.exit(1)
        _end(str(error), error.exit_code)
    except MasklineError as error:
        _end(str(error), error.exit_code)
    except click.exceptions.Abort:
        _end("interrupted", 130)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = "" if context is None else f"; see `{context.command_path} --help`"
        _end(f"{error.format_message().rstrip('.')}{hint}", error.exit_code)
    except OSError as error:
        _end(str(error) if error.filename is None else f"{error.filename!r}: {error.strerror}", 1)


def _end(message: str, code: int) -> None:
    click.echo(f"maskline: {shortened(message)}", err=True)
    sys.exit(code)
