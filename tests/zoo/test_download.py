"""A file comes whole or not at all, whatever the server does."""

import random
import socket
from io import BytesIO
from urllib.request import Request

import pytest

from eqmambair.zoo.download import DownloadError, Patience, _Redirects, direct, download
from tests.zoo.server import serving

BODY = random.Random(0).randbytes(300_000)
PATIENT = Patience(timeout_s=30, tries=3, pause_s=0.01)
NO_ADDRESSES = [(word, "it redirects to what is no address") for word in ("redirect_to_no_address", "redirect_to_no_host")]
HURRIED = Patience(timeout_s=0.7, slowest=10_000, tries=2, pause_s=0.01)


@pytest.fixture
def server():
    with serving(BODY) as running:
        yield running


def test_a_file_comes_whole_and_its_growth_is_told(server, tmp_path):
    told = []
    download(server.url, tmp_path / "part", PATIENT, lambda have, length: told.append((have, length)))
    assert (tmp_path / "part").read_bytes() == BODY
    assert told[-1] == (len(BODY), len(BODY))
    assert [have for have, _ in told] == sorted({have for have, _ in told})


@pytest.mark.parametrize("word", ["truncated", "stalling"])
def test_what_breaks_off_is_continued(server, tmp_path, word):
    server.script = [word, word]
    download(server.url, tmp_path / "part", HURRIED)
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.asked[:2] == [None, f"bytes={len(BODY) // 2}-"]


def test_a_later_call_continues_an_earlier_one(server, tmp_path):
    server.script = ["truncated", "404"]
    with pytest.raises(DownloadError, match="404"):
        download(server.url, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == BODY[: len(BODY) // 2]
    download(server.url, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.asked[-1] == f"bytes={len(BODY) // 2}-"


def test_a_file_that_changed_meanwhile_starts_again(server, tmp_path):
    server.script = ["truncated", "404"]
    with pytest.raises(DownloadError):
        download(server.url, tmp_path / "part", PATIENT)
    server.body, server.tag = BODY[::-1], '"two"'
    download(server.url, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_a_server_that_names_no_version_is_never_asked_to_continue(server, tmp_path, tag):
    server.tag, server.script = tag, ["truncated"]
    download(server.url, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.asked == [None, None]


@pytest.mark.parametrize("word", ["another_range", "absurd_range", "416", "503"])
def test_a_bad_answer_to_the_rest_of_a_file_is_tried_again(server, tmp_path, word):
    server.script = ["truncated", word]
    download(server.url, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == BODY


def test_dripping_bytes_count_as_stalled(server, tmp_path):
    server.script = ["dripping"] * 9
    with pytest.raises(DownloadError, match="stalled at"):
        download(server.url, tmp_path / "part", Patience(timeout_s=0.7, slowest=1e9, tries=1))


def test_a_length_that_never_comes_is_given_up(server, tmp_path):
    server.script = ["promising_more"] * 9
    with pytest.raises(DownloadError, match="broke off at 300,000 of 300,100 bytes"):
        download(server.url, tmp_path / "part", PATIENT)


@pytest.mark.parametrize(
    ("word", "said"),
    [("404", "404"), ("403", "403"), ("page", "web page"), ("redirect_to_file", "not allowed"), *NO_ADDRESSES],
)
def test_what_cannot_get_better_is_not_tried_again(server, tmp_path, word, said):
    server.script = [word]
    with pytest.raises(DownloadError, match=said):
        download(server.url, tmp_path / "part", PATIENT)
    assert len(server.asked) == 1
    assert not (tmp_path / "part").exists()


def test_a_length_that_is_no_count_of_bytes_is_none(server, tmp_path):
    server.script = ["absurd_length"]
    download(server.url, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == BODY


def test_redirects_are_followed(server, tmp_path):
    server.script = ["redirect"]
    download(server.url, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == BODY


def test_an_encrypted_address_leads_to_no_plain_one():
    with pytest.raises(DownloadError, match="not encrypted"):
        _Redirects().redirect_request(Request("https://example.org/x"), BytesIO(), 302, "", {}, "http://example.org/x")


def test_more_than_any_weights_is_not_taken(server, tmp_path):
    with pytest.raises(DownloadError, match="more came"):
        download(server.url, tmp_path / "part", Patience(limit=1000))


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="no connection") as caught:
            download(f"http://127.0.0.1:{taken.getsockname()[1]}/x", tmp_path / "part", PATIENT)
    assert "\n" not in str(caught.value)


def test_pages_of_google_drive_stand_for_their_files():
    assert "id=a-b_1&" in direct("https://drive.google.com/file/d/a-b_1/view")
    assert direct("https://example.org/x.pth") == "https://example.org/x.pth"
