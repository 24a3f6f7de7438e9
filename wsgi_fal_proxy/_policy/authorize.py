"""Who may call: what the app's own check is given, and what it answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from wsgi_fal_proxy.errors import AuthorizeFailed, Forbidden, Unauthenticated

if TYPE_CHECKING:
    from wsgi_fal_proxy._fal.request import FalRequest

_logger: Final = logging.getLogger("wsgi_fal_proxy")

_STATUS_NEEDED: Final = "the status must be 401 or 403"
_STATUSES: Final = range(100, 600)  # RFC 9110 section 15; another number may be anything


class Allow(NamedTuple):
    """The caller may go on.

    Attributes:
        identity: Who it is, such as a user's id: limits are counted for it, and the observer is
            told. None for a caller that is not known by name, who is counted by remote address.
    """

    identity: str | None = None


class Refuse(NamedTuple):
    """The caller may not.

    Attributes:
        status: 401 for who is not signed in, 403, the default, for who is and may not.
        message: One sentence that the caller is shown. None for a plain one.
    """

    status: Literal[401, 403] = 403
    message: str | None = None


Authorize = Callable[["FalRequest"], Allow | Refuse]
"""Decides on one request."""


def allow_anyone(request: FalRequest) -> Allow:
    """Serve every caller: a value for the option `authorize` that says so, without a warning."""
    return Allow()


def identity_of(authorize: Authorize, request: FalRequest) -> str | None:
    """Have the app decide, and give who the caller is.

    What goes wrong there refuses: only a plain yes is one.

    Raises:
        Unauthenticated: It said 401.
        Forbidden: It said 403.
        AuthorizeFailed: It raised, or answered neither.
    """
    try:
        decision = authorize(request)
    except Exception as error:
        _logger.exception("The option authorize raised; the request is refused.")
        raise AuthorizeFailed from error
    match decision:
        case Allow(identity) if identity is None or (isinstance(identity, str) and identity):
            return identity
        case Refuse(401, message):
            raise Unauthenticated(_text_or_none(message))
        case Refuse(403, message):
            raise Forbidden(_text_or_none(message))
    _logger.error(
        "The option authorize answered with %s; the request is refused.", _what_is_wrong(decision)
    )
    raise AuthorizeFailed


def _text_or_none(message: object) -> str | None:
    if message is None or isinstance(message, str):
        return message
    _logger.error(
        "The option authorize answered with Refuse, of which the message must be text or None, and"
        " is %s; the request is refused with a sentence of the proxy's.",
        _not_text(message),
    )
    return None


def _what_is_wrong(decision: object) -> str:
    """Tell it without the identity, which may be private, and so may what is in its place."""
    match decision:
        case Allow(identity):
            # All other text can be used.
            is_text = isinstance(identity, str)
            wrong = "empty" if is_text else _not_text(identity)
            needed = "the identity must be text that is not empty, or None"
            return f"Allow, of which {needed}, and is {wrong}"
        case Refuse(str()):
            hint = "a message comes second, as in Refuse(403, '...')"
            return f"Refuse, of which {_STATUS_NEEDED}, and is of the type str: {hint}"
        case Refuse(status):
            is_number = isinstance(status, int) and not isinstance(status, bool)
            wrong = f"{status:d}" if is_number and status in _STATUSES else _type_of(status)
            return f"Refuse, of which {_STATUS_NEEDED}, and is {wrong}"
    return f"{type(decision).__name__}, which is neither Allow nor Refuse"


def _not_text(value: object) -> str:
    use = ".decode()" if isinstance(value, bytes) else "str(...)"
    return f"{_type_of(value)}: use {use}"


def _type_of(value: object) -> str:
    return f"of the type {type(value).__name__}"
