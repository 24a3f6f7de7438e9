"""What a client asks for: the request, parsed once into a value that every later step receives."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_fal_proxy._fal.headers import TARGET_ENVIRON_KEY
from wsgi_fal_proxy._fal.operations import Kind, Operation, operation_of
from wsgi_fal_proxy._fal.target import Target
from wsgi_fal_proxy.errors import MethodNotAllowed, Refusal

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

_METHODS: Final = frozenset({"GET", "POST"})


class FalRequest(NamedTuple):
    """A request that may be relayed, if the owner's rules allow it.

    Attributes:
        environ: The WSGI environ, with everything that the app's middleware has put there, such as
            a session or a user. The repr does not show it. Do not read the body from it.
        method: `GET`, `POST` or `PUT`.
        target: The URL at fal: `target.host`, `target.path`, `target.request_target`.
        operation: What the request asks of fal: `operation.kind`, `operation.endpoint`,
            `operation.spends`.
    """

    environ: WSGIEnvironment
    method: str
    target: Target
    operation: Operation

    @property
    def endpoint(self) -> str | None:
        """The fal endpoint in the target's path, such as `fal-ai/flux/dev`; None without one."""
        return self.operation.endpoint

    def __repr__(self) -> str:
        return f"FalRequest({self.method!r}, {self.target!r}, {self.operation!r})"


def parse_request(environ: WSGIEnvironment) -> FalRequest:
    """Accept a client's request by its method and target (rules 2 and 3 of the formula).

    Raises:
        MethodNotAllowed: It is no GET or POST, nor a PUT that cancels a queued request.
        TargetMissing: It names no target.
        TargetInvalid: The target is not a plain https URL.
        TargetHostNotAllowed: The target is not fal's.
    """
    method: str = environ["REQUEST_METHOD"]
    target, asked = _parse(method, environ.get(TARGET_ENVIRON_KEY))
    return FalRequest(environ, method, target, asked)


# The same few are called again and again: a model, a status that is polled. A target has at most
# 8,000 characters, so clients cannot fill the memory with them.
@lru_cache(maxsize=256)
def _parse(method: str, text: str | None) -> tuple[Target, Operation]:
    if method in _METHODS:
        target = Target.parse(text)
        return target, operation_of(method, target)
    if method == "PUT":
        try:
            target = Target.parse(text)
        except Refusal as refusal:
            raise MethodNotAllowed from refusal
        asked = operation_of(method, target)
        if asked.kind is Kind.CANCEL:
            return target, asked
    raise MethodNotAllowed
