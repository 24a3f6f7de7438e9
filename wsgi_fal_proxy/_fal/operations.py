"""What a request asks of fal, and whether fal may bill it.

fal bills runs of an endpoint, and the runs that a client makes directly with a token or in a
session. Only operations that are known to be free count as free. All others spend.
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
"""For the option `allowed_urls`: exactly the URLs that fal's own clients call."""


class Kind(Enum):
    """The operations of fal's clients; see docs.fal.ai, "Model APIs"."""

    RUN = "run"
    """Run an endpoint: at once, in the queue, or as a stream."""
    POLL = "poll"
    """Ask for a queued request's status or result."""
    CANCEL = "cancel"
    """Cancel a queued request."""
    UPLOAD = "upload"
    """Begin or complete an upload. The file itself does not go through the proxy."""
    TOKEN = "token"  # noqa: S105 - the operation's name
    """Ask for a token. With it, the client can run the endpoints that the request's body names."""
    SESSION = "session"
    """Open a WebRTC session with the endpoint that the request's body names, or ask for the relay
    servers that a session needs."""
    SIGNAL = "signal"
    """Keep a session open."""
    OTHER = "other"
    """Anything else. fal's clients do not send it."""


_FREE: Final = frozenset({Kind.POLL, Kind.CANCEL, Kind.UPLOAD, Kind.SIGNAL})


class Operation(NamedTuple):
    """What a request asks of fal.

    Attributes:
        kind: One of the operations of fal's clients.
        endpoint: The fal endpoint in the target's path, such as `fal-ai/flux/dev`. The path of a
            poll or cancel names only its first part, such as `fal-ai/flux`. None if the path names
            no endpoint.
    """

    kind: Kind
    endpoint: str | None

    @property
    def spends(self) -> bool:
        """Whether fal may bill the operation."""
        return self.kind not in _FREE


_RUN_HOSTS: Final = frozenset({"fal.run", "queue.fal.run"})
_REST_HOSTS: Final = frozenset({"rest.fal.ai", "rest.alpha.fal.ai"})
_SESSION_HOST: Final = "wma.fal.run"
_SEGMENT: Final = r"[\w~][\w.~-]*"
_NAMESPACE: Final = "(?:workflows|comfy)/"
# The clients' own paths below owner and app: docs.fal.ai, "Queue API". In a namespace there is one
# more segment: "/workflows/a/requests/b" would run the workflow "requests" of the owner "a".
# Nobody documents whether "/Workflows/" is a namespace, too, so nothing below it counts as free.
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
# For these the query is compared, too: no client sends one, and its meaning is unknown.
_TOKENS: Final = frozenset({"/tokens", "/tokens/"})
_SESSIONS: Final = frozenset({"/ice", "/session"})
_SIGNAL: Final = "/session/heartbeat"


# fal does not bill its own failures (5xx), and may bill input that a model refused (422):
# fal.ai/docs/model-apis/faq, "Do you charge for failed requests?". fal answers with these statuses
# before a model runs: because of the key, the account, the endpoint's name or method, or a limit.
_UNBILLED: Final = frozenset({401, 402, 403, 404, 405, 429})
_SERVER_ERROR: Final = 500


def operation_of(method: str, target: Target) -> Operation:
    """Return what a request asks of fal."""
    host, path = target.host, target.path
    if host == "queue.fal.run" and (queued := _QUEUED.fullmatch(path)):
        if method == "GET" and queued["ask"] != "/cancel":
            return Operation(Kind.POLL, queued["endpoint"])
        # fal's client sends no query with a cancel.
        if method == "PUT" and queued["ask"] == "/cancel" and target.request_target == path:
            return Operation(Kind.CANCEL, queued["endpoint"])
    if host in _RUN_HOSTS:
        # A client may add a slash, which is not part of the endpoint's name.
        return Operation(Kind.RUN, path[1:].removesuffix("/") or None)
    return Operation(_of_service(host, target) if method == "POST" else Kind.OTHER, None)


def _of_service(host: str, target: Target) -> Kind:
    """Return what a POST asks of a host whose paths name no endpoint."""
    if host in _REST_HOSTS and target.path in _UPLOADS:
        return Kind.UPLOAD
    if host in _REST_HOSTS and target.request_target in _TOKENS:
        return Kind.TOKEN
    if host == _SESSION_HOST and target.request_target in _SESSIONS:
        return Kind.SESSION
    if host == _SESSION_HOST and target.request_target == _SIGNAL:
        return Kind.SIGNAL
    return Kind.OTHER


def may_be_billed(status: int) -> bool:
    """Whether fal may bill a call that it answers with this status."""
    return status < _SERVER_ERROR and status not in _UNBILLED
