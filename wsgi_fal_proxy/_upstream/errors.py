"""What urllib3, ssl and sockets may raise, and the error that the client gets for it.

Each table is in order: the first type that matches counts, so specific types come first.
"""

from __future__ import annotations

import http.client
import ssl
from typing import Final

from urllib3.exceptions import (
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeoutError
from urllib3.util.ssl_match_hostname import CertificateError

from wsgi_fal_proxy._http.h1 import MalformedResponse
from wsgi_fal_proxy.errors import (
    ConnectTimeout,
    GatewayError,
    ReadTimeout,
    UpstreamClosed,
    UpstreamMalformed,
    UpstreamTlsFailed,
    UpstreamUnreachable,
    UpstreamUnresolvable,
)

_Table = tuple[tuple[type[BaseException], type[GatewayError]], ...]

_CONNECT_TABLE: Final[_Table] = (
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
_HEAD_TABLE: Final[_Table] = (
    (TimeoutError, ReadTimeout),
    (MalformedResponse, UpstreamMalformed),
    (OSError, UpstreamClosed),
)

WHILE_CONNECTING: Final = tuple(theirs for theirs, _ in _CONNECT_TABLE)
"""What may be raised while a connection is made."""
BEFORE_THE_HEAD: Final = tuple(theirs for theirs, _ in _HEAD_TABLE)
"""What may be raised between the request's first byte and the response head's last."""
IN_THE_CONTENT: Final = (MalformedResponse, OSError)
"""What may be raised after the head."""


class Stale(UpstreamClosed):
    """The connection ended before any byte of an answer.

    A connection that was kept may have been closed before the request was sent.
    """


def connect_error(error: BaseException) -> GatewayError:
    """Return our error for one of `WHILE_CONNECTING`."""
    return _ours(error, _CONNECT_TABLE)


def head_error(error: BaseException, *, has_begun: bool) -> GatewayError:
    """Return our error for one of `BEFORE_THE_HEAD`.

    Args:
        error: What was raised.
        has_begun: Whether any byte of the answer has come.
    """
    ours = _ours(error, _HEAD_TABLE)
    return Stale() if isinstance(ours, UpstreamClosed) and not has_begun else ours


def _ours(error: BaseException, table: _Table) -> GatewayError:
    return next(ours for theirs, ours in table if isinstance(error, theirs))()
