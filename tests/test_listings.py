"""The documents' own client programs, in seven languages, against a service: as they stand there, but for its address.

They are PaddleX's, and not part of this project: give a copy of its documents, such as
``docs/pipeline_usage/tutorials/cv_pipelines``, by the variable `DOCUMENTS`. `FIXTURES` has stand-ins for two libraries
that are in no package, and an entry point for C#.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from fixtures.narrow import imread
from fixtures.service import IMAGE, Service, running

DOCUMENTS = "PADDLEX_DOCUMENTS"
FIXTURES = Path(__file__).parent / "fixtures" / "listings"
JACKSON = [Path("/usr/share/java") / f"jackson-{part}.jar" for part in ("annotations", "core", "databind")]
JSON_NET = Path("/usr/lib/cli/Newtonsoft.Json-5.0/Newtonsoft.Json.dll")

#: Mistakes of the documents that keep a listing from being compiled, and what is meant.
MISTAKES = {"cpp": {"outPutImagePath": "outputImagePath"}}


class Listing(NamedTuple):
    """A program in a document."""

    document: str
    language: str
    code: str


def listings() -> list[Listing]:
    """All that ask a service for instances."""
    found = []
    for path in sorted(Path(os.environ.get(DOCUMENTS, "/nowhere")).glob("*.md")):
        for language, code in re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S):
            if "/instance-segmentation" in code:
                found.append(Listing(path.stem, language, code))
    return found


def make(*command: object, within: Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=within)
    assert done.returncode == 0, done.stdout + done.stderr


def written(code: str, folder: Path, name: str) -> Path:
    (folder / name).write_text(code, encoding="utf-8")
    return folder / name


def cpp(code: str, folder: Path) -> list[object]:
    (folder / "cpp-httplib").symlink_to("/usr/include")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "cpp-httplib"], capture_output=True, text=True).stdout
    source = written(code, folder, "client.cpp")
    make(
        "c++",
        "-std=c++17",
        source,
        "-I",
        folder,
        "-I",
        FIXTURES / "include",
        *flags.split(),
        "-o",
        "client",
        within=folder,
    )
    return [folder / "client"]


def java(code: str, folder: Path) -> list[object]:
    (folder / "okhttp3").mkdir()
    head, *classes = re.split(r"^(?=class |/\*\*)", (FIXTURES / "OkHttp.java").read_text("utf-8"), flags=re.M)
    for text in classes:
        if name := re.search(r"^class (\w+)", text, re.M):
            written(head + text.replace("class", "public class", 1), folder, f"okhttp3/{name[1]}.java")
    path = ":".join(map(str, [*JACKSON, folder]))
    make("javac", "-cp", path, written(code, folder, "Main.java"), *folder.glob("okhttp3/*.java"), within=folder)
    return ["java", "-cp", path, "Main"]


def csharp(code: str, folder: Path) -> list[object]:
    libraries = ["-r:System.Net.Http.dll", f"-r:{JSON_NET}"]
    sources = [written(code, folder, "client.cs"), FIXTURES / "Start.cs"]
    make("mcs", "-out:client.exe", "-main:Start", *libraries, *sources, within=folder)
    shutil.copy(JSON_NET, folder)
    return ["mono", folder / "client.exe"]


def go(code: str, folder: Path) -> list[object]:
    make("go", "build", "-o", "client", written(code, folder, "client.go"), within=folder)
    return [folder / "client"]


BUILD: dict[str, Callable[[str, Path], list[object]]] = {
    "python": lambda code, folder: [sys.executable, written(code, folder, "client.py")],
    "cpp": cpp,
    "java": java,
    "go": go,
    "csharp": csharp,
    "js": lambda code, folder: ["node", written(code, folder, "client.js")],  # finds axios by NODE_PATH
    "php": lambda code, folder: ["php", written(code, folder, "client.php")],
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running("--serve", "--model", "embedded", "--no-access-log") as service:
        yield service


def test_a_copy_of_the_documents_has_them_all() -> None:
    if DOCUMENTS not in os.environ:
        pytest.skip(f"{DOCUMENTS} names no copy of PaddleX's documents")
    for document in {listing.document for listing in listings()}:
        assert {listing.language for listing in listings() if listing.document == document} == set(BUILD)
    assert listings()


@pytest.mark.parametrize("listing", listings(), ids=lambda listing: f"{listing.document}-{listing.language}")
def test_a_listing_gets_the_instances_and_the_image(listing: Listing, service: Service, tmp_path: Path) -> None:
    """F51: compiled, run, and answered as its reader expects."""
    code = listing.code.replace("localhost:8080", service.url.partition("//")[2])
    assert code != listing.code
    for wrong, meant in MISTAKES.get(listing.language, {}).items():
        code = code.replace(wrong, meant)
    shutil.copy(IMAGE, tmp_path / "demo.jpg")
    command = BUILD[listing.language](code, tmp_path)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    image = base64.b64encode(IMAGE.read_bytes()).decode()
    instances = service.post({"image": image}).json()["result"]["instances"]
    assert len(instances) > 5 and len(re.findall(r"\bscore\b", done.stdout)) == len(instances), done.stdout
    rendered = cv2.imdecode(np.frombuffer((tmp_path / "out.jpg").read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert rendered is not None and rendered.shape == imread(IMAGE).shape
