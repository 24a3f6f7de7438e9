"""The connection to fal: one request goes up to an accepted target, its response streams down.

The one module that touches urllib3, and the one that does network I/O. urllib3 is relied upon for
what it does best: it resolves, connects, verifies TLS, tunnels through an egress proxy and pools.
The exchange on the connection is ours (see `h1`), because urllib3's request methods re-encode
the query, cannot be bounded by a wall-clock deadline and read responses by `http.client`.

urllib3 has no public way to check a connection out of its pool, so four methods are used that it
keeps for its subclasses: `_get_conn`, `_put_conn`, `_prepare_proxy` and `_validate_conn`. That is
why its major version is bounded, and tests run on its oldest supported and its newest version.
"""

from __future__ import annotations

import _socket
import http.client
import os
import queue
import select
import socket
import ssl
import weakref
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

import urllib3
from urllib3._collections import RecentlyUsedContainer
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeoutError
from urllib3.util.ssl_match_hostname import CertificateError
from urllib3.util.ssltransport import SSLTransport

from wsgi_fal_proxy._fal.operations import operation
from wsgi_fal_proxy._http import h1
from wsgi_fal_proxy._http.request_body import PIECE_BYTES
from wsgi_fal_proxy._process.unpatched import allocate_rlock, original
from wsgi_fal_proxy.errors import (
    ClientGone,
    ConnectTimeout,
    GatewayError,
    ReadTimeout,
    RelayFull,
    SettingsError,
    TotalTimeout,
    Truncated,
    UpstreamClosed,
    UpstreamMalformed,
    UpstreamTlsFailed,
    UpstreamUnreachable,
    UpstreamUnresolvable,
)

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection

    from wsgi_fal_proxy._fal.target import Target
    from wsgi_fal_proxy._http.fields import Fields, HeaderList
    from wsgi_fal_proxy._http.request_body import RequestBody
    from wsgi_fal_proxy._settings.options import Settings

    Connection = urllib3.connection.HTTPConnection | urllib3.connection.HTTPSConnection
    Errors = tuple[tuple[type[BaseException], type[GatewayError]], ...]

_PORT: Final = 443
# Hosts whose connections are kept. The clients call four (fal.run, queue., rest. and wma.).
_POOLS: Final = 32
# Connections kept per host: as many as the threads or greenlets of any usual server process, so
# that none that could be used again is dropped. Slots cost eight bytes until they are used.
_CONNECTIONS_PER_HOST: Final = 1_000

_LEAST_SECONDS: Final = 0.001
# By so much a wait may end late.
_NEAR_SECONDS: Final = 0.005
# For an answer to a request that could not be sent whole, which is here by then, or never comes.
_EARLY_ANSWER_SECONDS: Final = 1.0

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
    (h1.MalformedResponse, UpstreamMalformed),
    (OSError, UpstreamClosed),
)
_CONNECT_CAUGHT: Final = tuple(theirs for theirs, _ in _CONNECT_ERRORS)
_HEAD_CAUGHT: Final = tuple(theirs for theirs, _ in _HEAD_ERRORS)
_CONTENT_CAUGHT: Final = (h1.MalformedResponse, OSError)


def _mapped(error: BaseException, errors: Errors) -> GatewayError:
    return next(ours for theirs, ours in errors if isinstance(error, theirs))()


class _Stale(UpstreamClosed):
    """Nothing at all came back: on a connection that was kept, it may have been closed before."""


class Call:
    """One request's hold on its connection, by which another thread can break it off.

    Args:
        total_timeout: Seconds for all of it, from now; None for no limit.

    Attributes:
        pool: Where the connection came from, and is given back to.
        connection: What `abort` breaks off; None before it is checked out, and once given back.
    """

    __slots__ = ("_lock", "aborted", "connection", "deadline", "pool", "started")

    def __init__(self, total_timeout: float | None = None) -> None:
        # Not gevent's, whose locks are not for other threads, and which is held but for moments.
        self._lock = allocate_rlock()
        self.pool: HTTPConnectionPool | None = None
        self.connection: Connection | None = None
        self.aborted: bool = False
        self.started: float = monotonic()
        self.deadline: float | None = (
            None if total_timeout is None else self.started + total_timeout
        )

    def give_back(self, *, reusable: bool) -> None:
        """Give the connection back, out of the reach of `abort`; twice does no harm."""
        with self._lock:
            connection, self.connection = self.connection, None
        if connection is not None and self.pool is not None:
            if not reusable:
                connection.close()
            # A closed one goes back too: it is a free slot, and connects again when it is used.
            self.pool._put_conn(connection)  # noqa: SLF001

    def close(self, connection: Connection) -> None:
        """Close the call's connection, and keep it: the next use connects again."""
        # Not while `abort` is at it: the descriptor may be another connection's at once.
        with self._lock:
            connection.close()

    def abort(self) -> None:
        """Break the call off: whatever waits for the connection finds it closed, and at once."""
        with self._lock:
            self.aborted = True
            connection = self.connection
            sock = connection and connection.sock
            if sock:
                _shut_down(sock.fileno())

    def until(self, seconds: float | None) -> float | None:
        """Give the time by which a wait of so many seconds from now must end."""
        if seconds is None:
            return self.deadline
        end = monotonic() + seconds
        return end if self.deadline is None else min(end, self.deadline)

    def at_most(self, seconds: float | None) -> float | None:
        """Give how long a wait of so many seconds may last, for a socket's timeout."""
        return seconds if self.deadline is None else _left(self.until(seconds))

    def is_over(self) -> bool:
        """Whether the time for all of it has run out."""
        return self.deadline is not None and monotonic() >= self.deadline


def _shut_down(fd: int) -> None:
    # Below TLS, gevent and all, whose state is the other thread's: only the system call.
    # A descriptor of -1 is a ValueError: urllib3 is just putting TLS around the socket.
    with suppress(OSError, ValueError):
        sock = _socket.socket(fileno=fd)
        try:
            sock.shutdown(_socket.SHUT_RDWR)
        finally:
            sock.detach()


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
        # By host: to find one by its manager takes as long as all that is done with it.
        self._pools: dict[str, HTTPConnectionPool] = {}
        in_this_process.add(self)

    def send(
        self, call: Call, method: str, target: Target, headers: HeaderList, body: RequestBody
    ) -> UpstreamResponse:
        """Send one request and give its response once the head is here.

        Nothing that may have been sent is sent again, with one exception: a GET without content,
        and free, on a kept connection that turns out to have been closed (RFC 9112 section 9.3.1).

        Raises:
            GatewayError: The target could not be reached, or did not answer with HTTP in time; or
                the call was aborted.
            BodyIncomplete: See `RequestBody`; the request was cut off, so fal cannot act on it.
            BodyTooLarge: Likewise.
        """
        first = body.read_ahead()
        request = _opening(method, target, headers, body, first)
        pool, connection = self._checked_out(call, target.host)
        call.pool, call.connection = pool, connection
        try:
            kept = connection.sock is not None
            if not kept:
                self._connect(call, pool, connection)
            try:
                return self._exchange(call, connection, request, body)
            except _Stale:
                if not kept or call.aborted or not _is_repeatable(method, target, body):
                    raise
            call.close(connection)
            self._connect(call, pool, connection)
            return self._exchange(call, connection, request, body)
        except BaseException as error:
            call.give_back(reusable=False)
            if isinstance(error, GatewayError):
                raise self._told(call, error) from error.__cause__
            raise

    def forget_connections(self) -> None:
        """Have nothing more to do with the connections there are: after a fork, the parent's."""
        pools = self._manager.pools
        if pools.lock.acquire(blocking=False):
            try:
                self._manager.clear()
            finally:
                pools.lock.release()
        else:
            # A thread of the parent's held the lock, and will never release it here. What it
            # guards must not be touched: not even to be freed, which takes locks as well.
            _left_behind.extend((pools, self._pools))
            self._manager.pools = RecentlyUsedContainer(_POOLS)
        self._pools = {}

    @staticmethod
    def _told(call: Call, error: GatewayError) -> GatewayError:
        """Give the error's real reason, where that is the call's own end."""
        if call.aborted:
            return ClientGone()
        if call.is_over() and isinstance(error, ConnectTimeout | ReadTimeout):
            return TotalTimeout()
        return error

    def _checked_out(self, call: Call, host: str) -> tuple[HTTPConnectionPool, Connection]:
        pool = self._pools.get(host) or self._looked_up(host)
        # For a pool that was made to wait when all its connections are in use.
        wait = call.at_most(self._connect_timeout) if pool.block else None
        try:
            # Typed wider than what it gives.
            return pool, pool._get_conn(timeout=wait)  # type: ignore[return-value]  # noqa: SLF001
        except EmptyPoolError as error:
            raise RelayFull from error

    def _looked_up(self, host: str) -> HTTPConnectionPool:
        if len(self._pools) >= _POOLS:
            # Any name under fal's domains is a host, whether it exists or not.
            self._pools = {}
        pool = self._manager.connection_from_host(host, _PORT, "https")
        self._pools[host] = pool
        return pool

    def _connect(self, call: Call, pool: HTTPConnectionPool, connection: Connection) -> None:
        connection.timeout = call.at_most(self._connect_timeout)
        try:
            if pool.proxy is not None:
                pool._prepare_proxy(connection)  # noqa: SLF001
            pool._validate_conn(connection)  # noqa: SLF001
            if connection.is_closed:
                connection.connect()
        except _CONNECT_CAUGHT as error:
            raise _mapped(error, _CONNECT_ERRORS) from error
        if hasattr(connection.sock, "suppress_ragged_eofs"):
            # So that a connection cut off without TLS's own goodbye does not pass for the end of
            # content that ends with the connection (RFC 9112 section 9.8).
            connection.sock.suppress_ragged_eofs = False

    def _exchange(
        self,
        call: Call,
        connection: Connection,
        request: h1.RequestHead,
        body: RequestBody,
    ) -> UpstreamResponse:
        if call.aborted:
            # In time: nothing has been sent on this connection.
            raise ClientGone
        sock = _socket_of(connection)
        reader = h1.HeadReader()
        try:
            sent = self._send(call, sock, request, body)
            deadline = call.until(self._read_timeout if sent else _EARLY_ANSWER_SECONDS)
            while (head := reader.feed(_received(sock, deadline))) is None:
                pass
        except _HEAD_CAUGHT as error:
            ours = _mapped(error, _HEAD_ERRORS)
            if isinstance(ours, UpstreamClosed) and not reader.started:
                ours = _Stale()
            raise ours from error
        return UpstreamResponse(
            call,
            head,
            leftover=reader.leftover,
            # With TLS in TLS, what comes uncalled for waits where no check before use sees it.
            reusable=sent and head.reusable and not isinstance(sock, SSLTransport),
            read_timeout=self._read_timeout,
        )

    def _send(
        self, call: Call, sock: socket.socket, request: h1.RequestHead, body: RequestBody
    ) -> bool:
        """Send it all; tell whether that worked. If not, the target may have answered before."""
        try:
            _set_timeout(sock, call.at_most(self._read_timeout))
            _send_all(sock, request)
            # Of a usual body all of it went with the head.
            if body.unread:
                self._send_rest(call, sock, body)
        except OSError:
            return False
        return True

    def _send_rest(self, call: Call, sock: socket.socket, body: RequestBody) -> None:
        framed = h1.chunk if body.length is None else bytes
        for piece in body.rest():
            self._send_more(call, sock, framed(piece))
        if body.length is None:
            self._send_more(call, sock, h1.LAST_CHUNK)

    def _send_more(self, call: Call, sock: socket.socket, data: bytes) -> None:
        if call.is_over():
            raise TotalTimeout
        _set_timeout(sock, call.at_most(self._read_timeout))
        _send_all(sock, data)


class UpstreamResponse:
    """A response whose head is here, and whose content is still to come.

    Iterating gives the content in pieces as it arrives, at most `PIECE_BYTES` each. When the
    content is complete the connection goes back to its pool; `close` before that closes it.

    Attributes:
        status: Such as 200.
        phrase: The reason phrase as it came, perhaps empty.
        fields: All header fields in their order.
        length: Bytes in the content, where the head tells; else None.
    """

    __slots__ = (
        "_call",
        "_framing",
        "_read_timeout",
        "_reusable",
        "_waiting",
        "fields",
        "length",
        "phrase",
        "status",
    )

    def __init__(
        self,
        call: Call,
        head: h1.ResponseHead,
        *,
        leftover: bytes,
        reusable: bool,
        read_timeout: float | None,
    ) -> None:
        self.status: int = head.status
        self.phrase: str = head.phrase
        self.fields: Fields = head.fields
        self.length: int | None = head.framing.length
        self._framing = head.framing
        self._waiting = leftover
        self._call = call
        self._reusable = reusable
        self._read_timeout = read_timeout

    def begin(self) -> None:
        """Take what came with the head; while none of it is passed on, an error is still told.

        Raises:
            UpstreamMalformed: The content begins malformed.
        """
        try:
            self._waiting = self._framing.feed(self._waiting)
        except h1.MalformedResponse as error:
            raise UpstreamMalformed from error

    def take_whole(self) -> bytes | None:
        """Give the whole content, if it came with the head, and have done; else None."""
        if not self._framing.complete:
            return None
        self._call.give_back(reusable=self._reusable and not self._framing.excess)
        return self._waiting

    @property
    def has_begun(self) -> bool:
        """Whether the content has begun to arrive, or there is none."""
        return bool(self._waiting) or self._framing.complete

    @property
    def request_id(self) -> str | None:
        """The id that fal gave the request, where it told."""
        return next(iter(self.fields.values("x-fal-request-id")), None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Give the next piece as soon as it is here.

        Raises:
            Truncated: The content broke off, is malformed, or did not go on in time.
        """
        framing = self._framing
        content, self._waiting = self._waiting, b""
        # The deadline is for content, not for bytes: framing that drips in does not extend it.
        deadline = self._call.until(self._read_timeout)
        try:
            while not content and not framing.complete:
                if data := _received(_socket_of(self._call.connection), deadline):
                    content = framing.feed(data)
                else:
                    framing.end()
        except _CONTENT_CAUGHT as error:
            self.close()
            detail = f"The target's answer broke off: {error or type(error).__name__}"
            raise Truncated(detail) from error
        if framing.complete:
            self._call.give_back(reusable=self._reusable and not framing.excess)
        if not content:
            raise StopIteration
        return content

    def close(self) -> None:
        """Close the connection, unless the content was complete and it is back in its pool."""
        self._call.give_back(reusable=False)


def _checked(manager: object) -> urllib3.PoolManager | None:
    option = "pool_manager"
    if manager is None:
        return None
    if not isinstance(manager, urllib3.PoolManager):
        why = "it must be a urllib3.PoolManager, or None for the default"
        raise SettingsError(option, manager, why)
    proxy_config = manager.connection_pool_kw.get("_proxy_config")
    if proxy_config is not None and proxy_config.use_forwarding_for_https:
        # The proxy would read every request, the key included.
        why = "it must be a ProxyManager without use_forwarding_for_https"
        raise SettingsError(option, manager, why)
    return manager


def _default_pool_manager() -> urllib3.PoolManager:
    # Made once, since it reads the system's trust store, or what SSL_CERT_FILE names instead.
    context = ssl.create_default_context()
    # RFC 9525 section 2: a certificate's common name is no name of a host.
    context.hostname_checks_common_name = False
    manager = urllib3.PoolManager(
        num_pools=_POOLS, maxsize=_CONNECTIONS_PER_HOST, ssl_context=context
    )
    manager.pool_classes_by_scheme = {"https": _Pool}
    return manager


class _Connection(HTTPSConnection):
    """Connects within its timeout, over all of the host's addresses and TLS together."""

    _poll: Any = None

    def connect(self) -> None:
        """Connect; see `HTTPSConnection`."""
        super().connect()
        if _new_poll is not None:
            # Made once: it is asked before each use of the connection.
            self._poll = _readiness(self.sock)

    @property
    def is_connected(self) -> bool:
        """Whether a kept connection is good: nothing has come uncalled for, nor its end."""
        if self._poll is None:
            return super().is_connected
        return self.sock is not None and not self._poll.poll(0)

    def _new_conn(self) -> socket.socket:
        deadline = _deadline(self.timeout)
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        for waiting, (family, kind, protocol, _, address) in zip(
            range(len(found), 0, -1), found, strict=True
        ):
            sock: socket.socket | None = None
            try:
                # It fails for a family that this system has not, such as IPv6.
                sock = socket.socket(family, kind, protocol)
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                # Each gets its share of what is left, so that one that is dead leaves the next
                # ones some.
                left = _left(deadline)
                sock.settimeout(None if left is None else left / waiting)
                sock.connect(address)
                # For TLS; urllib3 sets no timeout of its own.
                sock.settimeout(_left(deadline))
            except OSError as error:
                if sock is not None:
                    sock.close()
                if waiting == 1:
                    raise _connect_error(self, error) from error
            else:
                return sock
        raise NewConnectionError(self, "the name has no address")


# gevent's would let another greenlet run, and there is nothing to wait for. None on Windows.
_new_poll: Final = original("select", "poll")


def _readiness(sock: socket.socket) -> Any:
    """Give what tells, by `poll(0)`, whether there is something to be received."""
    poll = _new_poll()
    poll.register(sock, select.POLLIN)
    return poll


def _connect_error(connection: HTTPSConnection, error: OSError) -> HTTPError:
    if isinstance(error, TimeoutError):
        return ConnectTimeoutError(connection, "the connect timeout ran out")
    return NewConnectionError(connection, str(error))


class _Kept(list["BaseHTTPConnection"]):
    """The connections that a pool keeps, with as much of a queue as urllib3 itself uses of one."""

    def __init__(self, maxsize: int) -> None:
        super().__init__()
        self.maxsize: int = maxsize

    def put(self, item: None) -> None:
        """Take a place for a connection, of which there are as many without this."""

    def get(self, block: bool) -> BaseHTTPConnection:
        """Take a connection, to close it; see `queue.LifoQueue`."""
        try:
            return self.pop()
        except IndexError:
            raise queue.Empty from None


class _Pool(HTTPSConnectionPool):
    """Keeps its connections in a list, each operation on which is atomic.

    urllib3 asks a queue for them, with its lock and its condition: a dozen calls for each request,
    where nobody ever waits for a connection.
    """

    ConnectionCls = _Connection
    # Typed narrower than they are used.
    QueueCls = _Kept  # type: ignore[assignment]
    pool: _Kept | None  # type: ignore[assignment]

    def _get_conn(self, timeout: float | None = None) -> BaseHTTPConnection:
        """Take the connection that was kept last, or make one; see `HTTPConnectionPool`."""
        try:
            connection = self.pool.pop()  # type: ignore[union-attr]
        except (AttributeError, IndexError):
            # The pool is closed, or has none.
            return self._new_conn()
        if not connection.is_connected:
            connection.close()
        return connection

    def _put_conn(self, conn: BaseHTTPConnection | None) -> None:
        """Keep a connection, unless there are too many; see `HTTPConnectionPool`."""
        kept = self.pool
        # None is a place for one, of which there are as many without it.
        if conn is None:
            return
        if kept is None or len(kept) >= kept.maxsize:
            conn.close()
        else:
            kept.append(conn)


def _is_repeatable(method: str, target: Target, body: RequestBody) -> bool:
    """Whether a request does no more when fal gets it twice (RFC 9110 section 9.2.2).

    A GET that runs an endpoint does: it would be billed twice, and be counted once.
    """
    return method == "GET" and body.length == 0 and not operation(method, target).spends


def _opening(
    method: str, target: Target, headers: HeaderList, body: RequestBody, first: bytes
) -> h1.RequestHead:
    """Give the bytes that go first: the head, and the whole of a small body with it.

    In one piece, so that a usual request is one write and one packet.
    """
    if body.length is None:
        headers.append(("Transfer-Encoding", "chunked"))
        first = h1.chunk(first)
    elif body.length or method != "GET":
        # RFC 9110 section 8.6: a method that expects content says so even when there is none.
        headers.append(("Content-Length", str(body.length)))
    return h1.request_head(method, target.request_target, headers, first)


def _socket_of(connection: Connection | None) -> socket.socket:
    sock = None if connection is None else connection.sock
    if sock is None:
        raise ConnectionError("the connection is closed")
    return sock


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else monotonic() + seconds


def _left(deadline: float | None) -> float | None:
    """Give the seconds until then, for a socket's timeout, which must not be 0."""
    return None if deadline is None else max(deadline - monotonic(), _LEAST_SECONDS)


def _send_all(sock: socket.socket, data: bytes) -> None:
    """Send it all, where that takes one system call without the detours of `sendall`."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(data[sent:])


def _received(sock: socket.socket, deadline: float | None) -> bytes:
    """Receive what is here, or wait for it until the deadline; nothing means the end."""
    left = None
    if deadline is not None:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the read timeout ran out")
    _set_timeout(sock, left)
    return sock.recv(PIECE_BYTES)


def _set_timeout(sock: socket.socket, seconds: float | None) -> None:
    """Set how long a socket waits, unless it waits so long already, or hardly longer.

    A setting is a system call. Most waits may last the whole read timeout, and so did the last one.
    """
    present = sock.gettimeout()
    if present == seconds:
        return
    if present is None or seconds is None or not 0 < present - seconds < _NEAR_SECONDS:
        sock.settimeout(seconds)


_left_behind: Final[list[object]] = []
in_this_process: Final[weakref.WeakSet[Upstream]] = weakref.WeakSet()
"""All that there are: those to tell of a fork."""


def _after_fork() -> None:  # pragma: no cover - in the child, whose acts a test sees
    for upstream in list(in_this_process):
        upstream.forget_connections()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_after_fork)
