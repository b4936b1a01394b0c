"""A server on loopback with the layout of Binance's archive, and faults that a test asks for."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Archive:
    """Files by path; `faults` are used up in order, one a request for a zip; `asked` notes each (path, Range)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.checksum_faults: list[str] = []  # of requests for a CHECKSUM
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True
        self.url = ""

    def put(self, path: str, text: bytes, checksum: str = "") -> bytes:
        """A zip with one CSV, and its CHECKSUM; returns the zip's bytes."""
        name = path.rpartition("/")[2]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name.replace(".zip", ".csv"), text)
        body = buffer.getvalue()
        self.files[f"/data/{path}"] = body
        self.files[f"/data/{path}.CHECKSUM"] = f"{checksum or hashlib.sha256(body).hexdigest()}  {name}\n".encode()
        return body


def _handler(archive: Archive) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            span = self.headers.get("Range")
            archive.asked.append((self.path, span))
            body = archive.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            fault = archive.faults.pop(0) if archive.faults and self.path.endswith(".zip") else ""
            if archive.checksum_faults and self.path.endswith(".CHECKSUM"):
                fault = archive.checksum_faults.pop(0)
            if fault.startswith("to "):
                self._elsewhere(fault.removeprefix("to "))
                return
            if fault.isdigit() or ":" in fault:
                self._busy(*fault.split(":"))
                return
            first = int(span.removeprefix("bytes=").rstrip("-")) if span and archive.ranges else 0
            if fault.startswith("span "):
                self.send_response(206)
                self.send_header("Content-Range", fault.removeprefix("span "))
                self.end_headers()
                return
            if first >= len(body) and span:
                self.send_error(416)
                return
            self._send(body, first, cut=fault == "cut")

        def _busy(self, code: str, retry_after: str = "") -> None:
            self.send_response(int(code))
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _elsewhere(self, url: str) -> None:
            self.send_response(302)
            self.send_header("Location", url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, body: bytes, first: int, cut: bool) -> None:
            part = body[first:]
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: len(part) // 2] if cut else part)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler


@contextlib.contextmanager
def serving() -> Iterator[Archive]:
    """An archive that answers at `url` until the block ends."""
    archive = Archive()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(archive))
    archive.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
