"""One request goes up to an accepted target, and its response comes back.

urllib3 gives the connection classes, TLS and its verification, and the rules of a `PoolManager`.
Dialling (`dial`), the tunnel through a proxy (`egress`) and keeping connections (`pool`) are ours,
and so are the messages (`h1`): urllib3's request methods encode the query again, cannot be bounded
by a wall clock, and read responses by `http.client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from urllib3.util.ssltransport import SSLTransport

from wsgi_fal_proxy._http import h1
from wsgi_fal_proxy._upstream.backup import CONNECT_SECONDS, Backups
from wsgi_fal_proxy._upstream.errors import (
    BEFORE_THE_HEAD,
    WHILE_CONNECTING,
    Stale,
    connect_error,
    head_error,
)
from wsgi_fal_proxy._upstream.manager import make_route
from wsgi_fal_proxy._upstream.pool import Pools
from wsgi_fal_proxy._upstream.response import UpstreamResponse
from wsgi_fal_proxy._upstream.wire import receive, send_all
from wsgi_fal_proxy.errors import (
    ClientGone,
    ConnectTimeout,
    GatewayError,
    ReadTimeout,
    TotalTimeout,
)

if TYPE_CHECKING:
    import socket

    import urllib3

    from wsgi_fal_proxy._fal.request import FalRequest
    from wsgi_fal_proxy._http.fields import HeaderList
    from wsgi_fal_proxy._http.request_body import RequestBody
    from wsgi_fal_proxy._upstream.call import Call
    from wsgi_fal_proxy._upstream.connect import Connection
    from wsgi_fal_proxy._upstream.manager import Route
    from wsgi_fal_proxy._upstream.pool import RelayPool

# Seconds to wait for an answer to a request that could not be sent whole. An early answer has
# usually arrived already.
_EARLY_ANSWER_SECONDS: Final = 1.0


class _Reached(NamedTuple):
    """A connection to fal, and whether an earlier call has used it."""

    pool: RelayPool
    connection: Connection
    domain: str
    was_kept: bool


class Upstream:
    """Sends requests to accepted targets over kept connections.

    Args:
        manager: The option `pool_manager`.
        egress_proxy: The option of this name.
        connect_timeout: Seconds to connect. None: no limit.
        read_timeout: Seconds for the response head, and then for each piece. None: no limit.
        backup_domains: The option of this name.

    Attributes:
        route: How calls reach fal.

    Raises:
        SettingsError: `manager` cannot be used, or no proxy that the environment names.
    """

    def __init__(
        self,
        manager: urllib3.PoolManager | None,
        *,
        egress_proxy: str | None,
        connect_timeout: float | None,
        read_timeout: float | None,
        backup_domains: bool,
    ) -> None:
        self._backups = Backups() if backup_domains else None
        self.route: Route = make_route(manager, egress_proxy)
        self._pools = Pools(self.route.manager)
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout

    def send(
        self, call: Call, request: FalRequest, headers: HeaderList, body: RequestBody
    ) -> UpstreamResponse:
        """Send one request. Return its response when the head is here.

        Nothing that may have been sent is sent again, with one exception: a free GET without
        content, if a kept connection turns out to have been closed (RFC 9112 section 9.3.1).

        Raises:
            GatewayError: The target could not be reached, or did not answer with HTTP in time; or
                the call was aborted.
            BodyIncomplete: See `RequestBody`. The request was cut off, so fal cannot act on it.
            BodyTooLarge: Likewise.
        """
        message = _opening(request, headers, body)
        host = domain = request.target.host
        pool = self._pools.connected.get(host) or self._pools.pool_for(host)
        connection = pool.acquire(call, self._connect_timeout)
        was_kept = connection.sock is not None
        try:
            if not was_kept:
                pool, connection, domain, was_kept = self._reach(call, pool, connection, host)
                if domain != host:
                    message = h1.with_host(message, host, domain)
            try:
                return self._send_and_read_head(call, connection, message, body)
            except Stale:
                if not was_kept or call.is_aborted or not _is_repeatable(request, body):
                    raise
            call.close_connection()
            self._connect(call, pool, connection, domain, self._connect_timeout)
            return self._send_and_read_head(call, connection, message, body)
        except BaseException as error:
            call.release_connection(reusable=False)
            if isinstance(error, GatewayError):
                raise _with_real_reason(call, error) from error.__cause__
            raise

    def reap(self) -> None:
        """Close the kept connections that fal has closed, and those that are too old."""
        self._pools.reap()

    def _reach(self, call: Call, pool: RelayPool, connection: Connection, host: str) -> _Reached:
        """Connect to a host, or to its backup domain if it does not resolve or connect.

        Through an egress proxy there is no backup: that proxy resolves and connects, and its rules
        are for fal's usual domains.

        Args:
            call: It holds the connection. If another domain is tried, it holds one to that.
            pool: The pool of the host.
            connection: A connection of that pool, not connected yet.
            host: The target's host.
        """
        backups = self._backups if pool.proxy is None else None
        domains = (host,) if backups is None else backups.domains(host)
        if backups is None or len(domains) == 1:
            self._connect(call, pool, connection, host, self._connect_timeout)
            return _Reached(pool, connection, host, was_kept=False)
        seconds = min(self._connect_timeout or CONNECT_SECONDS, CONNECT_SECONDS)
        held = host
        failures: dict[str, GatewayError] = {}
        try:
            for domain in domains:
                try:
                    if domain != held:
                        held = domain
                        call.release_connection(reusable=False)
                        pool = self._pools.connected.get(domain) or self._pools.pool_for(domain)
                        connection = pool.acquire(call, seconds)
                    was_kept = connection.sock is not None
                    if not was_kept:
                        self._connect(call, pool, connection, domain, seconds)
                except GatewayError as error:
                    failures[domain] = error
                    if call.is_aborted or call.has_timed_out():
                        raise
                else:
                    if domain == host:
                        backups.main_worked(host)
                    elif host in failures:
                        backups.main_failed(host, failures[host].reason)
                    return _Reached(pool, connection, domain, was_kept)
            backups.both_failed(host)
            raise failures[host]
        finally:
            # An error's traceback holds this frame, and so the connection that failed.
            failures.clear()

    def _connect(
        self,
        call: Call,
        pool: RelayPool,
        connection: Connection,
        domain: str,
        seconds: float | None,
    ) -> None:
        try:
            pool.connect(call, connection, seconds)
        except WHILE_CONNECTING as error:
            raise connect_error(error) from error
        call.allow_abort()
        self._pools.add(domain, pool)

    def _send_and_read_head(
        self, call: Call, connection: Connection, message: h1.RequestHead, body: RequestBody
    ) -> UpstreamResponse:
        if call.is_aborted:
            raise ClientGone
        if call.deadline is not None and call.has_timed_out():
            raise TotalTimeout
        sock = connection.sock
        reader = h1.HeadReader()
        try:
            is_sent = call.is_sent = self._send(call, sock, message, body)
            deadline = call.deadline_for(self._read_timeout if is_sent else _EARLY_ANSWER_SECONDS)
            while (head := reader.feed(receive(sock, deadline))) is None:
                pass
            return UpstreamResponse(
                call,
                head,
                received=reader.leftover,
                # With TLS in TLS, surplus bytes hide in `SSLTransport`, where no check sees them.
                reusable=is_sent and head.reusable and not isinstance(sock, SSLTransport),
                read_timeout=self._read_timeout,
            )
        except BEFORE_THE_HEAD as error:
            raise head_error(error, has_begun=reader.has_begun) from error

    def _send(
        self, call: Call, sock: socket.socket, message: h1.RequestHead, body: RequestBody
    ) -> bool:
        """Send the request. Return False if that failed: the target may have answered before."""
        try:
            seconds = self._read_timeout
            if call.deadline is not None:
                seconds = call.timeout_for(seconds)
            send_all(sock, message, seconds)
            # A body of up to one piece was sent with the head.
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
        if call.has_timed_out():
            raise TotalTimeout
        send_all(sock, data, call.timeout_for(self._read_timeout))


def _with_real_reason(call: Call, error: GatewayError) -> GatewayError:
    """Replace an error that is only a consequence of the call's own end."""
    if call.has_timed_out() and (
        call.is_aborted or isinstance(error, ConnectTimeout | ReadTimeout)
    ):
        return TotalTimeout()
    return ClientGone() if call.is_aborted else error


def _is_repeatable(request: FalRequest, body: RequestBody) -> bool:
    """Whether a request does no more when fal gets it twice (RFC 9110 section 9.2.2).

    A GET that runs an endpoint would be billed twice and counted once.
    """
    return request.method == "GET" and body.length == 0 and not request.operation.spends


def _opening(request: FalRequest, headers: HeaderList, body: RequestBody) -> h1.RequestHead:
    """Return the bytes that go first: the head, and with it the whole of a small body.

    So a usual request is one write and one packet.
    """
    method, first = request.method, body.first or b""
    if body.length is None:
        headers.append(("Transfer-Encoding", "chunked"))
        first = h1.chunk(first)
    elif body.length or method != "GET":
        # RFC 9110 section 8.6: a method that expects content says so even when there is none.
        headers.append(("Content-Length", str(body.length)))
    return h1.request_head(method, request.target.request_target, headers, first)
