"""maskline: instance segmentation from a photo to masks.

>>> import maskline
>>> model = maskline.create_model("Mask-RT-DETR-S")  # doctest: +SKIP
>>> for result in model.predict("photo.jpg"):  # doctest: +SKIP
...     result.save_to_img("output")

Public names load on first use, so that importing maskline is quick and only `export` needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from maskline.api import create_model, create_pipeline
    from maskline.errors import MasklineError
    from maskline.export import export
    from maskline.instances import Instances
    from maskline.results import Result
    from maskline.runtime.predictor import Predictor

_HOMES = {
    "create_model": "maskline.api",
    "create_pipeline": "maskline.api",
    "export": "maskline.export",
    "Instances": "maskline.instances",
    "MasklineError": "maskline.errors",
    "Predictor": "maskline.runtime.predictor",
    "Result": "maskline.results",
}

__all__ = [
    "Instances",
    "MasklineError",
    "Predictor",
    "Result",
    "__version__",
    "create_model",
    "create_pipeline",
    "export",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'maskline' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # also replaces the submodule of the same name, which `import maskline.export` left here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
