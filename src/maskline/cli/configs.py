"""Configuration files to start from: ``config``, and PaddleX's ``--get_pipeline_config``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from maskline._options import Checked, Option
from maskline.cli.options import options
from maskline.errors import OutputError, UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigOptions(Checked):
    """Options of ``config``."""

    save_path: Annotated[
        str | None, Option("A .yaml file or a folder to write to.", metavar="PATH", unset="standard output")
    ] = None
    force: Annotated[bool, Option("Overwrite an existing file.")] = False


@click.command()
@click.argument("name", metavar="NAME")
@options(ConfigOptions, "how")
def config(name: str, how: ConfigOptions) -> None:
    """Print the configuration of a model, for `maskline -c`, or of the pipeline instance_segmentation."""
    from maskline import catalog
    from maskline.paddlex.pipeline import PIPELINE
    from maskline.paddlex.reference import PIPELINE_YAML, module_yaml

    if name != PIPELINE and not catalog.has(name):
        raise UnknownNameError.of("configuration", name, [PIPELINE, *catalog.MODELS])
    text = PIPELINE_YAML if name == PIPELINE else module_yaml(name)
    if how.save_path is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"saved to {_write(text, name, how.save_path, how.force)}", err=True)


def save_pipeline_config(name: str, save_path: str | None, force: bool) -> None:
    """Do what ``maskline --get_pipeline_config NAME`` does; without a path, write to the working directory."""
    from maskline.paddlex.pipeline import PIPELINE
    from maskline.paddlex.reference import PIPELINE_YAML

    if name != PIPELINE:
        raise UnknownNameError.of("pipeline", name, [PIPELINE])
    path = _write(PIPELINE_YAML, name, "." if save_path is None else save_path, force)
    click.echo(f"The pipeline config has been saved to: {path}")


def _write(text: str, name: str, save_path: str, force: bool) -> Path:
    from maskline._files import replace_file

    path = Path(save_path)
    if path.suffix.lower() not in (".yaml", ".yml") or path.is_dir():
        path = path / f"{name}.yaml"
    if path.exists() and not force:
        raise OutputError(f"{path} already exists: --force overwrites it")
    return replace_file(path, lambda file: file.write_text(text, encoding="utf-8"))
