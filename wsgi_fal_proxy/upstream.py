"""The connection to fal: one request goes up to an accepted target, its response streams down.

The one module that touches urllib3, and the one that does network I/O. urllib3 is relied upon for
what it does best: it resolves, connects, verifies TLS, tunnels through an egress proxy and pools.
The exchange on the connection is ours (see `http1`), because urllib3's request methods re-encode
the query, cannot be bounded by a wall-clock deadline and read responses by `http.client`.

urllib3 has no public way to check a connection out of its pool, so four methods are used that it
keeps for its subclasses: `_get_conn`, `_put_conn`, `_prepare_proxy` and `_validate_conn`. That is
why its major version is bounded, and tests run on its oldest supported and its newest version.
"""

from __future__ import annotations

import http.client
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Final, Self, cast

import urllib3
from urllib3.exceptions import (
    EmptyPoolError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeoutError
from urllib3.util.ssl_match_hostname import CertificateError

from wsgi_fal_proxy import http1
from wsgi_fal_proxy.body import PIECE_BYTES
from wsgi_fal_proxy.errors import (
    ConnectTimeout,
    GatewayError,
    ReadTimeout,
    RelayFull,
    Truncated,
    UpstreamClosed,
    UpstreamMalformed,
    UpstreamTlsFailed,
    UpstreamUnreachable,
    UpstreamUnresolvable,
)
from wsgi_fal_proxy.settings import SettingsError

if TYPE_CHECKING:
    import socket

    from urllib3.connectionpool import HTTPConnectionPool

    from wsgi_fal_proxy.body import RequestBody
    from wsgi_fal_proxy.headers import HeaderList
    from wsgi_fal_proxy.settings import Settings
    from wsgi_fal_proxy.target import Target

    Connection = urllib3.connection.HTTPConnection | urllib3.connection.HTTPSConnection
    Errors = tuple[tuple[type[BaseException], type[GatewayError]], ...]

_PORT: Final = 443
# Hosts whose connections are kept. The clients call four (fal.run, queue., rest. and wma.).
_POOLS: Final = 32
# Connections kept per host: as many as the threads or greenlets of any usual server process, so
# that none that could be used again is dropped. Slots cost eight bytes until they are used.
_CONNECTIONS_PER_HOST: Final = 1_000

# What may be raised, specific first, and what it means.
_CONNECT_ERRORS: Final[Errors] = (
    # Both are urllib3 TimeoutErrors, though nothing has timed out.
    (NameResolutionError, UpstreamUnresolvable),
    (NewConnectionError, UpstreamUnreachable),
    (PoolTimeoutError, ConnectTimeout),
    (TimeoutError, ConnectTimeout),
    (SSLError, UpstreamTlsFailed),
    (ssl.SSLError, UpstreamTlsFailed),
    (CertificateError, UpstreamTlsFailed),
    (HTTPError, UpstreamUnreachable),
    (http.client.HTTPException, UpstreamUnreachable),
    (OSError, UpstreamUnreachable),
)
_HEAD_ERRORS: Final[Errors] = (
    (TimeoutError, ReadTimeout),
    (http1.MalformedResponse, UpstreamMalformed),
    (OSError, UpstreamClosed),
)
_CONNECT_CAUGHT: Final = tuple(theirs for theirs, _ in _CONNECT_ERRORS)
_HEAD_CAUGHT: Final = tuple(theirs for theirs, _ in _HEAD_ERRORS)
_CONTENT_CAUGHT: Final = (http1.MalformedResponse, OSError)


def _mapped(error: BaseException, errors: Errors) -> GatewayError:
    return next(ours for theirs, ours in errors if isinstance(error, theirs))()


class _Stale(UpstreamClosed):
    """Nothing at all came back: on a connection that was kept, it may have been closed before."""


class Upstream:
    """Sends requests to accepted targets over pooled connections.

    Args:
        settings: Of which `pool_manager`, `connect_timeout` and `read_timeout` count here.

    Raises:
        SettingsError: `pool_manager` is not one, or would not tunnel to fal.
    """

    def __init__(self, settings: Settings) -> None:
        self._connect_timeout = settings.connect_timeout
        self._read_timeout = settings.read_timeout
        self._manager = _checked(settings.pool_manager) or _default_pool_manager()

    def send(
        self, method: str, target: Target, headers: HeaderList, body: RequestBody
    ) -> UpstreamResponse:
        """Send one request and give its response once the head is here.

        Nothing that may have been sent is sent again, with one exception: a GET without content
        on a kept connection that turns out to have been closed (RFC 9112 section 9.3.1).

        Raises:
            GatewayError: The target could not be reached, or did not answer with HTTP in time.
            BodyIncomplete: See `RequestBody`; the request was cut off, so fal cannot act on it.
            BodyTooLarge: Likewise.
        """
        first = body.read_ahead()
        request = _opening(method, target, headers, body, first)
        pool = self._manager.connection_from_host(target.host, _PORT, "https")
        connection = self._checked_out(pool)
        try:
            kept = not connection.is_closed
            self._connect(pool, connection)
            try:
                return self._exchange(pool, connection, request, body)
            except _Stale:
                if not kept or method != "GET" or body.length != 0:
                    raise
            connection.close()
            self._connect(pool, connection)
            return self._exchange(pool, connection, request, body)
        except BaseException:
            _give_back(pool, connection, reusable=False)
            raise

    def _checked_out(self, pool: HTTPConnectionPool) -> Connection:
        try:
            # The wait is for a pool that was made to block when all its connections are in use.
            return cast("Connection", pool._get_conn(timeout=self._connect_timeout))  # noqa: SLF001
        except EmptyPoolError as error:
            raise RelayFull from error

    def _connect(self, pool: HTTPConnectionPool, connection: Connection) -> None:
        if not connection.is_closed:
            return
        connection.timeout = self._connect_timeout
        try:
            if pool.proxy is not None:
                pool._prepare_proxy(connection)  # noqa: SLF001
            pool._validate_conn(connection)  # noqa: SLF001
            if connection.is_closed:
                connection.connect()
        except _CONNECT_CAUGHT as error:
            raise _mapped(error, _CONNECT_ERRORS) from error
        if isinstance(connection.sock, ssl.SSLSocket):
            # So that a connection cut off without TLS's own goodbye does not pass for the end of
            # content that ends with the connection (RFC 9112 section 9.8).
            connection.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]

    def _exchange(
        self,
        pool: HTTPConnectionPool,
        connection: Connection,
        request: http1.RequestHead,
        body: RequestBody,
    ) -> UpstreamResponse:
        sock = _socket_of(connection)
        reader = http1.HeadReader()
        try:
            sent = self._send(sock, request, body)
            deadline = _deadline(self._read_timeout)
            while (head := reader.feed(_received(sock, deadline))) is None:
                pass
        except _HEAD_CAUGHT as error:
            ours = _mapped(error, _HEAD_ERRORS)
            if isinstance(ours, UpstreamClosed) and not reader.started:
                ours = _Stale()
            raise ours from error
        return UpstreamResponse(
            pool,
            connection,
            head,
            leftover=reader.leftover,
            reusable=sent and head.reusable,
            read_timeout=self._read_timeout,
        )

    def _send(self, sock: socket.socket, request: http1.RequestHead, body: RequestBody) -> bool:
        """Send it all; tell whether that worked. If not, the target may still have answered."""
        try:
            sock.settimeout(self._read_timeout)
            sock.sendall(request)
            framed = http1.chunk if body.length is None else bytes
            for piece in body.rest():
                sock.sendall(framed(piece))
            if body.length is None:
                sock.sendall(http1.LAST_CHUNK)
        except TimeoutError:
            raise
        except OSError:
            return False
        return True


class UpstreamResponse:
    """A response whose head is here, and whose content is still to come.

    Iterating gives the content in pieces as it arrives, at most `PIECE_BYTES` each. When the
    content is complete the connection goes back to its pool; `close` before that closes it.

    Attributes:
        status: Such as 200.
        phrase: The reason phrase as it came, perhaps empty.
        headers: All header fields in their order.
        length: Bytes in the content, where the head tells; else None.
    """

    __slots__ = (
        "_connection",
        "_framing",
        "_leftover",
        "_pool",
        "_read_timeout",
        "_reusable",
        "headers",
        "length",
        "phrase",
        "status",
    )

    def __init__(  # noqa: PLR0913 - made in one place, of what that place knows
        self,
        pool: HTTPConnectionPool,
        connection: Connection,
        head: http1.ResponseHead,
        *,
        leftover: bytes,
        reusable: bool,
        read_timeout: float | None,
    ) -> None:
        self.status = head.status
        self.phrase = head.phrase
        self.headers = head.headers
        self.length = head.framing.length
        self._framing = head.framing
        self._leftover = leftover
        self._pool = pool
        self._connection: Connection | None = connection
        self._reusable = reusable
        self._read_timeout = read_timeout

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Give the next piece as soon as it is here.

        Raises:
            Truncated: The content broke off, is malformed, or did not go on in time.
        """
        try:
            content = self._next_content()
        except _CONTENT_CAUGHT as error:
            self.close()
            detail = f"The target's answer broke off: {error or type(error).__name__}"
            raise Truncated(detail) from error
        if self._framing.complete:
            self._give_back(reusable=self._reusable and not self._framing.excess)
        if not content:
            raise StopIteration
        return content

    def _next_content(self) -> bytes:
        """Give some content as soon as it is here, and none when it is complete."""
        framing = self._framing
        content = framing.feed(self._leftover)
        self._leftover = b""
        # The deadline is for content, not for bytes: framing that drips in does not extend it.
        deadline = _deadline(self._read_timeout)
        while not content and not framing.complete:
            if data := _received(_socket_of(self._connection), deadline):
                content = framing.feed(data)
            else:
                framing.end()
        return content

    def close(self) -> None:
        """Close the connection, unless the content was complete and it is back in its pool."""
        self._give_back(reusable=False)

    def _give_back(self, *, reusable: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _give_back(self._pool, connection, reusable=reusable)


def _checked(manager: object) -> urllib3.PoolManager | None:
    option = "pool_manager"
    if manager is None:
        return None
    if not isinstance(manager, urllib3.PoolManager):
        raise SettingsError(option, manager, "a urllib3.PoolManager, or None for the default")
    proxy_config = manager.connection_pool_kw.get("_proxy_config")
    if proxy_config is not None and proxy_config.use_forwarding_for_https:
        # The proxy would read every request, the key included.
        raise SettingsError(option, manager, "a ProxyManager without use_forwarding_for_https")
    return manager


def _default_pool_manager() -> urllib3.PoolManager:
    return urllib3.PoolManager(
        num_pools=_POOLS,
        maxsize=_CONNECTIONS_PER_HOST,
        # Made once, since it reads the system's trust store, or what SSL_CERT_FILE names instead.
        ssl_context=ssl.create_default_context(),
    )


def _opening(
    method: str, target: Target, headers: HeaderList, body: RequestBody, first: bytes
) -> http1.RequestHead:
    """Give the bytes that go first: the head, and the whole of a small body with it.

    In one piece, so that a usual request is one write and one packet.
    """
    if body.length is None:
        headers.append(("Transfer-Encoding", "chunked"))
        first = http1.chunk(first)
    elif body.length or method != "GET":
        # RFC 9110 section 8.6: a method that expects content says so even when there is none.
        headers.append(("Content-Length", str(body.length)))
    return http1.RequestHead(http1.request_head(method, target.request_target, headers) + first)


def _socket_of(connection: Connection | None) -> socket.socket:
    sock = None if connection is None else connection.sock
    if sock is None:
        raise ConnectionError("the connection is closed")
    return sock


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else monotonic() + seconds


def _received(sock: socket.socket, deadline: float | None) -> bytes:
    """Receive what is here, or wait for it until the deadline; nothing means the end."""
    if deadline is None:
        sock.settimeout(None)
    else:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the read timeout ran out")
        sock.settimeout(left)
    return sock.recv(PIECE_BYTES)


def _give_back(pool: HTTPConnectionPool, connection: Connection, *, reusable: bool) -> None:
    if not reusable:
        connection.close()
    # A closed connection goes back too: it is a free slot, and connects again when it is used.
    pool._put_conn(connection)  # noqa: SLF001
