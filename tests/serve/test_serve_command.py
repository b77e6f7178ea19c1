"""``maskline serve`` from outside: how it starts, why it does not, and how its workers share what there is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from fixtures.answers import found
from fixtures.service import IMAGE, Service, ready, running

from maskline._cpu import cores
from maskline.cli.running import Running
from maskline.cli.serving import per_worker, usual_batch
from maskline.runtime.device import CPU, parse_devices


def test_the_documented_command(tmp_path: Path, image: str) -> None:
    """F38, F06, F42, F52: `--serve --pipeline FILE.yaml`; the file's Serving.visualize is the default of answers."""
    file = tmp_path / "pipeline.yaml"
    module = {"module_name": "instance_segmentation", "model_name": None, "model_dir": str(IMAGE.parent / "embedded")}
    config = {
        "pipeline_name": "instance_segmentation",
        "SubModules": {"InstanceSegmentation": {**module, "batch_size": 1, "threshold": 0.5}},
        "Serving": {"visualize": False, "extra": {"max_num_input_imgs": None}},
    }
    file.write_text(json.dumps(config), "utf-8")
    with running("--serve", "--pipeline", str(file), "--use_hpip", "--device", "cpu") as service:
        assert service.post({"image": image}).json()["result"]["image"] is None
        assert service.end() == 0


def maskline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maskline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--model", "Mask-RT-DETR-Z"), 2, "unknown model"),
        (("--model-dir", "/nowhere"), 1, "/nowhere"),
        (("--port", "70000"), 2, "--port is 70000: expected an integer from 0 to 65535"),
        (("--timeout", "-1"), 2, "--timeout is -1"),
        (("--max-pixels", "300"), 2, "queue_pixels is 256 million, max_pixels 300 million"),
        (("--max-body", "0"), 2, "--max-body is 0: expected a number above 0 and up to 1000000"),
        (("--queue-pixels", "-1"), 2, "--queue-pixels is -1: expected a number above 0"),
        (("--max-body", "nan"), 2, "--max-body is nan: expected a number"),
        (("--max-pixels", "inf"), 2, "--max-pixels is inf: expected a number"),
        (("--device", "cpu,cpu", "--workers", "1"), 2, "--workers 1 for 2 devices"),
        (("--workers", "0"), 2, "--workers is 0"),
        (("--cors", "foo bar"), 2, "--cors is 'foo bar'"),
        (("--trusted-host", "a/b"), 2, "--trusted-host is 'a/b'"),
        (("--api-key-file", "/nowhere"), 2, "can't be read"),
        (("--pipeline", "instance_segmentation", "--model", "SOLOv2"), 1, "SOLOv2_pretrained.pdparams"),
        (("--model", "SOLOv2", "--device", "gpu:0"), 1, "pip install 'maskline[gpu]'"),
        (("--allow-url-host", "*", "--allow-url-network", "lan"), 2, "lan"),
        (("--host", "999.1.1.1"), 2, "can't listen on 999.1.1.1"),
    ],
)
def test_what_can_t_be_started_is_reported_in_one_line(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = maskline("serve", "--port", "0", *arguments)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert message in done.stderr.strip().splitlines()[-1]


def test_an_empty_key_is_none_that_anybody_meant() -> None:
    command = [sys.executable, "-m", "maskline", "serve", "--port", "0"]
    env = {**os.environ, "MASKLINE_API_KEY": " "}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 2 and "the API key is empty" in done.stderr


def test_few_files_and_no_standard_output() -> None:
    """The service raises the limit of open files as far as it may, and writes its log into no socket."""
    serve = f"{sys.executable} -m maskline serve --port 0 --threads 1"
    done = subprocess.run(["bash", "-c", f"ulimit -n 60; {serve}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "may open 60 files" in done.stderr
    command = ["bash", "-c", f"ulimit -S -n 256; exec {serve} >&-"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url, _ = ready(process)
        host, port = url.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(300)]
        assert requests.get(f"{url}/health", timeout=9).status_code == 200
        for one in held:
            one.close()
        process.terminate()
        assert process.wait(20) == 0 and "Traceback" not in process.stderr.read()


def test_a_port_in_use(service: Service) -> None:
    done = maskline("serve", "--port", service.url.rpartition(":")[2])
    assert done.returncode == 2 and "can't listen on 127.0.0.1" in done.stderr


def test_several_workers_share_the_work(image: str) -> None:
    """Each request is answered once, with what one worker finds."""
    with running("serve", "--threads", "1") as service:  # two, on a processor with two cores or more
        if cores() < 2:
            pytest.skip("needs two cores")
        while len(service.workers()) < 2 or service.metric("maskline_workers_ready") != 2:
            time.sleep(0.1)
        first = found(service.post({"image": image, "visualize": False}))
        with ThreadPoolExecutor(8) as pool:
            bodies = [{"image": image, "visualize": False, "logId": str(i)} for i in range(24)]
            answers = [response.json() for response in pool.map(service.post, bodies)]
        assert [answer["logId"] for answer in answers] == [body["logId"] for body in bodies]
        assert all(answer["result"]["instances"] == first for answer in answers)
        assert service.end() == 0


@pytest.mark.parametrize(
    ("device", "workers", "devices", "threads", "batch"),
    [
        ("cpu", None, ["cpu"] * min(2, cores()), None, 1),
        ("cpu", 1, ["cpu"], None, 1),
        ("cpu", 8, ["cpu"] * 8, max(1, 2 * cores() // 8), 1),
        ("gpu:0,1", None, ["gpu:0", "gpu:1"], None, 8),
        ("gpu:0,1", 3, ["gpu:0", "gpu:1", "gpu:0"], max(1, 2 * cores() // 3), 8),
        ("cpu,cpu,gpu:0", None, ["cpu", "cpu", "gpu:0"], max(1, 2 * cores() // 3), 1),
    ],
)
def test_how_workers_share_what_there_is(
    device: str, workers: int | None, devices: list[str], threads: int | None, batch: int
) -> None:
    """F37: devices in turns."""
    running, there = Running(device=device), parse_devices(device)
    parts = per_worker(running, there, workers)
    assert [part.device for part in parts] == devices
    assert {part.threads for part in parts} == {threads} and usual_batch(there) == batch
    assert {part.threads for part in per_worker(replace(running, threads=3), there, workers)} == {3}


def test_workers_of_a_processor_that_stands_in() -> None:
    """As many, with the same batches, as had it been asked for."""
    running = Running(device="gpu:0", cpu_fallback=True)
    assert running.devices() == (CPU,)
    assert [part.device for part in per_worker(running, running.devices(), 3)] == ["cpu"] * 3
