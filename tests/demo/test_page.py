"""The page: what it answers, what it refuses, and, where there is a browser, what a person sees."""

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from skimage import data

from eqmambair.cli import demo
from eqmambair.data.io import decode_image, read_image, write_image
from eqmambair.data.prepare import upscale
from eqmambair.demo import DemoServer, Limits, Model, Workshop
from eqmambair.errors import UserError
from eqmambair.inference import Restorer, load_trained
from eqmambair.zoo import bundled_models

EQ, PLAIN = "eq_mambair_small_x2", "mambair_small_x2"
LIMITS = Limits(bytes=100_000, pixels=30_000)


def picture(height=40, width=56):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server():
    models = {name: Model(bundled_models()[name], 2) for name in (EQ, PLAIN)}
    with DemoServer(Workshop(models, LIMITS)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer, answer.read()


def asked(server, method, path, body=None):
    answer, content = request(server, method, path, body)
    return answer.status, json.loads(content)


def finished(server, path, body, **query):
    """Post a picture and wait for the job; its number and last state."""
    status, content = asked(server, "POST", f"{path}?{urlencode(query)}", body)
    assert status == 200, content
    for _ in range(1200):
        _, state = asked(server, "GET", f"/jobs/{content['job']}")
        if state["state"] in ("done", "failed"):
            return content["job"], state
        time.sleep(0.1)
    raise TimeoutError


def png(server, job, name):
    answer, content = request(server, "GET", f"/jobs/{job}/{name}.png")
    assert answer.status == 200
    return decode_image(content, name)


@pytest.mark.parametrize("tile", ["", 32])
def test_a_picture_is_restored_as_the_command_does_it(server, tile):
    job, state = finished(server, "/restore", encoded(picture()), name="a.png", model=EQ, tile=tile)
    assert (state["state"], state["width"], state["height"]) == ("done", 112, 80)
    assert state["done"] == state["total"] == (4 if tile else 1)
    wanted = Restorer(load_trained(bundled_models()[EQ]), tile=tile or None)(picture())
    np.testing.assert_array_equal(png(server, job, "after"), wanted)
    np.testing.assert_array_equal(png(server, job, "before"), upscale(picture(), 2))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_only_the_equivariant_output_turns_with_the_input(server, turns):
    job, state = finished(server, "/turns", encoded(picture()), name="a.png", turns=turns, first=EQ, second=PLAIN)
    equivariant, plain = state["rows"]
    assert state["degrees"] == 90 * turns
    np.testing.assert_array_equal(png(server, job, "input"), np.rot90(picture(), turns))
    assert equivariant["nmse"] < 1e-10
    assert png(server, job, "difference0").max() == 0
    if turns == 0:
        assert plain["largest"] == 0
    else:
        assert plain["nmse"] > 1e-6
        shown = png(server, job, "difference1")
        assert shown.max() == min(255, round(plain["largest"] * state["amplified"]))
        assert png(server, job, "output1").shape == shown.shape


@pytest.mark.parametrize(
    ("body", "query", "said"),
    [
        (b"x" * 100_001, {"model": EQ}, "100,001 bytes; at most 100,000"),
        (encoded(np.zeros((200, 200, 3), np.uint8)), {"model": EQ}, "200x200 pixels; at most 30,000"),
        (b"no picture", {"model": EQ}, "is not a picture"),
        (encoded(picture())[:200], {"model": EQ}, "a.png: "),
        (encoded(picture()), {"model": "best"}, "no model is called 'best'"),
        (encoded(picture()), {"model": EQ, "tile": "4"}, "16 to 2048"),
        (encoded(picture()), {"model": EQ, "tile": "x"}, "tile is a whole number"),
    ],
)
def test_what_is_not_taken_is_one_line(server, body, query, said):
    status, content = asked(server, "POST", f"/restore?{urlencode({'name': 'a.png', **query})}", body)
    assert status == 400
    assert said in content["error"]
    assert "\n" not in content["error"]


def test_a_picture_of_many_pixels_in_few_bytes_is_refused_before_it_is_decoded(server, monkeypatch):
    monkeypatch.setattr("eqmambair.demo.work.decode_image", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="5000x4000 pixels"):
        server.workshop.checked(encoded(np.zeros((4000, 5000), np.uint8)), "a.png")


@pytest.fixture
def held(server, monkeypatch):
    """An event that holds every network back, so that jobs are found at work."""
    go, plain = threading.Event(), Restorer.restore_tensor

    def waiting(self, *given):
        go.wait(60)
        return plain(self, *given)

    monkeypatch.setattr(Restorer, "restore_tensor", waiting)
    yield go
    go.set()


@pytest.mark.parametrize("path", ["/restore", "/turns"])
def test_a_job_that_is_stopped_makes_room_for_others(server, held, path):
    query = urlencode({"name": "a.png", "model": EQ, "turns": 1, "first": EQ, "second": PLAIN})
    numbers = []
    for place in range(8):  # four wait at most; those that nobody wants do not count
        status, content = asked(server, "POST", f"{path}?{query}", encoded(picture(16, 16)))
        assert status == 200, content
        numbers.append(content["job"])
        if place != 7:
            assert asked(server, "POST", f"/jobs/{numbers[-1]}/stop") == (200, {})
    held.set()
    job, state = finished(server, path, encoded(picture(16, 16)), name="a.png", model=EQ, turns=1, first=EQ, second=PLAIN)
    assert state["state"] == "done"
    states = [server.workshop.job(number).state for number in numbers if number > job - 4]
    assert states == ["stopped"] * (len(states) - 1) + ["done"]
    assert asked(server, "POST", "/jobs/999999/stop")[0] == 400


def test_a_fifth_picture_does_not_wait(server, held):
    path = f"/restore?{urlencode({'name': 'a.png', 'model': EQ})}"
    answers = [asked(server, "POST", path, encoded(picture(16, 16))) for _ in range(5)]
    assert [status for status, _ in answers] == [200] * 4 + [400]
    assert "too many pictures wait already" in answers[4][1]["error"]
    held.set()
    jobs = [server.workshop.job(content["job"]) for _, content in answers[:4]]
    while jobs[3].state != "done":
        time.sleep(0.05)
    assert [job.state for job in jobs] == ["done"] * 4  # none overtakes another


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "+5", "\u00b2", ""])
def test_an_upload_without_a_length_is_refused(server, length):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        head = f"POST /restore HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode("latin-1"))
        with connection.makefile("rb") as answer:
            said = answer.read()
    assert said.startswith(b"HTTP/1.0 400 ")
    assert b"an upload has to say its length" in said


def test_other_sites_are_refused(server):
    origins = ["http://evil.example", "null", "http://[", "", f"https://127.0.0.1:{server.server_port}"]
    for headers in ({"Host": "evil.example"}, *({"Origin": origin} for origin in origins)):
        answer, _ = request(server, "GET", "/models", **headers)
        assert answer.status == 403
    assert request(server, "GET", "/models", Origin=server.address.rstrip("/"))[0].status == 200


def test_only_this_machine_is_served(server):
    assert server.server_address[0] == "127.0.0.1"


def test_the_page_asks_nothing_of_other_machines(server):
    answer, content = request(server, "GET", "/")
    assert answer.status == 200
    assert b"http://" not in content
    assert b"https://" not in content
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_old_results_are_forgotten_and_unknown_ones_named(server):
    first, _ = finished(server, "/restore", encoded(picture(16, 16)), name="a.png", model=EQ)
    for _ in range(5):
        finished(server, "/restore", encoded(picture(16, 16)), name="a.png", model=EQ)
    assert asked(server, "GET", f"/jobs/{first}") == (400, {"error": "this result is no longer kept; begin again"})
    assert asked(server, "GET", "/nowhere")[0] == 404


def test_nothing_is_written(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    finished(server, "/restore", encoded(picture()), name="../a.png", model=EQ)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_and_weights_that_are_missing_are_one_line(server, tmp_path):
    with pytest.raises(UserError, match=f"port {server.server_port} cannot be used"):
        demo.main(["--port", str(server.server_port)])
    with pytest.raises(UserError, match=r"none\.pth"):
        demo.main(["--weights", str(tmp_path / "none.pth")])


def test_weights_of_one_name_keep_apart(tmp_path, monkeypatch):
    files = [tmp_path / run / "net_g.safetensors" for run in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        shutil.copy(bundled_models()[PLAIN], file)
    offered = []

    def server(workshop, port):
        offered.extend(workshop.models)
        raise UserError("enough")

    monkeypatch.setattr(demo, "DemoServer", server)
    with pytest.raises(UserError, match="enough"):
        demo.main(["--weights", *map(str, files), str(bundled_models()[EQ])])
    assert {*map(str, files), f"{EQ}.safetensors"} <= set(offered)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_server_in_the_background_of_a_shell_ends_on_sigterm():
    """A shell starts what ends with & so that it ignores Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "scripts/demo.py", "--port", "0"],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        assert process.stdout.readline().startswith("open http://127.0.0.1:")
        process.terminate()
        assert process.communicate(timeout=60)[0] == "ended\n"
        assert process.returncode == 0
    finally:
        process.kill()


def browser_path():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(browser_path() is None, reason="no Chromium on the PATH")
def test_a_person_restores_compares_stops_and_downloads(server, held, tmp_path):
    """Pictures of what is seen are written to the folder that EQMAMBAIR_SCREENSHOTS names."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    write_image(tmp_path / "cat.png", np.ascontiguousarray(data.chelsea()[70:230, 120:300]))
    write_image(tmp_path / "large.png", np.zeros((200, 200, 3), np.uint8))
    held.set()
    shots = os.environ.get("EQMAMBAIR_SCREENSHOTS")
    with playwright.sync_playwright() as engine:
        page = engine.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"]).new_page(
            viewport={"width": 900, "height": 700}
        )
        strangers, problems = [], []
        page.on("request", lambda each: None if each.url.startswith((server.address, "data:")) else strangers.append(each.url))
        page.on("pageerror", lambda each: problems.append(str(each)))
        page.goto(server.address)
        page.set_input_files("#restore input[type=file]", tmp_path / "cat.png")
        page.select_option("#restore .scale", "2")
        page.click("#restore .go")
        page.wait_for_selector("#restore .result:not([hidden])", timeout=120_000)
        assert page.locator("#restore .stop").is_hidden()
        page.locator("#restore input[type=range]").fill("30")
        assert page.eval_on_selector(".compare", "each => each.style.getPropertyValue('--at')") == "30%"
        with page.expect_download() as download:
            page.click("#restore .download")
        assert download.value.suggested_filename == "cat_x2.png"
        download.value.save_as(tmp_path / "result.png")
        assert read_image(tmp_path / "result.png").shape == (320, 360, 3)
        if shots:
            page.screenshot(path=f"{shots}/restore.jpg", full_page=True, quality=85)
        held.clear()
        page.click("#restore .go")
        page.click("#restore .stop")
        held.set()
        page.wait_for_selector("#restore .error:has-text('stopped')")
        assert page.locator("#restore .stop").is_hidden()
        assert page.locator("#restore .go").is_enabled()
        page.set_input_files("#restore input[type=file]", tmp_path / "large.png")
        page.click("#restore .go")
        page.wait_for_selector("#restore .error:has-text('at most 30,000 are taken')")
        page.click("#tab-turns")
        page.set_input_files("#turns input[type=file]", tmp_path / "cat.png")
        page.click("#turns .go")
        page.wait_for_selector("#turns .result:not([hidden])", timeout=120_000)
        verdicts = page.locator(".verdict").all_text_contents()
        assert [each.split(":")[0] for each in verdicts] == [EQ, PLAIN]
        assert page.locator("#turns td img").count() == 6
        if shots:
            page.screenshot(path=f"{shots}/turn.jpg", full_page=True, quality=85)
        assert strangers == problems == []
