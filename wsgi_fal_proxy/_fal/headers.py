"""Selects the header fields that go up to fal, and those that come down to the client."""

from __future__ import annotations

import re
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._http.fields import HOP_BY_HOP, TOKEN, nominated
from wsgi_fal_proxy._version import __version__
from wsgi_fal_proxy.errors import HeaderInvalid, SettingsError

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy._http.fields import Fields, HeaderList

TARGET_ENVIRON_KEY: Final = "HTTP_X_FAL_TARGET_URL"
"""The environ key of `x-fal-target-url`, in which fal's clients name the target."""

ERROR_HEADER: Final = "x-fal-proxy-error"
"""All answers of the proxy's own have this field, and no answer of fal's does."""

CLIENT_PROXY: Final = f"wsgi-fal-proxy/{__version__}"
"""The value of `x-fal-client-proxy`: name/version, as in fal's own proxies."""

# The option `forward_headers` cannot add these. They identify the caller to the app, or the proxy
# sets them itself.
NEVER_FORWARDED: Final = HOP_BY_HOP | {
    "accept",
    "accept-encoding",
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "cookie2",
    "expect",
    "forwarded",
    "host",
    "origin",
    "referer",
    "user-agent",
    "via",
    "x-real-ip",
}
NEVER_FORWARDED_PREFIXES: Final = ("x-fal-", "x-forwarded-")

# The proxy or its server sets the body's framing and coding (rule 8 of the formula). PEP 3333
# forbids `Status` ("The start_response() Callable"). `x-fal-proxy-error` marks the proxy's own
# answers, so fal's never have it.
_NOT_RETURNED: Final = HOP_BY_HOP | {"content-length", "content-encoding", "status", ERROR_HEADER}

# RFC 9110 section 5.5, as WSGI's latin-1 text: visible ASCII, obs-text, space and tab.
_FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_value: Final = itemgetter(1)
_FAL_PREFIX: Final = "HTTP_X_FAL_"
_NOT_COPIED: Final = frozenset({TARGET_ENVIRON_KEY, "HTTP_X_FAL_CLIENT_PROXY"})
# docs.fal.ai, "Platform Headers", and the fields of an upload by fal's client. They say how to run
# an endpoint, never which one.
_HARMLESS_FAL_HEADERS: Final = frozenset(
    {
        "x-fal-client-proxy",
        "x-fal-no-retry",
        "x-fal-object-lifecycle",
        "x-fal-object-lifecycle-preference",
        "x-fal-queue-priority",
        "x-fal-request-timeout",
        "x-fal-request-timeout-type",
        "x-fal-runner-hint",
        "x-fal-store-io",
    }
)


def request_headers(
    environ: WSGIEnvironment,
    *,
    host: str,
    authorization: str,
    forwarded: frozenset[str],
    narrowed: bool = False,
) -> HeaderList:
    """Return the fields that go up: an allowlist, so that no private field reaches fal.

    The code that sends the content adds the fields that frame it.

    Args:
        environ: The WSGI environ of the client's request.
        host: The target's host.
        authorization: The value with the key.
        forwarded: Environ keys of the option `forward_headers`.
        narrowed: Whether an unknown `x-fal-*` header stays here.

    Raises:
        HeaderInvalid: A name or a value has a character that no header field may have.
    """
    connection = environ.get("HTTP_CONNECTION")
    # Hop-by-hop fields never go up, so a usual "Connection: keep-alive" leaves nothing to drop.
    dropped = nominated(connection) - HOP_BY_HOP if connection else None
    headers: HeaderList = [
        ("Host", host),
        ("Authorization", authorization),
        # Without a coding, content can be passed on as it arrives, event by event.
        ("Accept-Encoding", "identity"),
        ("X-Fal-Client-Proxy", CLIENT_PROXY),
    ]
    fields = _from_client(environ, forwarded)
    # One match for all values is faster than one for each.
    if not _FIELD_VALUE.fullmatch("".join(map(_value, fields))):
        raise _invalid(next(name for name, value in fields if not _FIELD_VALUE.fullmatch(value)))
    headers += [field for field in fields if field[0].lower() not in dropped] if dropped else fields
    return _without_unknown(headers) if narrowed else headers


def _from_client(environ: WSGIEnvironment, forwarded: frozenset[str]) -> HeaderList:
    fields = [("Accept", environ.get("HTTP_ACCEPT") or "application/json")]
    if content_type := environ.get("CONTENT_TYPE"):
        fields.append(("Content-Type", content_type))
    if user_agent := environ.get("HTTP_USER_AGENT"):
        fields.append(("User-Agent", user_agent))
    # Usually the target's is the only `x-fal-*` header. This count finds that out in C.
    if "\n".join(environ).count(_FAL_PREFIX) > (TARGET_ENVIRON_KEY in environ):
        fields += [
            (_name(key), environ[key])
            for key in environ
            if key.startswith(_FAL_PREFIX) and key not in _NOT_COPIED
        ]
    if forwarded:
        fields += [
            (_name(key), environ[key])
            for key in forwarded
            if key in environ and key not in _NOT_COPIED
        ]
    return fields


@lru_cache(maxsize=256)
def _name(key: str) -> str:
    """Return the name of a request header from its environ key."""
    name = key[len("HTTP_") :].replace("_", "-").title()
    if not TOKEN.fullmatch(name):
        raise _invalid(name)
    return name


def _invalid(name: str) -> HeaderInvalid:
    detail = f"The request header {name} contains a character that no header may contain."
    return HeaderInvalid(detail)


def _without_unknown(headers: HeaderList) -> HeaderList:
    """Drop unknown `x-fal-*` fields: such a field might choose what fal runs, or for whom."""
    return [
        item
        for item in headers
        if not (name := item[0].lower()).startswith("x-fal-") or name in _HARMLESS_FAL_HEADERS
    ]


def response_headers(fields: Fields) -> HeaderList:
    """Return the fields that come down: all end-to-end fields, in order, with repeats.

    Args:
        fields: The response's fields. Their values have no control characters.
    """
    dropped = _not_returned(fields.connection_options)
    return [
        item for item, name in zip(fields.items, fields.names, strict=True) if name not in dropped
    ]


@lru_cache(maxsize=64)
def _not_returned(connection_options: frozenset[str]) -> frozenset[str]:
    return _NOT_RETURNED | connection_options


def check_forwarded(name: str, headers: object) -> None:
    """Check the value of the option `forward_headers`.

    Raises:
        SettingsError: It is not a list of names of headers that may be forwarded.
    """
    if not isinstance(headers, list | tuple | set | frozenset):
        raise SettingsError(name, headers, "it must be a list of header names")
    for header in headers:
        if not isinstance(header, str) or not TOKEN.fullmatch(header):
            raise SettingsError(name, header, "each must be a header name, such as x-request-id")
        # A WSGI environ does not tell "-" from "_".
        lower = header.lower().replace("_", "-")
        if lower in NEVER_FORWARDED or lower.startswith(NEVER_FORWARDED_PREFIXES):
            why = "this header is never forwarded: it identifies the caller, or the proxy sets it"
            raise SettingsError(name, header, why)
