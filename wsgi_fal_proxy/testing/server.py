"""The fake fal on real sockets, and a pool manager that dials it instead of fal."""

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
# RFC 9110 section 15: statuses below 200 are interim, and the answer follows them.
_STATUSES: Final = range(200, 600)
_CERTIFIED: Final = ("fal.run", "*.fal.run", "fal.ai", "*.fal.ai", "*.alpha.fal.ai")


class FakeFalPoolManager(urllib3.PoolManager):
    """A value for the option `pool_manager`: dials the fake fal for every host.

    With a certificate authority, it uses TLS and verifies the certificate against the requested
    host, as for fal itself. Without one, it uses plain text.

    Args:
        port: The fake fal's port on 127.0.0.1.
        ca_file: The fake fal's `ca_file`. None, the default, means plain text.
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
        """Return the pool of connections to the fake fal, which stands in for this host."""
        if not self._tls:
            return super().connection_from_host(_LOOPBACK, self._port, "http")
        name = {"server_hostname": host}
        return super().connection_from_host(_LOOPBACK, self._port, "https", name)


class FakeFal:
    """A stand-in for fal on loopback, to develop and test a front end against.

    It answers for `fal.run` (run, and server-sent events at `/stream`), `queue.fal.run` (submit,
    status with logs, status stream, result, cancel) and `rest.fal.ai` (uploads, multipart uploads,
    realtime tokens). It also serves uploaded files and pictures. Errors have fal's form: 401
    without the right key, 422 for an invalid input. There are no webhooks and no realtime
    connections.

    A model's id says what it does. With "llm" in it, the model answers with text. All others answer
    with pictures: the same one for the same prompt and seed, streamed in blocks that get finer.
    With "slow" in its id, a model takes 60 steps. With "fails", it answers 422 to every input. With
    "image-to-image", it needs an `image_url`.

        with FakeFal() as fal:
            app = FalProxyMiddleware(app, key=fal.key, pool_manager=fal.pool_manager())

    Args:
        key: The key to accept.
        step_seconds: Seconds between two steps of a queued request, and between two events of a
            stream. Default 0.5. Reading a queued request's status also moves it one step. None:
            time moves nothing, and streams wait for `advance`.
        tls: Whether to serve HTTPS, too, with a new certificate, and let `pool_manager` use it.
            Needs the extra `wsgi-fal-proxy[testing]`. Default False.
        port: The port for plain HTTP on 127.0.0.1. 0, the default, takes a free one.

    Raises:
        ImportError: `tls` is set, and trustme is not installed.
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
        # This may fail, so it comes before anything is open.
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
        """The URL of plain HTTP, such as "http://127.0.0.1:40001", for uploads and files.

        A POST to `/_fake/advance` below it does what `advance` does, for tests in the browser.
        """
        return f"http://{_LOOPBACK}:{self._plain.port}"

    @property
    def port(self) -> int:
        """The port that `pool_manager` dials."""
        return (self._secure or self._plain).port

    @property
    def ca_file(self) -> str | None:
        """The path of the certificate authority's file. None without `tls`."""
        return None if self._directory is None else str(_ca_file(self._directory.name))

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests to fal's hosts, in order. Uploads and files are not among them."""
        return self._app.requests

    def pool_manager(self) -> FakeFalPoolManager:
        """Make a value for the option `pool_manager`, with which a proxy calls this fake fal.

        Raises:
            RuntimeError: The fake fal has not been started, so calls would never be answered.
        """
        if not self._threads:
            message = "This FakeFal has not been started: use it in a with block, or call start()"
            raise RuntimeError(message)
        return FakeFalPoolManager(self.port, self.ca_file)

    def advance(self) -> None:
        """If `step_seconds` is None, let one stream send one more event."""
        self._app.advance()

    def answer_next(
        self, status: int, data: str | dict[str, Any] | list[Any] = "", **headers: str
    ) -> None:
        """Set the answer to the next request with the right key, whatever it asks for.

        Args:
            status: From 200 to 599.
            data: The content. A dict or a list is sent as JSON, a str as it is. The content type is
                `application/json`, unless a header says otherwise.
            headers: Header fields. Write "_" for "-", such as `retry_after="1"`.

        Raises:
            TypeError: The status is not a number, or the data is not a str, dict or list.
            ValueError: The status is out of range, or a number in the data is not JSON (NaN).
        """
        _check_status(status)
        # Werkzeug would iterate over a dict and send its keys.
        content = json.dumps(data, allow_nan=False) if isinstance(data, dict | list) else data
        if not isinstance(content, str):
            message = f"data must be text, a dict or a list, not {data!r}"
            raise TypeError(message)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content_type = named.pop("content-type", "application/json")
        self._app.answer_next(Response(content, status, named, content_type=content_type))

    def start(self) -> Self:
        """Start serving, on new threads. Returns itself."""
        for server in filter(None, (self._plain, self._secure)):
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """Stop serving. Streams that wait run to their end."""
        self._app.stop()
        for server in filter(None, (self._plain, self._secure)):
            # When a server is shut down, its own thread closes its socket. To close it here as well
            # would race with that. A server that never served cannot be shut down.
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
        """Restore the request target: http.server merges slashes at the beginning of a path."""
        return super().make_environ() | {"REQUEST_URI": self.requestline.split()[1]}

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        """Log nothing. `FakeFal.requests` has the requests."""


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
        # The handshake then runs on the connection's own thread. In the accept loop, a silent
        # client would block all others.
        server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]
    return server


def _ca_file(directory: str) -> Path:
    return Path(directory, "ca.pem")


def _certified() -> tuple[ssl.SSLContext, bytes]:
    """Return a TLS context with a certificate for fal's hosts, and the authority to trust."""
    try:
        import trustme  # noqa: PLC0415 - only the extra has it
    except ImportError as error:
        message = "FakeFal(tls=True) needs trustme: pip install 'wsgi-fal-proxy[testing]'"
        raise ImportError(message) from error
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*_CERTIFIED).configure_cert(context)
    return context, authority.cert_pem.bytes()
