"""The fake fal on real sockets, and the pool manager that dials it in fal's stead."""

from __future__ import annotations

import json
import ssl
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import urllib3
from werkzeug import Response
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from wsgi_fal_proxy.testing.app import FakeFalApp, RecordedRequest

if TYPE_CHECKING:
    import os
    from types import TracebackType
    from wsgiref.types import WSGIEnvironment

    from urllib3.connectionpool import HTTPConnectionPool

DEFAULT_KEY: Final = "fake-key-id:fake-key-secret"
_LOOPBACK: Final = "127.0.0.1"
# RFC 9110 section 15: below 200 are interim ones, after which the answer is still to come.
_STATUSES: Final = range(200, 600)
_CERTIFIED: Final = ("fal.run", "*.fal.run", "fal.ai", "*.fal.ai", "*.alpha.fal.ai")


class FakeFalPoolManager(urllib3.PoolManager):
    """Dials the fake fal whatever the host: a value for the option `pool_manager`.

    With a certificate authority it does so by TLS and verifies the certificate against the name
    of the host that was asked for, as for fal itself; without one, in plain text.

    Args:
        port: The fake fal's, on 127.0.0.1.
        ca_file: The fake fal's `ca_file`, or None for plain text.
    """

    def __init__(self, port: int, ca_file: str | os.PathLike[str] | None = None) -> None:
        context = None if ca_file is None else ssl.create_default_context(cafile=ca_file)
        super().__init__(maxsize=100, ssl_context=context)
        self._port = port
        self._tls = context is not None

    def connection_from_host(
        self,
        host: str | None,
        port: int | None = None,
        scheme: str | None = "http",
        pool_kwargs: dict[str, Any] | None = None,
    ) -> HTTPConnectionPool:
        """Give the pool of connections that stands for those to this host."""
        if not self._tls:
            return super().connection_from_host(_LOOPBACK, self._port, "http")
        name = {"server_hostname": host}
        return super().connection_from_host(_LOOPBACK, self._port, "https", name)


class FakeFal:
    """A stand-in for fal on loopback, good enough to develop and test a front end against.

    It answers for `fal.run` (run, and server-sent events at `/stream`), `queue.fal.run` (submit,
    status with logs, status stream, result, cancel) and `rest.fal.ai` (uploads, multipart uploads
    and realtime tokens), and serves uploaded files and pictures itself. Without the right key it
    answers 401, to a wrong input 422, in fal's form. Models whose id has "llm" in it answer with
    text, all others with pictures: the same one for the same prompt and seed, streamed in blocks
    that get finer. One with "slow" in its id takes 60 steps, one with "fails" refuses every input
    with 422, one with "image-to-image" needs an `image_url`. Webhooks and realtime connections
    are not there.

        with FakeFal() as fal:
            app = FalProxyMiddleware(app, key=fal.key, pool_manager=fal.pool_manager())

    Args:
        key: The key it accepts.
        step_seconds: Seconds from one step of a queued request, or one event of a stream, to the
            next; default 0.5. Looking at a queued request's status moves it, too. None means that
            time moves nothing: streams wait for `advance`.
        tls: Whether to serve HTTPS too, with a certificate made on the spot, and to have
            `pool_manager` use it. Needs the extra `wsgi-fal-proxy[testing]`.
        port: Where to serve plain HTTP on 127.0.0.1; 0, the default, for any that is free.

    Raises:
        ImportError: `tls` is asked for, and trustme is not installed.
    """

    def __init__(
        self,
        *,
        key: str = DEFAULT_KEY,
        step_seconds: float | None = 0.5,
        tls: bool = False,
        port: int = 0,
    ) -> None:
        self.key = key
        # First, since it may fail, and nothing is open yet.
        certified = _certified() if tls else None
        self._app = FakeFalApp(key, step_seconds, lambda: self.url)
        self._plain = _server(self._app, port)
        self._secure: BaseWSGIServer | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._threads: list[threading.Thread] = []
        if certified is not None:
            context, ca_pem = certified
            self._directory = tempfile.TemporaryDirectory(prefix="fake-fal-")
            _ca_file(self._directory.name).write_bytes(ca_pem)
            self._secure = _server(self._app, 0, context)

    @property
    def url(self) -> str:
        """Where it serves plain HTTP, such as "http://127.0.0.1:40001": uploads, files, `advance`.

        A POST to `/_fake/advance` there does what `advance` does, for a test in the browser.
        """
        return f"http://{_LOOPBACK}:{self._plain.port}"

    @property
    def port(self) -> int:
        """The port that `pool_manager` dials."""
        return (self._secure or self._plain).port

    @property
    def ca_file(self) -> str | None:
        """The file of the certificate authority, None without `tls`."""
        return None if self._directory is None else str(_ca_file(self._directory.name))

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request that has reached a fal host, in order; the files' host is not fal's."""
        return self._app.requests

    def pool_manager(self) -> FakeFalPoolManager:
        """Make a value for the option `pool_manager`: the one seam by which a proxy comes here.

        Raises:
            RuntimeError: It has not been started, so that calls would wait in vain.
        """
        if not self._threads:
            message = "This FakeFal has not been started: use it in a with block, or call start()"
            raise RuntimeError(message)
        return FakeFalPoolManager(self.port, self.ca_file)

    def advance(self) -> None:
        """Let one stream go on by one event, where `step_seconds` is None."""
        self._app.advance()

    def answer_next(
        self, status: int, data: str | dict[str, Any] | list[Any] = "", **headers: str
    ) -> None:
        """Answer the next request that has the right key with this, whatever it asks for.

        Args:
            status: From 200 to 599, such as 500.
            data: The content: a dict or a list is sent as JSON, text as it is. Its content type is
                JSON's unless a header says otherwise.
            headers: Names with "_" for "-", such as `retry_after="1"`.

        Raises:
            TypeError: The status is not a number, or the data neither text nor JSON.
            ValueError: The status is none that an answer can have, or a number in the data none
                that JSON has.
        """
        _check_status(status)
        # Werkzeug would send a dict's keys.
        content = json.dumps(data, allow_nan=False) if isinstance(data, dict | list) else data
        if not isinstance(content, str):
            message = f"data must be text, a dict or a list, not {data!r}"
            raise TypeError(message)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content_type = named.pop("content-type", "application/json")
        self._app.answer_next(Response(content, status, named, content_type=content_type))

    def start(self) -> Self:
        """Begin to serve, on threads of its own."""
        for server in filter(None, (self._plain, self._secure)):
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """Stop serving; streams run to their end."""
        self._app.stop()
        for server in filter(None, (self._plain, self._secure)):
            # A server that serves closes its socket itself, on its own thread, when it is shut
            # down. To close it here as well would race with that. One that never began to serve
            # could not be shut down.
            if self._threads:
                server.shutdown()
            else:
                server.server_close()
        for thread in self._threads:
            thread.join()
        if self._directory is not None:
            self._directory.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _check_status(status: object) -> None:
    accepted = f"a number from {_STATUSES[0]} to {_STATUSES[-1]}"
    message = f"status must be {accepted}, not {status!r}"
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(message)
    if status not in _STATUSES:
        raise ValueError(message)


class _QuietHandler(WSGIRequestHandler):
    def make_environ(self) -> WSGIEnvironment:
        """Undo what http.server does to a path that begins with more than one slash."""
        return super().make_environ() | {"REQUEST_URI": self.requestline.split()[1]}

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        """Say nothing: what came is in `FakeFal.requests`."""


def _server(app: FakeFalApp, port: int, context: ssl.SSLContext | None = None) -> BaseWSGIServer:
    server = make_server(
        _LOOPBACK,
        port,
        app,
        threaded=True,
        request_handler=_QuietHandler,
        ssl_context=context,
    )
    if isinstance(server.socket, ssl.SSLSocket):
        # On the connection's own thread then, not in the accept loop, where a client that says
        # nothing would hold up all others.
        server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]
    return server


def _ca_file(directory: str) -> Path:
    return Path(directory, "ca.pem")


def _certified() -> tuple[ssl.SSLContext, bytes]:
    """Give what a server for fal's hosts runs under, and the authority to be trusted for it."""
    try:
        import trustme  # noqa: PLC0415 - only the extra has it
    except ImportError as error:
        message = "FakeFal(tls=True) needs trustme, as in the extra wsgi-fal-proxy[testing]"
        raise ImportError(message) from error
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*_CERTIFIED).configure_cert(context)
    return context, authority.cert_pem.bytes()
