"""A model repository for Triton Inference Server: a model directory, and code for its Python backend.

    OUTPUT/instance-segmentation/config.pbtxt
    OUTPUT/instance-segmentation/1/inference.onnx, inference.yml, model.py

Names and tensors are those of PaddleX's high-stability serving, see `maskline.serve.kserve`.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from maskline._files import replace_files
from maskline.errors import OutputError
from maskline.runtime.backend import GRAPH_FILES

FORMAT = "triton"  # value of the option
MODEL, VERSION = "instance-segmentation", "1"

_TEMPLATES = Path(__file__).with_name("triton_model")
_CONFIG, _CODE = "config.pbtxt", "model.py"

logger = logging.getLogger("maskline")


def model_dir(repository: Path) -> Path:
    """Return the model directory in a repository."""
    return repository / MODEL / VERSION


def replace_model(repository: Path, made: Path) -> None:
    """Copy a model directory, and the code that Triton runs, into a repository: all or nothing.

    Args:
        repository: created if missing. An existing configuration is kept, because users edit it.
        made: the model directory; ``model.py`` is added to it.

    Raises:
        OutputError: a file can't be written; the previous content is kept.
    """
    shutil.copyfile(_TEMPLATES / f"{_CODE}.txt", made / _CODE)
    config = repository / MODEL / _CONFIG
    is_new = not config.exists()
    if is_new:
        replace_files(config.parent, [_TEMPLATES / _CONFIG])
    else:
        logger.info("%s is kept", config)
    try:
        graph_last = sorted(made.iterdir(), key=lambda path: path.name == GRAPH_FILES["onnx"])
        replace_files(model_dir(repository), graph_last)
    except OutputError:
        if is_new:
            config.unlink(missing_ok=True)
        raise
