"""What is shown on a terminal of 80 columns: lines as they were written, above the bar, and nothing left of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import sets
from fixtures.terminal import on_terminal

import maskline
from maskline._progress import track

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"

#: A line longer than the terminal is wide, with what rich would take for markup, a link and a tab to expand.
LONG = "{'res': '" + 10 * "[bold]folder[/]/" + "\\t:smile: https://example.com'}"

PROGRAM = f"""
import logging, sys, time, click
from maskline._progress import log_to_terminal, status, track
log_to_terminal()
long = {LONG!r}
for number in track(range(4), "[red]work", 4):
    time.sleep(0.12)
    print(long, number)
    if number == 2:
        logging.getLogger("maskline").warning(long)
        click.echo(long, err=True)
        for _ in track(range(2), "inner", 2):
            print("within", long)
with status("converting [bold]x"):
    print("begun", end="")
print(" and ended")
"""
EXPECTED = [
    *(f"{LONG} {number}" for number in range(3)),
    f"maskline: {LONG}",
    LONG,
    *[f"within {LONG}"] * 2,
    f"{LONG} 3",
    "begun and ended",
]


@pytest.mark.parametrize("columns", [80, 20, 400])
def test_lines_are_as_written(columns: int) -> None:
    shown = on_terminal("-c", PROGRAM, columns=columns)
    assert shown.code == 0 and shown.lines == EXPECTED
    if columns == 400:  # where it has room
        assert "[red]work" in shown.raw and "2/4" in shown.raw and "converting [bold]x" in shown.raw


def test_standard_output_elsewhere_has_the_results_alone(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        shown = on_terminal("-c", PROGRAM, stdout=file)
    printed = [line for line in EXPECTED if line not in (LONG, f"maskline: {LONG}")]
    assert (tmp_path / "out").read_text().splitlines() == printed
    assert shown.lines == [f"maskline: {LONG}", LONG]


def test_an_error_while_a_bar_is_shown_leaves_none() -> None:
    program = """
from contextlib import closing
from maskline._progress import track
import sys
try:
    with closing(track(range(3), "work", 3)) as items:
        for item in items:
            raise OSError("full")
except OSError as error:
    sys.exit(f"maskline: {error}")
"""
    shown = on_terminal("-c", program)
    assert shown.code == 1 and shown.lines == ["maskline: full"] and shown.raw.rstrip().endswith("maskline: full")


def test_the_cursor_comes_back() -> None:
    raw = on_terminal("-c", PROGRAM).raw
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "work", 3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_results_on_a_terminal_are_those_of_a_pipe(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("a long name of a folder " * 4).strip() / "[bold]marked[/bold]"
    folder.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(PHOTO, folder / name)
    (folder / "c.png").write_text("no image")
    command = ["-m", "maskline", "predict", folder, "--model-dir", tiny_model_dir, "--skip-errors"]
    piped = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    shown = on_terminal(*command)
    assert shown.code == piped.returncode == 0 and len(piped.stdout.splitlines()) == 2
    assert shown.lines == [*piped.stdout.splitlines(), *piped.stderr.splitlines()]
    assert "c.png" in piped.stderr and "predict" in shown.raw and "2/3" in shown.raw


def test_other_commands_on_a_terminal_say_what_they_say_elsewhere(tmp_path: Path) -> None:
    data = sets.make(tmp_path / "[link=x]data" / ("long" * 20), train=2, val=1)
    for command in (["check", data], ["convert", data, "new", "--to", "yolo"]):
        whole = ["-m", "maskline", *command]
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        piped = subprocess.run([sys.executable, *map(str, whole)], capture_output=True, text=True, cwd=tmp_path / "a")
        shown = on_terminal(*whole, cwd=tmp_path / "b")
        assert shown.code == piped.returncode == 0, piped.stderr
        assert sorted(shown.lines) == sorted(piped.stdout.splitlines() + piped.stderr.splitlines())
        shutil.rmtree(tmp_path / "a")
        shutil.rmtree(tmp_path / "b")


JOURNAL = f"""
import logging
from pathlib import Path
from maskline._progress import log_to_terminal, track
from maskline.training.logger import TrainingLogger, LogFile
log_to_terminal()
logger = logging.getLogger("maskline")
with LogFile() as file:
    file.open(Path("run"))
    with TrainingLogger(Path("run"), epochs=1, epoch_steps=2, log_interval=1) as run_logger:
        run_logger.step(0, {{"loss_mask": 1.0}}, 0.1, 1, 0.5, 0.0)
        logger.warning({LONG!r})
        for _ in track(range(2), "evaluate", 2):
            logger.info("one")
        run_logger.step(1, {{"loss_mask": 0.5}}, 0.1, 1, 0.5, 0.0)
logger.warning("after")
"""


def test_a_training_on_a_terminal(tmp_path: Path) -> None:
    """Its bar makes room for that of an evaluation, and stays in the end; lines of steps go to the file only."""
    shown = on_terminal("-c", JOURNAL, columns=120, cwd=tmp_path)
    assert shown.code == 0, shown.raw
    first, *infos, bar, after = shown.lines
    assert [first, *infos, after] == [f"maskline: {LONG}", "maskline: one", "maskline: one", "maskline: after"]
    assert "epoch 1/1  loss 0.750" in bar and "2/2" in bar and "evaluate" in shown.raw
    logged = (tmp_path / "run" / "train.log").read_text()
    assert logged.count("Epoch: [0]") == 2 and LONG in logged


def test_the_first_use_of_a_model_is_reported(tmp_path: Path) -> None:
    """It may take minutes before anything is printed."""
    command = ["-m", "maskline", "--pipeline", "instance_segmentation", "--model", "SOLOv2", "--input", PHOTO]
    shown = on_terminal(*command, MASKLINE_HOME=str(tmp_path), MASKLINE_OFFLINE="1")
    assert shown.code == 1 and "first use of SOLOv2: downloading and exporting it takes minutes" in shown.raw
    (line,) = shown.lines
    assert "MASKLINE_OFFLINE forbids network access" in line
