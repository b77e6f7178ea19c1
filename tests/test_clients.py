"""The seven programs of `examples/clients`: built here, each gets from a service what Python finds itself."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import requests
from fixtures.narrow import imread
from fixtures.service import running

from maskline import create_model, hub
from maskline.masks import rle_encode
from maskline.outputs.result import Result

CLIENTS = Path(__file__).parents[1] / "examples" / "clients"
CELLS = hub.EMBEDDED.parent / "nuclei.png"
GSON = Path("/usr/share/java/gson.jar")
JSON_NET = Path("/usr/lib/cli/Newtonsoft.Json-5.0/Newtonsoft.Json.dll")


class Toolchain(NamedTuple):
    """What a client needs, found by what is missing, and how it is built: a folder to build in -> its command line."""

    missing: Callable[[], list[str]]
    build: Callable[[Path], list[str]]


def programs(*names: str) -> list[str]:
    return [name for name in names if not shutil.which(name)]


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def make(*command: object, within: Path | None = None) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=within)
    assert done.returncode == 0, done.stdout + done.stderr


def cpp_missing() -> list[str]:
    if missing := programs("cmake", "c++", "pkg-config"):
        return missing
    return [name for name in ("cpp-httplib", "nlohmann_json") if not succeeds("pkg-config", "--exists", name)]


def build_cpp(folder: Path) -> list[str]:
    make("cmake", "-S", CLIENTS / "cpp", "-B", folder, "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-Werror")
    make("cmake", "--build", folder)
    return [str(folder / "client")]


def build_java(folder: Path) -> list[str]:
    options = ["--release", "11", "-Xlint:all,-serial", "-Werror"]
    make("javac", *options, "-cp", GSON, "-d", folder, CLIENTS / "java" / "Client.java")
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{GSON}:{folder}", "Client"]


def build_go(folder: Path) -> list[str]:
    make("go", "build", "-buildvcs=false", "-o", folder / "client", within=CLIENTS / "go")
    return [str(folder / "client")]


def build_csharp(folder: Path) -> list[str]:
    source, program = CLIENTS / "csharp" / "Client.cs", folder / "client.exe"
    make("mcs", "-warnaserror", f"-out:{program}", "-r:System.Net.Http.dll", f"-r:{JSON_NET}", source)
    return ["mono", str(program)]


def script(program: str, path: str) -> Callable[[Path], list[str]]:
    return lambda folder: [program, str(CLIENTS / path)]


TOOLCHAINS = {
    "python": Toolchain(list, script(sys.executable, "python/client.py")),
    "cpp": Toolchain(cpp_missing, build_cpp),
    "java": Toolchain(lambda: programs("java", "javac") + ["Gson"] * (not GSON.exists()), build_java),
    "go": Toolchain(lambda: programs("go"), build_go),
    "csharp": Toolchain(lambda: programs("mcs", "mono") + ["Newtonsoft.Json"] * (not JSON_NET.exists()), build_csharp),
    "nodejs": Toolchain(lambda: programs("node"), script("node", "nodejs/client.mjs")),
    "php": Toolchain(
        lambda: programs("php") or ["php-curl"] * (not succeeds("php", "-r", "exit((int) !extension_loaded('curl'));")),
        script("php", "php/client.php"),
    ),
}


class Client(NamedTuple):
    """A client's command line, ready to be completed."""

    command: list[str]

    def __call__(self, *arguments: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run it in the plainest of locales, and not through a proxy."""
        plain = {name: value for name, value in os.environ.items() if not re.search("proxy|MASKLINE", name, re.I)}
        command = [*self.command, *(str(argument) for argument in arguments)]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", env={**plain, "LC_ALL": "C", **env}, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def fault(self, *arguments: object) -> str:
        """The one line that reports a fault."""
        done = self(*arguments, code=1)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not done.stdout, done
        return done.stderr


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[list[str]]]]:
    """Clients in the making, while others are tested already."""
    with ThreadPoolExecutor(1) as pool:
        yield {
            name: pool.submit(toolchain.build, tmp_path_factory.mktemp(name))
            for name, toolchain in TOOLCHAINS.items()
            if not toolchain.missing()
        }


@pytest.fixture(scope="module", params=TOOLCHAINS)
def client(request: pytest.FixtureRequest, builds: dict[str, Future[list[str]]]) -> Client:
    if request.param not in builds:
        pytest.skip(f"the client in {request.param} needs {', '.join(TOOLCHAINS[request.param].missing())}")
    return Client(builds[request.param].result())


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The URL of maskline's own, with the embedded model."""
    with running("serve", "--no-access-log") as service:
        yield service.url


class Made(NamedTuple):
    """An instance of our own, and where its mask has to be put."""

    corner: tuple[float, float]  # x, y of its box
    place: tuple[int, int]  # row, column
    mask: np.ndarray
    name: str = "cell"

    def as_json(self) -> dict[str, object]:
        (x, y), (height, width) = self.corner, self.mask.shape
        mask = {"rleResult": rle_encode(self.mask), "size": [height, width]}
        box = [x, y, x + width, y + height]
        return {"bbox": box, "categoryId": 0, "categoryName": self.name, "score": 0.5, "mask": mask}


SIZE = (40, 60)
#: Corners halfway between pixels, which go to the even one; masks that overlap, or have no pixels.
MADE = [
    Made((2.5, 3.5), (4, 2), np.random.default_rng(8).random((25, 31)) < 0.7, 'ψ "x, y"'),
    Made((0.5, 4.5), (4, 0), np.ones((24, 31), np.uint8)),
    Made((50.49, 0), (0, 50), np.eye(40, 9, dtype=np.uint8)),
    Made((7, 36.0), (36, 7), np.ones((4, 0), np.uint8)),
    Made((59.5, 39.5), (40, 60), np.ones((0, 0), np.uint8)),
    Made((29, 9.51), (10, 29), np.pad(np.ones((1, 2), np.uint8), 1)),
]


def answer(made: list[Made] = MADE, **result: object) -> dict[str, object]:
    """A reply of success; what is ``...`` is left out of the result."""
    whole = {"instances": [one.as_json() for one in made], "image": None, "size": SIZE, **result}
    kept = {name: value for name, value in whole.items() if value is not ...}
    return {"logId": "y", "errorCode": 0, "errorMsg": "Success", "result": kept}


class Reply(NamedTuple):
    """What a stub answers."""

    body: object  # bytes, or what becomes JSON
    status: int = 200
    retry_after: str | None = None
    delay: float = 0.0  # seconds


class Stub(ThreadingHTTPServer):
    """A server that gives these replies, the last for ever, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[Reply] = []
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def reply(self, *replies: Reply) -> None:
        self.replies, self.asked = list(replies), []


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        time.sleep(reply.delay)
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("content-length", str(len(content)))
        if reply.retry_after is not None:
            self.send_header("retry-after", reply.retry_after)
        with suppress(ConnectionError):  # a client may have given up
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def labels_of(folder: Path) -> np.ndarray:
    labels = cv2.imread(str(folder / "masks.pgm"), cv2.IMREAD_UNCHANGED)
    assert labels is not None and labels.dtype == np.uint16
    return labels


def stacked(size: tuple[int, int], masks: list[tuple[tuple[int, int], np.ndarray]]) -> np.ndarray:
    """Masks, best first, numbered from 1 where (row, column) says."""
    labels = np.zeros(size, np.uint16)
    for number, ((row, column), mask) in reversed(list(enumerate(masks, start=1))):
        labels[row : row + mask.shape[0], column : column + mask.shape[1]][mask > 0] = number
    return labels


class Row(NamedTuple):
    """An instance as a client prints it."""

    score: float
    box: list[float]
    pixels: int
    name: str


def rows(done: subprocess.CompletedProcess[str]) -> list[Row]:
    cells = [line.split("\t") for line in done.stdout.splitlines()]
    return [Row(float(c[0]), [float(side) for side in c[1:5]], int(c[5]), c[6]) for c in cells]


@cache
def found_here(threshold: float | None) -> Result:
    return next(iter(create_model(device="cpu").predict(CELLS, threshold=threshold)))


def check(done: subprocess.CompletedProcess[str], folder: Path, threshold: float | None = None) -> None:
    """The instances are those that Python finds, and the masks are equal in every pixel."""
    result = found_here(threshold)
    corners = [(round(box["coordinate"][1]), round(box["coordinate"][0])) for box in result["boxes"]]
    expected = stacked(result.instances.size, list(zip(corners, result["masks"], strict=True)))
    np.testing.assert_array_equal(labels_of(folder), expected)
    found = rows(done)
    assert len(found) == len(result["boxes"]) > 5
    for row, box, mask in zip(found, result["boxes"], result["masks"], strict=True):
        assert row.name == box["label"] and row.pixels == np.count_nonzero(mask)
        assert row.score == pytest.approx(box["score"], abs=6e-5)
        assert row.box == pytest.approx(box["coordinate"], abs=0.06)


def test_masks_are_those_that_python_finds(client: Client, service: str, tmp_path: Path) -> None:
    """F51: every language, pixel for pixel; and the rendered image comes."""
    done = client("--url", service, CELLS, tmp_path / "new" / "folder")
    check(done, tmp_path / "new" / "folder")
    rendered = cv2.imread(str(tmp_path / "new" / "folder" / "rendered.jpg"))
    assert rendered is not None and rendered.shape == imread(CELLS).shape
    assert not done.stderr


def test_without_an_image(client: Client, service: str, tmp_path: Path) -> None:
    """F51, B50: nothing is rendered, and nothing fails; the threshold is heeded."""
    done = client("--url", f"{service}/", "--threshold", "0.68", "--no-image", CELLS, tmp_path)
    check(done, tmp_path, threshold=0.68)
    assert {path.name for path in tmp_path.iterdir()} == {"masks.pgm"}


def test_what_is_not_an_image_is_an_error(client: Client, service: str, tmp_path: Path) -> None:
    """F51, B44: the service's reason, and the id by which its log knows the request."""
    assert re.search(r"^error: 422: .*image.* \(logId [\w-]{36}\)$", client.fault("--url", service, __file__, tmp_path))
    assert not list(tmp_path.iterdir())


def test_faults_on_this_side_are_reported(client: Client, stub: Stub, tmp_path: Path) -> None:
    """F51: no file, no server, no time; what can't be understood gets the usage."""
    for image in (tmp_path / "nothing.png", tmp_path):
        assert client.fault("--url", stub.url, image, tmp_path).startswith(f"error: {image} can't be read")
    assert client.fault("--url", "http://127.0.0.1:1", CELLS, tmp_path).startswith("error: no answer from http://127")
    stub.reply(Reply({}, delay=20))
    started = time.monotonic()
    message = client.fault("--url", stub.url, "--timeout", "0.3", CELLS, tmp_path)
    assert message.startswith("error: no answer from") and time.monotonic() - started < 15
    (tmp_path / "file").touch()
    stub.reply(Reply(answer()))
    message = client("--url", stub.url, CELLS, tmp_path / "file", code=1).stderr
    assert str(tmp_path / "file") in message and message.count("\n") == 1
    for wrong in (["--threshold", "nan"], ["--timeout", "-1"], [CELLS]):
        assert "usage: " in client(*wrong, CELLS, tmp_path, code=2).stderr


def test_a_busy_server_is_asked_again(client: Client, stub: Stub, tmp_path: Path) -> None:
    """F51: when it says, and a bounded number of times."""
    busy = {"logId": "x", "errorCode": 429, "errorMsg": "too many images wait"}
    later = Reply(busy, 503, "Wed, 21 Oct 2015 07:28:00 GMT")  # not in seconds: one is waited
    stub.reply(Reply(busy, 429, "0"), later, Reply(answer()))
    started = time.monotonic()
    assert len(rows(client("--url", stub.url, CELLS, tmp_path))) == len(MADE)
    assert time.monotonic() - started >= 1 and len(stub.asked) == 3
    stub.reply(Reply(busy, 429, "0"))
    message = client("--url", stub.url, CELLS, tmp_path, code=1).stderr.splitlines()
    assert message[-1] == "error: 429: too many images wait (logId x)" and len(stub.asked) == 5


def test_masks_are_put_in_their_places(client: Client, stub: Stub, tmp_path: Path) -> None:
    """F51: the run lengths of all sorts of masks; the better instance on top; numbers beyond 8 bits; any name."""
    single = np.ones((1, 1), np.uint8)
    made = MADE + [Made((i % 60, i // 60), (i // 60, i % 60), single) for i in range(300)]
    stub.reply(Reply(answer(made, image=...)))
    found = rows(client("--url", stub.url, CELLS, tmp_path))
    np.testing.assert_array_equal(labels_of(tmp_path), stacked(SIZE, [(one.place, one.mask) for one in made]))
    assert [row.name for row in found] == [one.name for one in made]
    assert [row.pixels for row in found] == [np.count_nonzero(one.mask) for one in made]


VECTORS = ["0Xg0 24 31 744", "0T^2 50 50 2500", "0`< 20 20 400", "0X6 10 20 200", "41202 3 4 2", "0< 4 3 12", "0 4 0 0"]


def test_vectors_of_the_format(client: Client, stub: Stub, tmp_path: Path) -> None:
    """F51: as PaddleX's service writes them."""
    template = Made((0, 0), (0, 0), np.ones((1, 1), np.uint8)).as_json()
    vectors = [(counts, [int(number) for number in numbers]) for counts, *numbers in map(str.split, VECTORS)]
    instances = [template | {"mask": {"rleResult": counts, "size": numbers[:2]}} for counts, numbers in vectors]
    stub.reply(Reply(answer(instances=instances, size=[50, 50])))
    found = rows(client("--url", stub.url, CELLS, tmp_path))
    assert [row.pixels for row in found] == [numbers[2] for _, numbers in vectors]


def test_requests(client: Client, stub: Stub, tmp_path: Path) -> None:
    """F51: said to be JSON, the image whole, no field that was not asked for; the key, where there is one."""
    image = base64.b64encode(CELLS.read_bytes()).decode()
    stub.reply(Reply(answer([])))
    client("--url", stub.url, CELLS, tmp_path)
    client("--url", stub.url, "--no-image", "--threshold", "0.25", CELLS, tmp_path, MASKLINE_API_KEY="k-1")
    (path, headers, body), (_, keyed, asked) = stub.asked
    assert path == "/instance-segmentation" and body == {"image": image, "visualize": True}
    assert asked == {"image": image, "visualize": False, "threshold": 0.25}
    types = [value for name, value in headers.items() if name.lower() == "content-type"]
    assert len(types) == 1 and types[0].split(";")[0] == "application/json"
    assert "Authorization" not in headers and keyed["Authorization"] == "Bearer k-1"


def malformed(**change: object) -> dict[str, object]:
    """An answer with one instance, of whose fields one is changed, or left out with ``...``."""
    one = Made((1, 1), (1, 1), np.ones((2, 2), np.uint8)).as_json() | change
    return answer(instances=[{name: value for name, value in one.items() if value is not ...}])


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(b"<html>\nBad gateway</html>", 502), "answered 502 without a JSON object"),
        (Reply({"result": {}}), r"200: .*\(logId"),
        (Reply({"logId": "a", "errorCode": 500, "errorMsg": "two\nlines"}, 500), r"500: two lines \(logId a\)"),
        (Reply(answer(size=...)), "unexpected answer: "),
        (Reply(malformed(mask=...)), "unexpected answer: "),
        (Reply(malformed(bbox=[-1, 0, 1, 2])), "unexpected answer: a mask exceeds the image"),
        (Reply(malformed(mask={"rleResult": "05", "size": [2, 2]})), "unexpected answer: RLE does not match"),
        (Reply(malformed(mask={"rleResult": "o" * 40, "size": [2, 2]})), "unexpected answer: RLE does not match"),
    ],
)
def test_invalid_answers_are_reported(client: Client, stub: Stub, tmp_path: Path, reply: Reply, message: str) -> None:
    """F51: in one line, and no file is written."""
    stub.reply(reply)
    done = client("--url", stub.url, CELLS, tmp_path, code=1)
    assert re.search(message, done.stderr) and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", None])
def test_requests_of_paddlex_s_own_clients(service: str, content_type: str | None) -> None:
    """B46, F44: JSON sent as a form, as curl and axios say of any text, or without a type; no logId is needed."""
    body = json.dumps({"image": base64.b64encode(CELLS.read_bytes()).decode()})
    response = requests.post(
        f"{service}/instance-segmentation", data=body.encode(), headers={"Content-Type": content_type}, timeout=60
    )
    assert response.status_code == 200
    result = response.json()["result"]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(result["image"]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and len(result["instances"]) > 5
    assert all(len(one["bbox"]) == 4 and one["score"] > 0 for one in result["instances"])


def test_every_client_is_described() -> None:
    """F51: their guide describes how to run each."""
    guide = (CLIENTS / "README.md").read_text("utf-8")
    folders = {path.name for path in CLIENTS.iterdir() if path.is_dir()}
    assert folders == set(TOOLCHAINS)
    commands = re.findall(r"^cd examples/clients/(\w+)$", guide, re.M)
    assert sorted(commands) == sorted(folders)
