"""Calls to the proxy: over a socket, and in this process."""

from __future__ import annotations

import re
import socket
import threading
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Self
from wsgiref.util import setup_testing_defaults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIApplication, WSGIEnvironment

PREFIX: Final = "/api/fal/proxy"
WAIT_SECONDS: Final = 60.0
MEGABYTE: Final = 1_048_576

_EMPTY_LINE: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


def environ(path: str, body: bytes | None = None) -> WSGIEnvironment:
    """Make the environ of a call: a POST of the body, or a GET if that is None.

    Args:
        path: Of the target, on fal.run.
        body: JSON.
    """
    made: WSGIEnvironment = {"SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": PREFIX}
    if body is not None:
        made |= {
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": BytesIO(body),
        }
    setup_testing_defaults(made)
    return {**made, "HTTP_X_FAL_TARGET_URL": f"https://fal.run{path}"}


class Answer:
    """The answer of an application in this process to one call; a context manager.

    Args:
        app: The proxy, or an application with the proxy in front.
        path: Of the target, on fal.run.
        body: JSON to POST. None: a GET.

    Attributes:
        status: The status code, as text.
        content: The response iterable.
    """

    def __init__(self, app: WSGIApplication, path: str, body: bytes | None = None) -> None:
        self.status = ""
        self.content = app(environ(path, body), self._start_response)

    def _start_response(self, status: str, headers: object, exc_info: object = None) -> Any:
        self.status = status[:3]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the content, as a server does."""
        close = getattr(self.content, "close", None)
        if close is not None:
            close()


def call(path: str, body: bytes | int | None = None) -> bytes:
    """Make the bytes of a client's call.

    Args:
        path: Of the target, on fal.run.
        body: The request body. An int is its length: the caller sends it. None: a GET.
    """
    lines = [
        f"{'GET' if body is None else 'POST'} {PREFIX} HTTP/1.1",
        "Host: localhost",
        f"x-fal-target-url: https://fal.run{path}",
    ]
    if body is not None:
        length = body if isinstance(body, int) else len(body)
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + body if isinstance(body, bytes) else head


def connected(port: int) -> socket.socket:
    """Connect to a server on 127.0.0.1."""
    sock = socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """Read an answer that has a Content-Length; return its status and content.

    Raises:
        ConnectionError: The server closed the connection too early.
        ValueError: The answer has no Content-Length.
    """
    received = b""
    while (end := received.find(_EMPTY_LINE)) < 0:
        received += _receive(sock)
    length = _CONTENT_LENGTH.search(received[: end + 2])
    if length is None:
        raise ValueError(f"an answer without Content-Length: {received!r}")
    content = received[end + 4 :]
    while len(content) < int(length[1]):
        content += _receive(sock)
    return int(received[9:12]), content


def _receive(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def in_threads(functions: Iterable[Callable[[], None]]) -> None:
    """Run each function on its own thread, wait for all, and raise the first error."""
    errors: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
