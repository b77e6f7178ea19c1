"""What the extra ``data`` installs; without it, importing this raises MissingDependencyError."""

from importlib.util import find_spec

from maskline.errors import MissingDependencyError

NEEDED = ("defusedxml", "jinja2", "matplotlib", "pycocotools", "shapely")

if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise MissingDependencyError(f"data sets need {', '.join(missing)}: pip install 'maskline[data]'")

from pycocotools import mask as coco  # noqa: E402 (only where it can be imported)

__all__ = ["coco"]
