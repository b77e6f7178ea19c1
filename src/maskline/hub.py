"""Model directories by catalog name: weights are downloaded and exported once, then cached."""

from __future__ import annotations

from pathlib import Path

from maskline import catalog
from maskline._files import ASSETS
from maskline._progress import status
from maskline.exporting import make, shipped
from maskline.exporting.options import MOST_GENERAL, ExportOptions
from maskline.fetching.download import cache_dir, download_file
from maskline.runtime.backend import GRAPH_FILES

#: The model shipped with the package, trained on microscopy; see MODEL_CARD.md there.
EMBEDDED = ASSETS / "embedded"
WEIGHTS_FILE = "weights.safetensors"


def model_dir(name: str) -> Path:
    """Return the model directory of a catalog model; the first use downloads and exports its weights.

    Raises: as `make_model_dir`.
    """
    spec = catalog.get(name)
    if spec.ours:
        return EMBEDDED
    folder = cache_dir() / "models" / spec.name
    if not (folder / GRAPH_FILES["onnx"]).is_file():
        weights = weights_file(spec)
        with status(f"first use of {spec.name}: exporting it"):
            make_model_dir(spec.name, folder, weights)
    return folder


def make_model_dir(
    name: str,
    output: str | Path,
    weights: str | Path | None = None,
    *,
    labels_file: str | Path | None = None,
    unaligned: bool = False,
    options: ExportOptions = MOST_GENERAL,
) -> Path:
    """Export weights, by default the official ones, into a model directory; see `maskline.exporting.export`.

    Raises:
        MissingDependencyError: the graph has to be traced, and torch is not installed.
        UnknownNameError, DownloadError, WeightsError, ExportError: as in `export`.
    """
    spec = catalog.get(name)
    labels = None if labels_file is None else make.read_labels(labels_file)
    options.check(spec)  # reject before the download what can't be done
    if unaligned or not shipped.applies(spec, options):
        make.check_torch(f"{spec.name} with these options")
    path = weights_file(spec) if weights is None else Path(weights)
    return make.export_weights(spec, path, output, labels=labels, unaligned=unaligned, options=options)


def weights_file(spec: catalog.Model) -> Path:
    """Return the official weights of a model, downloaded on first use; for our own model, those shipped with it."""
    if spec.ours:
        return EMBEDDED / WEIGHTS_FILE
    name = spec.pretrained_url.rpartition("/")[2]
    return download_file(spec.pretrained_url, cache_dir() / "weights" / name, sha256=spec.pretrained_sha256)
