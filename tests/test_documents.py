"""What the documents show works: their Python blocks and command lines are run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from fixtures import service, sets

import maskline
from maskline import catalog, cli
from maskline.data.convert import convert

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHINESE = {ROOT / "README.zh-CN.md": None} | {
    p: ROOT / "docs" / p.name for p in sorted((ROOT / "docs" / "zh").glob("*.md"))
}
BLOCK = re.compile(r"```\w*\n(.*?)```", re.S)
PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
ADDRESS = "http://127.0.0.1:8080"  # of the service that blocks ask


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for path in (p for p in DOCUMENTS if p.name != "tutorial.md"):  # tests/e2e/test_training_path.py runs that
        for i, block in enumerate(re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.S)):
            found.append((f"{path.name}-{i}", block))
    return found


@pytest.fixture
def workplace(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files and models that the documents speak of, with tiny models in the place of the official ones."""
    for name in ("S", "L"):
        folder = tmp_path / "models" / name
        shutil.copytree(tiny_model_dir, folder)
        model = onnx.load(folder / "inference.onnx")
        record = json.loads(model.metadata_props[0].value) | {"model": f"Mask-RT-DETR-{name}"}
        model.metadata_props[0].value = json.dumps(record)
        onnx.save(model, folder / "inference.onnx")
        shutil.copytree(folder, tmp_path / "home" / "models" / f"Mask-RT-DETR-{name}")
    (tmp_path / "folder").mkdir()
    for target in ("photo.jpg", "folder/photo.jpg"):
        shutil.copy(PHOTO, tmp_path / target)
    sets.make(tmp_path / "my_data", train=8)
    convert(tmp_path / "my_data", tmp_path / "labelme_data", "labelme")
    shutil.copy(ROOT / "main.py", tmp_path)
    (tmp_path / "my_pipeline.yaml").write_text("pipeline_name: instance_segmentation\n")
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a running service."""
    with service.running("serve") as running:
        yield running.url


def python_lines() -> list[tuple[str, str]]:
    return [(name, block) for name, block in blocks("python") if "serve(" not in block]


@pytest.mark.parametrize("block", [b for _, b in python_lines()], ids=[n for n, _ in python_lines()])
def test_python_blocks_run(block: str, workplace: Path, request: pytest.FixtureRequest) -> None:
    if ADDRESS in block:
        block = block.replace(ADDRESS, request.getfixturevalue("address"))
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=workplace)
    assert done.returncode == 0, done.stderr


def test_python_that_serves_gets_ready_and_ends(workplace: Path) -> None:
    (block,) = (block for _, block in blocks("python") if "serve(" in block)
    command = [sys.executable, "-uc", block.replace("port=8080", "port=0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=workplace) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
    assert lines[1].startswith("serving Mask-RT-DETR-S on ") and process.returncode == 0


def requests_shown() -> list[tuple[str, str]]:
    return [(name, line) for name, block in blocks("bash") for line in block.splitlines() if ADDRESS in line]


@pytest.mark.parametrize("line", [line for _, line in requests_shown()], ids=[name for name, _ in requests_shown()])
def test_requests_are_answered(line: str, workplace: Path, address: str) -> None:
    command = ["bash", "-o", "pipefail", "-ec", line.replace(ADDRESS, address)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace)
    assert done.returncode == 0 and json.loads(done.stdout)["errorCode"] == 0, done.stderr


#: Command lines that can be run here, and what each must leave.
COMMANDS = {
    "maskline predict": "output/photo_res.json",
    "maskline check": "output/check_dataset/report.html",
    "maskline convert": "my_data_*",
    "maskline split": "my_data*",
    "maskline evaluate": "run_*/evaluate/report.html",
    "maskline compare": "run_a/evaluate/detections.json",
    "python main.py": "output/check_dataset_result.json",
}


def runnable() -> list[tuple[str, list[tuple[str, str]]]]:
    """By block: its command lines that can be run, with what they must leave."""
    found = []
    for name, block in blocks("bash"):
        shown = [line.split("#")[0].strip() for line in block.splitlines()]
        lines = [(line, left) for line in shown for start, left in COMMANDS.items() if line.startswith(start)]
        if lines and "maskline train" not in block:
            found.append((name, lines))
    return found


@pytest.mark.parametrize("lines", [lines for _, lines in runnable()], ids=[name for name, _ in runnable()])
def test_command_lines_run(lines: list[tuple[str, str]], workplace: Path) -> None:
    for line, left in lines:
        program, *arguments = shlex.split(line)
        start = ["-m", "maskline"] if program == "maskline" else []
        done = subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True, cwd=workplace)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert list(workplace.glob(left)), line


def test_documents_have_such_blocks() -> None:
    shown = [line for _, lines in runnable() for line, _ in lines]
    assert len(blocks("python")) >= 2 and len(requests_shown()) >= 2
    assert all(any(line.startswith(c) for line in shown) for c in COMMANDS)


def test_pages_in_chinese_have_the_blocks_of_those_in_english() -> None:
    """So that what is run above is theirs too. The README is a shorter one, with no block of Python of its own."""
    assert len(CHINESE) == 9
    for chinese, english in CHINESE.items():
        text = chinese.read_text(encoding="utf-8")
        if english is None:
            assert all(block in (ROOT / "README.md").read_text(encoding="utf-8") for block in python_blocks(text))
        else:
            assert code(text) == code(english.read_text(encoding="utf-8")), chinese.name


@pytest.mark.parametrize("page", [page.name for page, english in CHINESE.items() if english is not None])
def test_pages_in_chinese_name_what_those_in_english_name(page: str) -> None:
    """Every heading, row and link has its counterpart, and options, keys, files and values are the same."""
    chinese, english = (
        BLOCK.sub("", (ROOT / "docs" / folder / page).read_text(encoding="utf-8")) for folder in ("zh", "")
    )
    for shape in (r"^#+ ", r"^- ", r"^\|", r"\]\("):
        assert len(re.findall(shape, chinese, re.M)) == len(re.findall(shape, english, re.M)), shape
    named = [set(re.findall(r"`([^`\n]+)`", text)) for text in (chinese, english)]
    assert not named[0] ^ named[1]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


def code(text: str) -> list[list[str]]:
    """The blocks of a page, without remarks."""
    return [[line.partition(" #")[0].rstrip() for line in block.splitlines()] for block in BLOCK.findall(text)]


@pytest.mark.parametrize("path", [*DOCUMENTS, *CHINESE], ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_have_no_leftovers_of_an_edit(path: Path) -> None:
    """Every table has a head and a separator, every section has content, and no heading appears twice."""
    lines = re.sub(r"<!--.*?-->\n", "", BLOCK.sub("block\n", path.read_text(encoding="utf-8"))).splitlines()
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if line.startswith("|") and not before.startswith("|"):
            assert re.fullmatch(r"\|( ?:?-+:? ?\|)+", after), f"table without a separator: {line}"
            assert line.count("|") == after.count("|"), f"head and separator differ: {line}"
    written = [line for line in lines if line]
    for line, after in zip(written, [*written[1:], "# end"], strict=True):
        if level := heading(line):
            assert not heading(after) or heading(after) > level, f"empty section: {line}"
    titles = [line for line in lines if heading(line)]
    assert len(set(titles)) == len(titles)
    if path in DOCUMENTS:
        assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def heading(line: str) -> int:
    """Its level, or 0 if the line is not a heading."""
    match = re.match(r"(#+) ", line)
    return len(match[1]) if match else 0


#: Programs that blocks of Bash run.
PROGRAMS = {
    "build/maskline_edge",
    "cd",
    "cmake",
    "cp",
    "curl",
    "maskline",
    "mkdir",
    "npm",
    "pip",
    "python",
    "tritonserver",
}


@pytest.mark.parametrize("path", [*DOCUMENTS, *CHINESE], ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_bash_are_commands(path: Path) -> None:
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
        for line in filter(None, block.replace("\\\n", " ").splitlines()):
            program = line.split()[0]
            assert program in PROGRAMS or program == "#" or (ROOT / program).is_file(), line


def test_every_model_has_advice_on_when_to_choose_it() -> None:
    """F71, F72."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    advice = text.partition("| you need | use |")[2]
    assert all(f"| {spec.name} |" in text for spec in catalog.MODELS.values())
    for family in ("Mask-RT-DETR-L", "Cascade Mask R-CNN", "MaskRCNN-ResNeXt101-vd-FPN", "SOLOv2", "PP-YOLOE_seg-S"):
        assert family in advice


def test_the_tutorial_ends_with_one_s_own_weights_in_the_pipeline() -> None:
    """Annotate, train on, put the weights into the file."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    steps = (
        "labelme my_labelme",
        "maskline train",
        "maskline evaluate",
        "set `model_name`",
        "--pipeline my_pipeline.yaml",
    )
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    for path in (*DOCUMENTS, *CHINESE):
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                file, _, anchor = link.partition("#")
                target = path.parent / file if file else path
                assert target.exists() and (not anchor or anchor in anchors(target)), f"{path.name}: {link}"


@pytest.mark.parametrize(
    ("page", "name"),
    [
        *((page, name) for page in ("predict.md", "zh/predict.md") for name in ("predict", "")),
        *((page, "serve") for page in ("serve.md", "zh/serve.md")),
        *((page, name) for page in ("data.md", "zh/data.md") for name in ("check", "convert", "split")),
        ("train.md", "train"),
        ("evaluate.md", "evaluate"),
        ("evaluate.md", "compare"),
    ],
)
def test_options_are_documented(page: str, name: str) -> None:
    command = cli.cli.commands[name] if name else cli.cli
    elsewhere = (
        [] if name else [flag for p in cli.cli.commands["serve"].params for flag in (*p.opts, *p.secondary_opts)]
    )
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    options = [
        option
        for p in command.params
        if not getattr(p, "hidden", False)
        for option in (*p.opts, *p.secondary_opts)
        if option.startswith("--") and option not in elsewhere
    ]
    assert not [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)]
