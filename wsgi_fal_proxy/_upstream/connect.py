"""Making a connection within its timeout, and telling whether a kept one is still good."""

from __future__ import annotations

import select
import socket
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
)

from wsgi_fal_proxy._process.unpatched import poll
from wsgi_fal_proxy._upstream.egress import Tunnelled
from wsgi_fal_proxy._upstream.wire import seconds_left

Connection = HTTPConnection | HTTPSConnection

if TYPE_CHECKING:
    _Base = HTTPConnection
else:
    _Base = object


class _Checked(_Base):
    """A connection that tells at little cost whether it is still good."""

    _readiness: Any = None

    def connect(self) -> None:
        """Connect; see `HTTPConnection`."""
        super().connect()
        if poll is not None:
            # Made once: it is asked before each use of the connection. It is not gevent's, which
            # would let another greenlet run, though there is nothing to wait for.
            self._readiness = poll()
            self._readiness.register(self.sock, select.POLLIN)

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open and no unexpected byte has arrived."""
        if self._readiness is None:
            return super().is_connected
        return self.sock is not None and not self._readiness.poll(0)


class _Dialled(_Base):
    """A connection whose timeout bounds all addresses of the host and TLS together."""

    def _new_conn(self) -> socket.socket:
        timeout: Any = self.timeout
        deadline = None if timeout is None else monotonic() + timeout
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        for waiting, (family, kind, protocol, _, address) in zip(
            range(len(found), 0, -1), found, strict=True
        ):
            sock: socket.socket | None = None
            try:
                # This fails if the system lacks the family, such as IPv6.
                sock = socket.socket(family, kind, protocol)
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                if self.source_address:
                    sock.bind(self.source_address)
                # A dead address leaves the next ones their share of the time.
                left = seconds_left(deadline)
                sock.settimeout(None if left is None else left / waiting)
                sock.connect(address)
                # For TLS, to which urllib3 gives no timeout of its own.
                sock.settimeout(seconds_left(deadline))
            except OSError as error:
                if sock is not None:
                    sock.close()
                if waiting == 1:
                    raise _connect_error(self, error) from error
            else:
                return sock
        raise NewConnectionError(self, "the name has no address")


def _connect_error(connection: HTTPConnection, error: OSError) -> HTTPError:
    if isinstance(error, TimeoutError):
        return ConnectTimeoutError(connection, "the connect timeout ran out")
    return NewConnectionError(connection, str(error))


@cache
def connection_class(base: type[Any]) -> type[Any]:
    """Derive the relay's connection class from a pool's own one.

    Args:
        base: Such as urllib3's `HTTPSConnection`. A class that dials in its own way, such as
            through a SOCKS proxy, keeps that.
    """
    dials_itself = base._new_conn is not HTTPConnection._new_conn  # noqa: SLF001 - see `pool`
    mixins: Final = (_Checked, Tunnelled) if dials_itself else (_Checked, Tunnelled, _Dialled)
    return type("RelayConnection", (*mixins, base), {})
