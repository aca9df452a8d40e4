"""The page over HTTP, for browsers on this machine alone."""

import json
import re
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from eqmambair.demo.work import Workshop
from eqmambair.errors import UserError

_PAGE = Path(__file__).with_name("page.html")
_JOB = re.compile(r"/jobs/([0-9]{1,9})(?:/([a-z0-9]+)\.png)?")
_STOP = re.compile(r"/jobs/([0-9]{1,9})/stop")
_HOST = "127.0.0.1"
_POLICY = "default-src 'none'; img-src 'self' data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


class DemoServer(ThreadingHTTPServer):
    """Serves the page on the loopback; ``serve_forever`` runs it.

    Args:
        workshop: does the work.
        port: 0 takes a free one.

    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, workshop: Workshop, port: int = 0) -> None:
        self.workshop = workshop
        try:
            super().__init__((_HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} cannot be used ({error}); give another --port, or 0 for a free one") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that left; the rest is a fault and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://{_HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        """The page, what it may choose from, jobs and their pictures."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """A picture to work on, or a job that nobody waits for any more."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; the command prints the address, and errors are on the page."""

    def _answer(self, respond: Callable[[str, dict[str, str]], None]) -> None:
        own = [f"http://{name}:{self.server.server_port}" for name in (_HOST, "localhost")]
        # pages of other sites reach the loopback too: by a name that points here, or by sending forms
        if f"http://{self.headers.get('Host')}" not in own or self.headers.get("Origin", own[0]) not in own:
            self._send(403, "text/plain", b"this page is for this machine alone")
            return
        parts = urlsplit(self.path)
        try:
            respond(parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()})
        except UserError as error:
            self.close_connection = True  # what was not read of an upload
            self._json({"error": str(error)}, 400)

    def _get(self, path: str, _: dict[str, str]) -> None:
        workshop = self.server.workshop
        if path == "/":
            self._send(200, "text/html; charset=utf-8", _PAGE.read_bytes())
        elif path == "/models":
            limits = workshop.limits
            self._json(
                {"models": {name: model.scale for name, model in workshop.models.items()}, "bytes": limits.bytes, "pixels": limits.pixels}
            )
        elif match := _JOB.fullmatch(path):
            job = workshop.job(int(match[1]))
            if match[2] is None:
                self._json({"state": job.state, "done": job.done, "total": job.total, "error": job.error, **job.facts})
            elif match[2] in job.pictures:
                self._send(200, "image/png", job.pictures[match[2]])
            else:
                self._json({"error": "no such picture"}, 404)
        else:
            self._json({"error": "no such page"}, 404)

    def _post(self, path: str, query: dict[str, str]) -> None:
        workshop, limit = self.server.workshop, self.server.workshop.limits.bytes
        if match := _STOP.fullmatch(path):
            workshop.stop(int(match[1]))
            self._json({})
            return
        name = query.get("name", "picture")[:100]
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,15}", length):
            raise UserError("an upload has to say its length")
        if int(length) > limit:
            raise UserError(f"{name}: {int(length):,} bytes; at most {limit:,} are taken")
        data = self.rfile.read(int(length))
        if path == "/restore":
            tile = query.get("tile", "")
            number = workshop.restore(data, name, query.get("model", ""), _whole(tile, "tile") if tile else None)
        elif path == "/turns":
            models = (query.get("first", ""), query.get("second", ""))
            number = workshop.compare_turns(data, name, _whole(query.get("turns", ""), "turns"), models)
        else:
            self._json({"error": "no such page"}, 404)
            return
        self._json({"job": number})

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)


def _whole(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise UserError(f"{name} is a whole number, not {text!r}")
    return int(text)
