"""The measured program: some requests, and some reference work to compare with.

    python program.py PROJECT REQUESTS REFERENCES

It runs as a file and imports nothing of the benchmarks, so that it runs with the
`wsgi_fal_proxy` of any checkout. PROJECT is the root of that checkout, for a check.
"""

from __future__ import annotations

import gc
import socket
import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import wsgi_fal_proxy

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

_BODY: Final = b'{"prompt": "a red fox in the snow, early morning", "seed": 3571884902}' * 4
# As many rounds fill the caches, open the connection and specialize the bytecode (PEP 659).
_WARMING: Final = 50


def main(project: Path, requests: int, references: int) -> None:
    """Make requests, then do the reference work.

    Raises:
        RuntimeError: The package is not the project's, or an answer is wrong.
    """
    if not Path(wsgi_fal_proxy.__file__).is_relative_to(project.resolve()):
        raise RuntimeError(f"{wsgi_fal_proxy.__file__} is not in {project}")
    here, there = socket.socketpair()
    environ = _environ(here)
    proxy = wsgi_fal_proxy.FalProxy(key="k")
    for _ in range(_WARMING):
        _relay(proxy, environ)
        _reference()
    # The garbage collector does not visit the objects of the start again.
    gc.collect()
    gc.freeze()
    for _ in range(requests):
        _relay(proxy, environ)
    for _ in range(references):
        _reference()
    here.close()
    there.close()


def _environ(client: socket.socket) -> WSGIEnvironment:
    """Make gunicorn's environ of a call by fal's client in a browser."""
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/api/fal/proxy",
        "QUERY_STRING": "",
        "RAW_URI": "/api/fal/proxy",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "gunicorn",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(_BODY)),
        "HTTP_HOST": "app.example",
        "HTTP_ACCEPT": "application/json",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd",
        "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
        "HTTP_COOKIE": "session=0123456789abcdef; theme=dark",
        "HTTP_ORIGIN": "https://app.example",
        "HTTP_REFERER": "https://app.example/",
        "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "HTTP_X_FAL_TARGET_URL": "https://fal.run/echo/guard",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "gunicorn.socket": client,
    }


def _relay(proxy: wsgi_fal_proxy.FalProxy, environ: WSGIEnvironment) -> None:
    statuses: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> Any:
        statuses.append(status)

    content = proxy({**environ, "wsgi.input": BytesIO(_BODY)}, start_response)
    try:
        received = b"".join(content)
    finally:
        getattr(content, "close", lambda: None)()
    if statuses != ["200 OK"] or not received.endswith(_BODY):
        raise RuntimeError(f"the answer was {statuses} {received[:200]!r}")


def _reference() -> int:
    """Do a little work that is typical of Python programs, always the same."""
    table: dict[str, list[int]] = {}
    for number in range(200):
        table.setdefault(f"key-{number % 17}", []).append(number)
    lines = [f"{key}: {sum(values)}" for key, values in sorted(table.items())]
    text = "\r\n".join(lines).encode()
    return sum(len(line.split(b":", 1)[1].strip()) for line in text.split(b"\r\n"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
