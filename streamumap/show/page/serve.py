"""Serves the page on this machine only: on the loopback address, behind a token that nobody can guess."""

import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from streamumap.errors import InputError
from streamumap.show.page.data import PageData
from streamumap.show.page.html import head, policy, tail

HOST = "127.0.0.1"


class PageServer(ThreadingHTTPServer):
    """Serves one page at `address` while `serve_forever()` runs. Raises InputError where the port is taken."""

    daemon_threads = True

    def __init__(self, data: PageData, port: int = 0):
        self.data, self.token = data, secrets.token_urlsafe(24)
        self.page = head(data, served=True) + tail()
        self.making = Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as e:
            raise InputError(
                f"--port: {port}: expected a free port of this machine, found: {e.strerror}; give another one or 0."
            ) from e

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a browser that went away is no error
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "streamumap", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        token, _, rest = self.path.removeprefix("/").partition("/")
        hosts = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        known = secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        if self.headers.get("Host") not in hosts or not known:  # another name for this machine is a trick of a website
            self._answer(HTTPStatus.FORBIDDEN, b"The address needs its token; copy it whole.\n", "text/plain")
        elif rest == "":
            self._answer(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        elif (make := self.server.data.blocks.get(rest.removeprefix("data/"))) and rest.startswith("data/"):
            with self.server.making:  # one at a time: a browser asks for many at once
                block = make()
            self._answer(HTTPStatus.OK, block, "application/octet-stream")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"There is no such thing.\n", "text/plain")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy(served=True) + "; frame-ancestors 'none'",
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing: the log would show the address with its token."""
