"""One file over HTTP, continued where an earlier try stopped.

A file is continued only if the server names its version (a strong ETag, or Last-Modified) and says by status 206 that it is still the same;
otherwise it starts again, so that no file is ever put together from two.
"""

import errno
import http.client
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from eqmambair.files import replace_file
from eqmambair.version import __version__

_COUNT = "[0-9]{1,18}"  # bytes, as servers write them; Python refuses to read thousands of digits
Progress = Callable[[int, int | None], object]  # bytes that are there, and how many there will be (None: the server does not say)


@dataclass(frozen=True)
class Patience:
    """How long a download is tried.

    Attributes:
        timeout_s: seconds without an answer, or with fewer than `slowest` bytes a second, that break a try off.
        slowest: bytes a second.
        tries: tries in a row that bring nothing new.
        pause_s: seconds before the second try; doubled each time.
        limit: bytes that no file of weights has.
    """

    timeout_s: float = 30.0
    slowest: float = 256.0
    tries: int = 5
    pause_s: float = 1.0
    limit: int = 8 << 30


class DownloadError(Exception):
    """Why a file did not come; one line."""


class _Broken(Exception):
    """A try that may be followed by another."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow to web addresses only, and never from an encrypted one to a plain one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https:") and not (newurl.startswith("http:") and req.full_url.startswith("http:")):
            raise DownloadError(f"it redirects to {newurl[:100]}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, partial: Path, patience: Patience | None = None, progress: Progress | None = None) -> None:
    """Fetch a file; what is there of it already is continued.

    Args:
        url: http or https; a page of Google Drive stands for the file that it shows.
        partial: grows while bytes come. Beside it lies ``<name>.json``, which says what it is a part of.
        patience: how long it is tried.
        progress: told after every piece.

    Raises:
        DownloadError: it did not come whole; what came stays in `partial`, to be continued, unless it cannot be.
        OSError: `partial` cannot be written.
    """
    patience = patience or Patience()
    furthest, failures = _size(partial), 0
    while True:
        try:
            _try(direct(url), partial, patience, progress)
            return
        except _Broken as error:
            failures = failures + 1 if _size(partial) <= furthest else 1
            furthest = max(furthest, _size(partial))
            if failures >= patience.tries:
                raise DownloadError(str(error)) from error
        time.sleep(patience.pause_s * 2 ** (failures - 1))


def forget(partial: Path) -> None:
    """Remove a partial file, so that the next download starts again."""
    partial.unlink(missing_ok=True)
    _card(partial).unlink(missing_ok=True)


def direct(url: str) -> str:
    """The address of the file itself, where a published address is that of a page about it."""
    drive = re.fullmatch(r"https://drive\.google\.com/file/d/([\w-]+)/view", url)
    return f"https://drive.usercontent.google.com/download?id={drive[1]}&export=download&confirm=t" if drive else url


def _try(url: str, partial: Path, patience: Patience, progress: Progress | None) -> None:
    version = _version_of_partial(url, partial)
    start = _size(partial) if version else 0
    headers = {"User-Agent": f"eqmambair/{__version__}", "Accept-Encoding": "identity"}
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        request = urllib.request.Request(url, headers=headers)
        with _opened(request, patience.timeout_s) as response:
            start, length = _extent(response.status, response.headers, start, partial)
            if not start:
                forget(partial)
                _note_version(url, response.headers, partial)
            _receive(response, partial, start, length, patience, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more is here than the file has there
            forget(partial)
        if error.code in (408, 416, 425, 429) or error.code >= 500:
            raise _Broken(f"the server answered {error.code} {error.reason}") from error
        raise DownloadError(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror) or getattr(error.reason, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            raise DownloadError("its server cannot be reached from here") from error
        raise _Broken(f"no connection: {_said(error.reason)}") from error
    except (TimeoutError, http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
        raise _Broken(f"it broke off at {_size(partial):,} bytes: {_said(error)}") from error


def _opened(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=timeout_s)
    except ValueError as error:  # names of hosts that cannot be encoded among them
        raise DownloadError(f"it redirects to what is no address ({_said(error)})") from error


def _extent(status: int, headers: Message, start: int, partial: Path) -> tuple[int, int | None]:
    """Where the bytes of an answer begin, and how long the whole file is (None: unknown)."""
    if headers.get_content_type() == "text/html":
        raise DownloadError("a web page came instead of the file")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(f"it came encoded as {headers['Content-Encoding']}, which nobody asked for")
    length = headers.get("Content-Length", "")
    remaining = int(length) if re.fullmatch(_COUNT, length) else None
    if status != 206:
        return 0, remaining
    told = re.fullmatch(rf"bytes ({_COUNT})-{_COUNT}/({_COUNT}|\*)", headers.get("Content-Range", ""))
    if not start or told is None or int(told[1]) != start:
        forget(partial)
        raise _Broken(f"the server was asked for bytes from {start} and sent {headers.get('Content-Range', 'others')[:50]!r}")
    return start, int(told[2]) if told[2] != "*" else None


def _receive(
    response: http.client.HTTPResponse, partial: Path, start: int, length: int | None, patience: Patience, progress: Progress | None
) -> None:
    have = start
    window_begun, window_from = time.monotonic(), have
    with partial.open("r+b" if start else "wb") as file:
        file.seek(start)
        while piece := response.read1(1 << 16):
            file.write(piece)
            have += len(piece)
            if progress is not None:
                progress(have, length)
            if have > min(patience.limit, length if length is not None else patience.limit):
                raise DownloadError(f"more came than {'the server announced' if length is not None else 'weights ever have'}")
            passed = time.monotonic() - window_begun
            if passed >= patience.timeout_s:
                if have - window_from < patience.slowest * passed:
                    raise _Broken(f"it stalled at {have:,} bytes")
                window_begun, window_from = time.monotonic(), have
        file.flush()
        os.fsync(file.fileno())
    if length is not None and have < length:
        raise _Broken(f"it broke off at {have:,} of {length:,} bytes")


def _card(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _note_version(url: str, headers: Message, partial: Path) -> None:
    tag = headers.get("ETag", "")
    version = tag if tag.startswith('"') else headers.get("Last-Modified", "")  # W/"..." promises no equal bytes
    replace_file(_card(partial), json.dumps({"url": url, "version": version}))


def _version_of_partial(url: str, partial: Path) -> str | None:
    """What the server called the version that the partial file is of; None if it cannot be continued from this address."""
    try:
        card = json.loads(_card(partial).read_text(encoding="utf-8"))
        return card["version"] or None if card["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _said(error: object) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__
