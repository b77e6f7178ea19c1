"""Read, check, fix, convert, split and visualise data sets. COCO is the hub format; no torch.

Needs the extra ``data``; without it, importing this raises MissingDependencyError.
"""

from importlib.util import find_spec

from maskline.errors import MissingDependencyError

NEEDED = ("defusedxml", "jinja2", "matplotlib", "pycocotools", "shapely")

if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise MissingDependencyError(f"data sets need {', '.join(missing)}: pip install 'maskline[data]'")
