"""Making a connection within its timeout, and keeping it as long as it is good."""

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
from wsgi_fal_proxy._upstream.dial import dial
from wsgi_fal_proxy._upstream.egress import Tunnelled
from wsgi_fal_proxy._upstream.wire import seconds_left

Connection = HTTPConnection | HTTPSConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_fal_proxy._upstream.dial import AddressInfo
    from wsgi_fal_proxy._upstream.lookup import Lookup

    _Base = HTTPConnection
else:
    _Base = object


MAX_IDLE_SECONDS: Final = 55.0
"""How long a connection is kept unused. The shortest usual fronts close theirs after 60 seconds
(AWS's load balancers), and a request that is sent at that moment fails and must not be repeated.
NATs and firewalls forget connections after 60 seconds to some minutes (Azure: 4)."""
_KEEPALIVE: Final = {
    # Seconds of silence before a probe is sent, both while a connection is kept and while a run is
    # silent: a NAT under pressure may forget a silent connection much sooner than it promises.
    "TCP_KEEPIDLE": 3,
    "TCP_KEEPALIVE": 3,  # macOS's name
    # Seconds to the next probe. Linux waits as long after a probe that was answered.
    "TCP_KEEPINTVL": 3,
    # After as many without an answer, the other side counts as gone: after a minute, so that a run
    # that is paid for outlives a shorter outage of the network.
    "TCP_KEEPCNT": 20,
}
KEEPALIVE_OPTIONS: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _KEEPALIVE.items()
        if hasattr(socket, name)
    ),
]
"""Socket options for TCP keepalive."""


class _Checked(_Base):
    """A connection that tells at little cost whether it is still good.

    Attributes:
        usable_until: The `time.monotonic()` at which a kept connection is too old to be used.
    """

    # Faster than in the dictionary of an instance with so many attributes.
    __slots__ = ("_readiness", "usable_until")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.usable_until: float = float("inf")
        self._readiness: Any = None

    def look_up(self, lookup: Lookup, deadline: float | None) -> None:
        """Do nothing: a class with its own way to dial also looks names up itself."""

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

    _lookup: Lookup | None = None
    _addresses: Sequence[AddressInfo] = ()
    _address: AddressInfo | None = None

    def look_up(self, lookup: Lookup, deadline: float | None) -> None:
        """Look up the addresses that `connect` dials. `timeout` does not bound this.

        Args:
            lookup: Knows the addresses of this connection's host.
            deadline: The `time.monotonic()` at which the lookup must end. None: no limit.

        Raises:
            HTTPError: The lookup failed.
        """
        try:
            self._addresses = lookup.addresses(self._dns_host, self.port, deadline)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except OSError as error:
            raise _dialling_error(self, error) from error
        if not self._addresses:
            raise NewConnectionError(self, "the name has no address")
        self._lookup = lookup

    def connect(self) -> None:
        """Connect; see `HTTPConnection`."""
        self._address = None
        try:
            super().connect()
        except Exception:
            if self._lookup is not None:
                self._lookup.failed(self._address)
            raise
        if self._lookup is not None:
            self._lookup.worked(self._address)

    def _new_conn(self) -> socket.socket:
        timeout: Any = self.timeout
        deadline = None if timeout is None else monotonic() + timeout
        try:
            sock, self._address = dial(
                self._addresses,
                deadline=deadline,
                options=self.socket_options,
                source_address=self.source_address,
            )
        except OSError as error:
            raise _dialling_error(self, error) from error
        # For TLS, to which urllib3 gives no timeout of its own.
        sock.settimeout(seconds_left(deadline))
        return sock


def _dialling_error(connection: HTTPConnection, error: OSError) -> HTTPError:
    if isinstance(error, TimeoutError):
        return ConnectTimeoutError(connection, str(error))
    return NewConnectionError(connection, str(error))


@cache
def connection_class(base: type[Any]) -> type[Any]:
    """Derive the relay's connection class from a pool's own one.

    Args:
        base: Such as urllib3's `HTTPSConnection`. A class that dials in its own way, such as
            through a SOCKS proxy, keeps that.
    """
    dials_itself = base._new_conn is not HTTPConnection._new_conn  # noqa: SLF001 - see `pool`
    mixins: Final = (Tunnelled, _Checked) if dials_itself else (Tunnelled, _Dialled, _Checked)
    return type("RelayConnection", (*mixins, base), {})
