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
        method: As the client sent it; it may be any text if the request was refused for it.
        host: The target's, such as `queue.fal.run`. None if no target was accepted.
        operation: What the request asked of fal: `operation.kind`, `operation.endpoint`,
            `operation.spends`. None if no target was accepted.
        identity: The caller, by the option `authorize`. None: not known by name.
        status: The answer's status. None if no answer could be begun.
        reason: Why the answer is the proxy's own and not fal's, or `truncated`; else None.
        request_id: The id that fal gave to the request, if it sent one.
        seconds_to_head: From the request's arrival to fal's whole response head. None if none came.
        seconds: From the request's arrival to the end, on the monotonic clock.
        bytes_up: Bytes of the request's content that were read to be relayed; 0 if it broke off.
        bytes_down: Bytes of the answer's content that were handed to the server.
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
        """The operation's kind as text, such as `run`; None if no target was accepted."""
        return None if self.operation is None else self.operation.kind.value


Observer = Callable[[CallRecord], object]
"""Receives the record of one request. Its result is not used."""
