"""The record of one request, which the option `observer` takes when the request is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_fal_proxy._fal.operations import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One request that is over. It holds no key, no query and no content.

    Attributes:
        method: As the client sent it; anything at all where it was refused for that.
        host: Of the target, such as `queue.fal.run`; None where no target was accepted.
        operation: What it asked of fal: `operation.kind`, `operation.endpoint`,
            `operation.spends`; None where no target was accepted.
        identity: Who called, by the option `authorize`; None for one that is not known by name.
        status: What the client was answered with; None where no answer could be begun.
        reason: Why the answer is the proxy's own and not fal's, or `truncated`; else None.
        request_id: The id that fal gave the request, where it told.
        seconds_to_head: From the request's arrival to fal's whole response head; None where none
            came.
        seconds: From the request's arrival to the end, by a clock that is never set.
        bytes_up: Of the request's content, as read to be relayed; 0 for one that broke off.
        bytes_down: Of the answer's content, as handed to the server.
        client_left: Whether the client left before the end, or the server broke off towards it.
        truncated: Whether fal's answer broke off after its head had been passed on.
    """

    method: str
    host: str | None
    operation: Operation | None
    identity: str | None
    status: int | None
    reason: str | None
    request_id: str | None
    seconds_to_head: float | None
    seconds: float
    bytes_up: int
    bytes_down: int
    client_left: bool
    truncated: bool

    @property
    def endpoint(self) -> str | None:
        """The fal endpoint in the target's path, such as `fal-ai/flux/dev`; None without one."""
        return None if self.operation is None else self.operation.endpoint

    @property
    def kind(self) -> str | None:
        """The operation's kind as text, such as `run`; None where no target was accepted."""
        return None if self.operation is None else self.operation.kind.value


Observer = Callable[[CallRecord], object]
"""Is told of one request; what it returns does not matter."""
