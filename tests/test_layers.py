"""Imports go one way, and the half that predicts never reaches torch. Read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import maskline

ROOT = Path(maskline.__file__).parent

#: From the bottom up; a module imports from its own line and those above it in this list.
LAYERS = (
    ("errors",),
    ("_checks", "_cpu", "_files", "_lazy", "_plots", "_progress", "_templates", "_wording", "instances", "masks"),
    ("_options",),
    ("fetching", "preprocess"),
    ("catalog", "inputs"),
    ("render",),
    ("outputs",),
    ("data",),
    ("runtime",),
    ("evaluate", "serve"),
    ("models",),
    ("weights",),
    ("exporting",),
    ("hub",),
    ("training",),
    ("api",),
    ("paddlex",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TORCH_FREE = {name for name in LEVEL if LEVEL[name] <= LEVEL["evaluate"]} | {"hub", "api", "paddlex", "cli"}
TORCH_FREE_FILES = {"weights/pdparams.py", "weights/__init__.py"}

FILES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, anywhere: bool) -> set[str]:
    """Full names of imported modules; ``anywhere``: also those inside functions, but not for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))]
    nodes = [inner for node in body for inner in (ast.walk(node) if anywhere else [node])]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "maskline" else node.module for alias in node.names
            }
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    own = layer_of(path)
    assert own in LEVEL, f"{own} has no layer: add it to LAYERS and docs/design.md"
    for module in imports(path, anywhere=True):
        if module.startswith("maskline."):
            other = module.split(".")[1]
            if other != "__version__":
                assert LEVEL[other] <= LEVEL[own], f"{path.name} imports {module}, which is above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_half_that_predicts_does_not_import_torch(path: Path) -> None:
    if layer_of(path) in TORCH_FREE or str(path.relative_to(ROOT)) in TORCH_FREE_FILES:
        assert not {m for m in imports(path, anywhere=True) if m.split(".")[0] in ("torch", "safetensors", "onnx")}


@pytest.mark.parametrize(
    ("package", "importer"),
    [
        ("onnxruntime", "runtime/providers.py"),
        ("openvino", "runtime/openvino_backend.py"),
        ("matplotlib", "_plots.py"),
    ],
)
def test_packages_that_do_more_than_asked_have_one_importer(package: str, importer: str) -> None:
    """Which keeps them from sending reports of use and from leaving files in the user's home."""
    for path in FILES:
        if str(path.relative_to(ROOT)) != importer:
            assert not {m for m in imports(path, anywhere=True) if m.split(".")[0] == package}, path
            assert f'import_module("{package}' not in path.read_text(encoding="utf-8"), path


def test_design_lists_the_same_layers() -> None:
    design = (ROOT.parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
    block = design.split("```\nerrors\n")[1].split("```")[0]
    assert tuple(tuple(line.split(", ")) for line in block.splitlines()) == LAYERS[1:]


def test_files_are_small() -> None:
    tests = Path(__file__).parent.rglob("*.py")
    long = {p.name: n for p in (*FILES, *tests) if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500}
    assert not long


def loaded_by(statement: str) -> set[str]:
    """Which modules a fresh interpreter has after a statement."""
    script = f"import sys\n{statement}\nprint('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("modules:")[2].split())


def test_importing_maskline_loads_nothing_heavy() -> None:
    """B75."""
    assert not loaded_by("import maskline") & {"numpy", "cv2", "onnxruntime", "torch", "yaml", "PIL"}


def test_help_loads_nothing_heavy() -> None:
    """B75."""
    run = "from maskline.cli import cli\ntry: cli(['predict', '--help'])\nexcept SystemExit: pass"
    assert not loaded_by(run) & {"numpy", "cv2", "onnxruntime", "torch", "yaml", "PIL", "requests", "rich"}


def test_predicting_does_not_load_torch(tiny_model_dir: Path) -> None:
    run = (
        "import maskline, numpy\n"
        f"m = maskline.create_model(model_dir={str(tiny_model_dir)!r}, threshold=0.1)\n"
        "assert len(list(m.predict(numpy.zeros((50, 60, 3), numpy.uint8)))) == 1"
    )
    assert "torch" not in loaded_by(run)
