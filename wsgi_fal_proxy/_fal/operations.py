"""What an accepted request asks of fal: to run which endpoint, or something that costs nothing.

fal bills for running an endpoint, and for what a token or a session lets a client run directly.
Only what is known to be free counts as free; all else spends.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from wsgi_fal_proxy._fal.target import Target


STRICT_URLS: Final = (
    "fal.run/**",
    "queue.fal.run/**",
    *(
        f"{host}/{path}"
        for host in ("rest.fal.ai", "rest.alpha.fal.ai")
        for path in (
            "storage/upload/initiate",
            "storage/upload/initiate?storage_type=fal-cdn-v3",
            "storage/upload/initiate-multipart?storage_type=fal-cdn-v3",
            "storage/upload/complete-multipart?storage_type=fal-cdn-v3",
            "tokens/",
        )
    ),
    "wma.fal.run/ice",
    "wma.fal.run/session",
    "wma.fal.run/session/heartbeat",
)
"""For the option `allowed_urls`: what fal's own clients call, and no more."""


class Kind(Enum):
    """The operations that fal's clients know; see docs.fal.ai, "Model APIs"."""

    RUN = "run"
    """Run an endpoint: at once, in the queue, or as a stream."""
    POLL = "poll"
    """Ask for a queued request's status or result."""
    CANCEL = "cancel"
    """Cancel a queued request."""
    UPLOAD = "upload"
    """Begin or complete an upload; the file itself does not go through the proxy."""
    TOKEN = "token"  # noqa: S105 - the operation's name
    """Ask for a token, by which the client runs the endpoints that the request's body names."""
    SESSION = "session"
    """Open a WebRTC session with the endpoint that the request's body names, or ask for the relay
    servers that it needs."""
    SIGNAL = "signal"
    """Keep such a session up."""
    OTHER = "other"
    """None of these: whatever it does, it is not an official client's."""


_FREE: Final = frozenset({Kind.POLL, Kind.CANCEL, Kind.UPLOAD, Kind.SIGNAL})


class Operation(NamedTuple):
    """What a request asks of fal.

    Attributes:
        kind: Of the operations that fal's clients know.
        endpoint: The fal endpoint in the target's path, such as `fal-ai/flux/dev`; the one that is
            polled or cancelled, too, as far as the path names it. None where there is none.
    """

    kind: Kind
    endpoint: str | None

    @property
    def spends(self) -> bool:
        """Whether fal may bill for it."""
        return self.kind not in _FREE


_RUN_HOSTS: Final = frozenset({"fal.run", "queue.fal.run"})
_REST_HOSTS: Final = frozenset({"rest.fal.ai", "rest.alpha.fal.ai"})
_SESSION_HOST: Final = "wma.fal.run"
_SEGMENT: Final = r"[\w~][\w.~-]*"
_NAMESPACE: Final = "(?:workflows|comfy)/"
# The clients' own paths below owner and app: docs.fal.ai, "Queue API". Below a namespace there is
# one segment more: "/workflows/a/requests/b" would run the workflow "requests" of the owner "a".
# Whether "/Workflows/" is one, too, is not known: below it nothing counts as free.
_QUEUED: Final = re.compile(
    rf"/(?P<endpoint>(?:{_NAMESPACE}{_SEGMENT}|(?!(?i:{_NAMESPACE})){_SEGMENT})/{_SEGMENT})"
    rf"/requests/{_SEGMENT}(?P<ask>/status|/status/stream|/response|/cancel)?",
    re.ASCII,
)
_UPLOADS: Final = frozenset(
    {
        "/storage/upload/initiate",
        "/storage/upload/initiate-multipart",
        "/storage/upload/complete-multipart",
    }
)
# These without a query, too: no client sends one, and what it would mean is not known.
_TOKENS: Final = frozenset({"/tokens", "/tokens/"})
_SESSIONS: Final = frozenset({"/ice", "/session"})
_SIGNAL: Final = "/session/heartbeat"


# fal never charges for what it failed at (5xx), and may charge for input that a model refused
# (422): fal.ai/docs/model-apis/faq, "Do you charge for failed requests?". These are from before
# any model: the key, the account, the endpoint's name and method, fal's own limits.
_UNBILLED: Final = frozenset({401, 402, 403, 404, 405, 429})
_SERVER_ERROR: Final = 500


def operation(method: str, target: Target) -> Operation:
    """Tell what a request asks of fal."""
    host, path = target.host, target.path
    if host == "queue.fal.run" and (queued := _QUEUED.fullmatch(path)):
        if method == "GET" and queued["ask"] != "/cancel":
            return Operation(Kind.POLL, queued["endpoint"])
        # As fal's client composes it: without a query.
        if method == "PUT" and queued["ask"] == "/cancel" and target.request_target == path:
            return Operation(Kind.CANCEL, queued["endpoint"])
    if host in _RUN_HOSTS:
        # A slash at the end, which a client may add, is not part of the endpoint's name.
        return Operation(Kind.RUN, path[1:].removesuffix("/") or None)
    return Operation(_of_service(host, target) if method == "POST" else Kind.OTHER, None)


def _of_service(host: str, target: Target) -> Kind:
    """Tell what a POST asks of a host that runs no endpoint in its path."""
    if host in _REST_HOSTS and target.path in _UPLOADS:
        return Kind.UPLOAD
    if host in _REST_HOSTS and target.request_target in _TOKENS:
        return Kind.TOKEN
    if host == _SESSION_HOST and target.request_target in _SESSIONS:
        return Kind.SESSION
    if host == _SESSION_HOST and target.request_target == _SIGNAL:
        return Kind.SIGNAL
    return Kind.OTHER


def is_unbilled(status: int) -> bool:
    """Whether fal does not charge for a call that it answers with this status."""
    return status >= _SERVER_ERROR or status in _UNBILLED
