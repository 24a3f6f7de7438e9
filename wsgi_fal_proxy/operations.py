"""What an accepted request asks of fal: to run which endpoint, or something that costs nothing.

fal bills for running an endpoint, and for what a token or a session lets a client run directly.
Only what is known to be free counts as free; all else spends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wsgi_fal_proxy.target import Target


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
    """Open a WebRTC session with the endpoint that the request's body names."""
    SIGNAL = "signal"
    """Keep such a session up."""
    OTHER = "other"
    """None of these: whatever it does, it is not an official client's."""


_FREE: Final = frozenset({Kind.POLL, Kind.CANCEL, Kind.UPLOAD, Kind.SIGNAL})


@dataclass(frozen=True, slots=True)
class Operation:
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
_SEGMENT: Final = r"[A-Za-z0-9_~][A-Za-z0-9_.~-]*"
# The clients' own paths below owner and app: docs.fal.ai, "Queue API".
_QUEUED: Final = re.compile(
    rf"/(?P<endpoint>(?:(?:workflows|comfy)/)?{_SEGMENT}/{_SEGMENT})/requests/{_SEGMENT}"
    r"(?P<ask>/status|/status/stream|/response|/cancel)?"
)
_UPLOADS: Final = frozenset(
    {
        "/storage/upload/initiate",
        "/storage/upload/initiate-multipart",
        "/storage/upload/complete-multipart",
    }
)
_TOKENS: Final = frozenset({"/tokens", "/tokens/"})
_SIGNALS: Final = frozenset({"/ice", "/session/heartbeat"})


@lru_cache(maxsize=256)
def operation(method: str, target: Target) -> Operation:
    """Tell what a request asks of fal."""
    host, path = target.host, target.path
    if host == "queue.fal.run" and (queued := _QUEUED.fullmatch(path)):
        if queued["ask"] == "/cancel":
            if method == "PUT":
                return Operation(Kind.CANCEL, queued["endpoint"])
        elif method == "GET":
            return Operation(Kind.POLL, queued["endpoint"])
    if host in _RUN_HOSTS:
        return Operation(Kind.RUN, path.strip("/") or None)
    if host in _REST_HOSTS:
        return _of_rest(method, path)
    if host == "wma.fal.run":
        return _of_wma(method, path)
    return Operation(Kind.OTHER, None)


def _of_rest(method: str, path: str) -> Operation:
    if method == "POST" and path in _UPLOADS:
        return Operation(Kind.UPLOAD, None)
    if method == "POST" and path in _TOKENS:
        return Operation(Kind.TOKEN, None)
    return Operation(Kind.OTHER, None)


def _of_wma(method: str, path: str) -> Operation:
    if path in _SIGNALS:
        return Operation(Kind.SIGNAL, None)
    if method == "POST" and path == "/session":
        return Operation(Kind.SESSION, None)
    return Operation(Kind.OTHER, None)
