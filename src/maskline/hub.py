"""From a catalog name to a model directory: fetched and exported once, then taken from the cache."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from maskline import catalog
from maskline.errors import MissingDependencyError, ParameterError
from maskline.runtime.model_dir import GRAPH_FILE
from maskline.weights.download import fetch, home


def model_dir(name: str) -> Path:
    """The directory of an official model, made on first use: its weights are downloaded and exported.

    Raises:
        UnknownNameError, DownloadError: see there.
        MissingDependencyError: the export needs torch, which is not installed.
    """
    row = catalog.get(name)
    folder = home() / "models" / row.name
    if (folder / GRAPH_FILE).is_file():
        return folder
    refuse_planned(row)
    if find_spec("torch") is None:
        raise MissingDependencyError(
            f"{row.name} is not in {folder.parent}: to make it once, pip install 'maskline[train]' and run "
            f"`maskline export {row.name} --output {folder}`, or copy a directory made elsewhere to {folder}"
        )
    from maskline.export import export

    return export(row.name, weights_file(row), folder)


def weights_file(row: catalog.Model) -> Path:
    """The official weights of a catalog row, downloaded on first use."""
    refuse_planned(row)
    name = row.pretrained_url.rpartition("/")[2]
    return fetch(row.pretrained_url, home() / "weights" / name, sha256=row.pretrained_sha256)


def refuse_planned(row: catalog.Model) -> None:
    """Raise ParameterError for a row whose network is not written yet."""
    if not row.supported:
        working = ", ".join(m.name for m in catalog.MODELS.values() if m.supported)
        raise ParameterError(f"{row.name} is planned, not working yet: this version has {working}")
