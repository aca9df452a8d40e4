"""An HTTP server on the loopback that answers as it is told, badly included."""

import contextlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `body` at every path; each request takes the next word of `script`, and ``whole`` once it is empty.

    Attributes:
        asked: the Range header of each request, None where it had none.
        tag: the ETag; empty for none.
    """

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body, self.tag = body, '"one"'
        self.script: list[str] = []
        self.asked: list[str | None] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append(self.headers["Range"])
            word = self.server.script.pop(0) if self.server.script else "whole"
        with contextlib.suppress(OSError):  # the other side hung up
            getattr(self, f"answer_{word}", self._error)(*([word] if word.isdecimal() else []))

    def _error(self, status: str) -> None:
        self.send_error(int(status))

    def _head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def _wanted(self) -> int:
        """Where the answer begins: the server honours ranges of the version that it has."""
        told = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        return int(told[1]) if told and self.headers["If-Range"] == self.server.tag else 0

    def _begin(self, promised: int = 0) -> bytes:
        """Send the head, of a length off by `promised`; returns the bytes that belong to it."""
        start, total = self._wanted(), len(self.server.body)
        if start:
            self._head(206, Content_Range=f"bytes {start}-{total - 1}/{total + promised}", Content_Length=total - start + promised)
        else:
            self._head(200, Content_Length=total + promised)
        return self.server.body[start:]

    def answer_whole(self) -> None:
        self.wfile.write(self._begin())

    def answer_truncated(self) -> None:
        rest = self._begin()
        self.wfile.write(rest[: len(rest) // 2])

    def answer_stalling(self) -> None:
        rest = self._begin()
        self.wfile.write(rest[: len(rest) // 2])
        self.wfile.flush()
        self.server.closing.wait(30)

    def answer_dripping(self) -> None:
        for byte in self._begin():
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.closing.wait(0.05):
                return

    def answer_promising_more(self) -> None:
        self.wfile.write(self._begin(promised=100))

    def answer_promising_less(self) -> None:
        self.wfile.write(self._begin(promised=-100)[:-100])

    def answer_wrong(self) -> None:
        self._head(200, Content_Length=5)
        self.wfile.write(b"wrong")

    def answer_another_range(self) -> None:
        self._head(206, Content_Range=f"bytes 0-9/{len(self.server.body)}", Content_Length=10)
        self.wfile.write(self.server.body[:10])

    def answer_page(self) -> None:
        self._head(200, Content_Type="text/html; charset=utf-8", Content_Length=6)
        self.wfile.write(b"<html>")

    def answer_redirect(self) -> None:
        self._head(302, Location=f"{self.server.url}?again", Content_Length=0)

    def answer_redirect_to_file(self) -> None:
        self._head(302, Location="file:///etc/hostname", Content_Length=0)

    def answer_redirect_to_no_address(self) -> None:
        self._head(302, Location="http://[/weights.pth", Content_Length=0)

    def answer_redirect_to_no_host(self) -> None:
        self._head(302, Location=f"http://{'a' * 70}.example/weights.pth", Content_Length=0)

    def answer_absurd_length(self) -> None:
        self._head(200, Content_Length="9" * 5000)
        self.wfile.write(self.server.body)

    def answer_absurd_range(self) -> None:
        self._head(206, Content_Range=f"bytes {'9' * 5000}-1/1", Content_Length=1)
        self.wfile.write(b"x")

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(body: bytes) -> Iterator[Server]:
    """A server that runs until the end of the block."""
    with Server(body) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
