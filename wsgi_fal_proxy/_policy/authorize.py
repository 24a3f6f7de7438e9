"""The option `authorize`: the values that it is given and returns, and how it is called."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from wsgi_fal_proxy.errors import AuthorizeFailed, Forbidden, Unauthenticated

if TYPE_CHECKING:
    from wsgi_fal_proxy._fal.request import FalRequest

_logger: Final = logging.getLogger("wsgi_fal_proxy")

_STATUSES: Final = range(100, 600)
"""Numbers that are safe to log: they are HTTP statuses (RFC 9110 section 15), not private data."""


class Allow(NamedTuple):
    """The caller may make the call.

    Attributes:
        identity: The caller, such as a user's id: a non-empty str. Limits count by it, and the
            observer gets it. None, the default: limits count by the remote address.
    """

    identity: str | None = None


class Refuse(NamedTuple):
    """The caller may not make the call.

    Attributes:
        status: 401 if the caller is not signed in. 403, the default, if the caller is signed in
            and still may not make this call.
        message: One sentence, which the caller sees. None, the default: a sentence of the proxy's.
    """

    status: Literal[401, 403] = 403
    message: str | None = None


Authorize = Callable[["FalRequest"], Allow | Refuse]
"""Decides whether one request is relayed."""


def allow_anyone(request: FalRequest) -> Allow:
    """Allow every caller: a value for `authorize`, with which the proxy does not warn."""
    return Allow()


def identity_of(authorize: Authorize, request: FalRequest) -> str | None:
    """Call `authorize` and return the caller's identity, None if the app names none.

    Any failure refuses the request. Only a valid `Allow` allows it.

    Raises:
        Unauthenticated: `authorize` returned `Refuse(401)`.
        Forbidden: `authorize` returned `Refuse(403)`.
        AuthorizeFailed: `authorize` raised, or returned something else.
    """
    try:
        decision = authorize(request)
    except Exception as error:
        _logger.exception("authorize raised. Request refused.")
        raise AuthorizeFailed from error
    match decision:
        case Allow(identity) if identity is None or (isinstance(identity, str) and identity):
            return identity
        case Refuse(401, message):
            raise Unauthenticated(_text_or_none(message))
        case Refuse(403, message):
            raise Forbidden(_text_or_none(message))
    _logger.error("authorize returned %s. Request refused.", _what_is_wrong(decision))
    raise AuthorizeFailed


def _text_or_none(message: object) -> str | None:
    if message is None or isinstance(message, str):
        return message
    _logger.error(
        "authorize returned Refuse(message=%s); message must be a str or None%s. Request refused"
        " with the default message.",
        _type_of(message),
        _hint(message),
    )
    return None


def _what_is_wrong(decision: object) -> str:
    """Describe an invalid decision by types, since the values themselves may be private."""
    match decision:
        case Allow(identity):
            # The only invalid str is the empty one.
            shown = "''" if isinstance(identity, str) else _type_of(identity)
            needed = "identity must be a non-empty str or None"
            return f"Allow(identity={shown}); {needed}{_hint(identity)}"
        case Refuse(status):
            is_number = isinstance(status, int) and not isinstance(status, bool)
            shown = f"{status:d}" if is_number and status in _STATUSES else _type_of(status)
            is_message = isinstance(status, str)
            hint = " (the message is the second argument)" if is_message else ""
            return f"Refuse(status={shown}); status must be 401 or 403{hint}"
    return f"{_type_of(decision)}; it must return Allow or Refuse"


def _hint(value: object) -> str:
    """Say how to make a str of a value that is not a str."""
    if isinstance(value, str):
        return ""
    return " (use .decode())" if isinstance(value, bytes) else " (use str(...))"


def _type_of(value: object) -> str:
    return f"<{type(value).__name__}>"
