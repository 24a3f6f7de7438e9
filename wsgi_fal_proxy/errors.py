"""Every error a client can meet: its status, its stable reason, and what to do about it.

The tree has two branches. A `Refusal` means that nothing was sent to fal because of this request
(or, for a body that turned out unusable half-way, that the request was never completed, so fal
cannot have acted on it). A `GatewayError` means that the trouble lies between us and fal.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final


class FalProxyError(Exception):
    """An answer of the proxy's own instead of fal's.

    Attributes:
        status: The HTTP status line without the version, as PEP 3333 wants it.
        reason: A stable snake_case name for programs to compare; sent as `x-fal-proxy-error`.
        detail: One sentence for the person who meets it. Safe to show to a client: it never
            holds the key, nor anything of the request but what the client itself sent as target,
            or named as an endpoint in the characters that those are made of.
        headers: Header fields that the status obliges us to send, such as `Allow`.
        for_the_log: What the log tells besides, and no client; of the same safety from the key.
        may_be_billed: Whether fal may charge for the call all the same; what limits have taken
            for it is then not given back.
    """

    status: ClassVar[str]
    reason: ClassVar[str]
    headers: tuple[tuple[str, str], ...] = ()
    may_be_billed: ClassVar[bool] = False
    default_detail: ClassVar[str]

    def __init__(self, detail: str | None = None, *, for_the_log: str = "") -> None:
        self.detail: str = self.default_detail if detail is None else detail
        self.for_the_log: str = for_the_log
        super().__init__(self.detail)


class Refusal(FalProxyError):
    """The request is not one that may be relayed; fal has not acted on it."""


class Unauthenticated(Refusal):
    """The option `authorize` said 401; RFC 9110 section 15.5.2 asks for a challenge."""

    status = "401 Unauthorized"
    reason = "unauthenticated"
    # Of the registered schemes the one that no browser asks a password for.
    headers: tuple[tuple[str, str], ...] = (("WWW-Authenticate", "Bearer"),)
    default_detail = "This app wants to know who you are: sign in, and try again."


class Forbidden(Refusal):
    """The option `authorize` said 403."""

    status = "403 Forbidden"
    reason = "forbidden"
    default_detail = "This app does not let you make this call."


class AuthorizeFailed(Refusal):
    """The option `authorize` raised, or gave no answer that it may give."""

    status = "403 Forbidden"
    reason = "authorize_failed"
    default_detail = "This app could not tell whether you may make this call."


class LimitExceeded(Refusal):
    """One of the option `limits` leaves no room for the call; RFC 6585 section 4."""

    status = "429 Too Many Requests"
    reason = "limit_exceeded"
    default_detail = "This app's limit on calls is reached; try again later."

    def __init__(self, detail: str, headers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(detail)
        self.headers = headers


class LimitsUnavailable(Refusal):
    """What the option `limits` counts in does not answer; see the option `limits_fail_open`."""

    status = "503 Service Unavailable"
    reason = "limits_unavailable"
    headers: tuple[tuple[str, str], ...] = (("Retry-After", "5"),)
    default_detail = "The fal proxy cannot count calls at the moment; try again shortly."


class MethodNotAllowed(Refusal):
    """Rule 2 of the formula; RFC 9110 section 15.5.6 asks for `Allow`."""

    status = "405 Method Not Allowed"
    reason = "method_not_allowed"
    headers: tuple[tuple[str, str], ...] = (("Allow", "GET, POST"),)
    default_detail = "The fal proxy takes GET and POST, and PUT to cancel a queued request."


class NotFound(Refusal):
    """Of the stand-alone proxy: a path that is neither the proxy's nor `/healthz`."""

    status = "404 Not Found"
    reason = "not_found"
    default_detail = "There is nothing here; the fal proxy answers under its prefix."


class HostNotAllowed(Refusal):
    """Of the development server: the request is for a name that is not this machine's.

    A page on the internet can have its own name resolve to 127.0.0.1 (DNS rebinding), and is then
    of one origin with this server: it could spend the key's money.
    """

    status = "403 Forbidden"
    reason = "host_not_allowed"
    default_detail = (
        "This development server answers to localhost and 127.0.0.1 only: to call it by another"
        " name, start it with --host 0.0.0.0, and whoever reaches this machine can use it, too."
    )


class TargetMissing(Refusal):
    """Rule 3 of the formula."""

    status = "400 Bad Request"
    reason = "target_missing"
    default_detail = (
        "The header x-fal-target-url, which names the fal URL to call, is missing or empty."
    )


class HeaderInvalid(Refusal):
    """A header to be relayed holds a character that no header may hold (RFC 9110 section 5.5)."""

    status = "400 Bad Request"
    reason = "header_invalid"
    default_detail = "A request header holds a control character."


class ContentLengthInvalid(Refusal):
    """RFC 9110 section 8.6: the length is a decimal number."""

    status = "400 Bad Request"
    reason = "content_length_invalid"
    default_detail = "The request body's length cannot be told: send a decimal Content-Length."


class BodyIncomplete(Refusal):
    """The client promised more than it sent, or the server could not read it."""

    status = "400 Bad Request"
    reason = "body_incomplete"
    default_detail = (
        "The request body ended before the length that its headers declare, or something before"
        " the proxy has read of it."
    )


class TargetInvalid(Refusal):
    """Rule 3 of the formula: the target is not a URL that every parser reads alike."""

    status = "412 Precondition Failed"
    reason = "target_invalid"
    default_detail = "The target in x-fal-target-url is not a plain https URL."


class TargetHostNotAllowed(Refusal):
    """Rule 3 of the formula: the target is not fal."""

    status = "412 Precondition Failed"
    reason = "target_host_not_allowed"
    default_detail = "The target's host is not under fal.ai or fal.run."


class TargetNotAllowed(Refusal):
    """The option `allowed_urls` does not name the target; what it names is not told."""

    status = "412 Precondition Failed"
    reason = "target_not_allowed"
    default_detail = (
        "This app does not let you call this URL: no pattern of the proxy's option allowed_urls"
        " matches its host, path and query."
    )


class EndpointNotAllowed(Refusal):
    """The option `allowed_endpoints` does not name what would be run; what it names is not told."""

    status = "412 Precondition Failed"
    reason = "endpoint_not_allowed"
    default_detail = (
        "This app does not let you run this: no pattern of the proxy's option allowed_endpoints"
        " matches the endpoint, of which a subpath such as /stream is part."
    )


class TargetAmbiguous(Refusal):
    """With an allowlist: the path may mean to fal another one than it says."""

    status = "412 Precondition Failed"
    reason = "target_ambiguous"
    default_detail = (
        "The path of the target is not plain: empty or dot segments, percent-encoding, semicolons"
        " and the like are not taken here, as servers differ over what they mean."
    )


class BodyAmbiguous(Refusal):
    """With `allowed_endpoints`: which apps the body asks for cannot be told beyond doubt."""

    status = "412 Precondition Failed"
    reason = "body_ambiguous"
    default_detail = (
        "The body must be what fal's own client sends to this URL: one JSON object of at most"
        " 65,536 bytes, in UTF-8, with no other and no repeated key."
    )


class UnsupportedMediaType(Refusal):
    """Rule 4 of the formula."""

    status = "415 Unsupported Media Type"
    reason = "unsupported_media_type"
    default_detail = "A request body must be JSON, sent with the content type application/json."


class BodyTooLarge(Refusal):
    """The body is over the option `max_body_bytes`."""

    status = "413 Content Too Large"
    reason = "body_too_large"
    default_detail = "The request body is larger than this proxy accepts."


class KeyMissing(FalProxyError):
    """Rule 5 of the formula cannot be followed: nobody has configured a key."""

    status = "500 Internal Server Error"
    reason = "key_missing"
    default_detail = "The fal proxy has no key: set FAL_KEY on the server."


class KeyMalformed(FalProxyError):
    """The configured key cannot be a fal key; the detail says at which position, never what."""

    status = "500 Internal Server Error"
    reason = "key_malformed"
    default_detail = "The fal key on the server is malformed."


class InternalError(FalProxyError):
    """A bug in the proxy, or an exception from a callable that its owner supplied."""

    status = "500 Internal Server Error"
    reason = "internal_error"
    # It may have come after fal was asked.
    may_be_billed = True
    default_detail = "The fal proxy failed; its server's log says more."


class GatewayError(FalProxyError):
    """The trouble is between the proxy and fal."""


class UpstreamUnresolvable(GatewayError):
    """The name lookup failed."""

    status = "502 Bad Gateway"
    reason = "upstream_unresolvable"
    default_detail = "The target's host name could not be resolved."


class UpstreamUnreachable(GatewayError):
    """No connection: refused, no route, or the egress proxy said no."""

    status = "502 Bad Gateway"
    reason = "upstream_unreachable"
    default_detail = "No connection to the target could be made."


class UpstreamTlsFailed(GatewayError):
    """The TLS handshake failed, or the certificate is not to be trusted."""

    status = "502 Bad Gateway"
    reason = "upstream_tls_failed"
    default_detail = "No secure connection to the target could be made."


class UpstreamClosed(GatewayError):
    """The connection ended before a whole response head had come."""

    status = "502 Bad Gateway"
    reason = "upstream_closed"
    default_detail = "The target closed the connection before it answered."
    # It, or what is between, may cut off what is being worked on.
    may_be_billed = True


class UpstreamMalformed(GatewayError):
    """What came is not HTTP as RFC 9112 has it."""

    status = "502 Bad Gateway"
    reason = "upstream_malformed"
    default_detail = "The target's answer is not valid HTTP."


class UpstreamCodingUnsupported(GatewayError):
    """The answer is in a content coding that was not asked for and cannot be undone."""

    status = "502 Bad Gateway"
    reason = "upstream_coding_unsupported"
    default_detail = "The target's answer is in a content coding that the proxy did not ask for."


class RelayFull(GatewayError):
    """As many requests are being relayed as may be: the option `max_concurrent`, or a pool's."""

    status = "503 Service Unavailable"
    reason = "relay_full"
    headers: tuple[tuple[str, str], ...] = (("Retry-After", "1"),)
    default_detail = "The fal proxy is at its limit of concurrent requests; try again shortly."


class ConnectTimeout(GatewayError):
    """The option `connect_timeout` ran out."""

    status = "504 Gateway Timeout"
    reason = "connect_timeout"
    default_detail = "The target did not accept a connection in time."


# fal's JavaScript client sends a call again that was answered 504, up to three times, unless this
# says that the caller set the time (`isUserTimeout` in its retry.js). fal may have worked on the
# call, and would be paid each time.
_NOT_AGAIN: Final = (("X-Fal-Request-Timeout-Type", "user"),)


class ReadTimeout(GatewayError):
    """The option `read_timeout` ran out before the response head was complete."""

    status = "504 Gateway Timeout"
    reason = "read_timeout"
    headers: tuple[tuple[str, str], ...] = _NOT_AGAIN
    may_be_billed = True
    default_detail = "The target did not answer in time."


class TotalTimeout(GatewayError):
    """The option `total_timeout` ran out before the response head was complete."""

    status = "504 Gateway Timeout"
    reason = "total_timeout"
    headers: tuple[tuple[str, str], ...] = _NOT_AGAIN
    may_be_billed = True
    default_detail = "The target did not answer within the time that a call may take."


class ClientGone(GatewayError):
    """The client left before fal answered, and the call was given up. Nobody reads this answer."""

    status = "502 Bad Gateway"
    reason = "client_gone"
    may_be_billed = True
    default_detail = "The client closed its connection before the target answered."


class Truncated(GatewayError):
    """The answer failed after its head had been passed on.

    Never an answer, since the status has already been sent: it is raised from the response
    iterator, so that the WSGI server breaks the transfer off where the client can see it.
    """

    status = "502 Bad Gateway"
    reason = "truncated"
    default_detail = "The target's answer broke off."


# An option by such a name, known or not, may have been given the key, or a part of it.
_SECRET_WORDS: Final = ("key", "secret", "token", "password", "credential")
# One by such a name may hold the key, or a password, in its text.
_WORDS_WITH_SECRETS: Final = ("auth", "storage")
# What kind of store a URI is for; a password comes after it.
# These are compiled when they are first needed: it takes as long as to import a small module.
_SCHEME: Final = r"(?a)[a-z][a-z0-9+.-]{0,15}://"
_LOGIN_IN_URI: Final = "://[^/]*:[^/]*@"


class SettingsError(ValueError):
    """An option is unknown or has a value that cannot be used.

    Attributes:
        name: The option.
        value: What it was set to, as text; redacted where it may hold the key, or a password.
        why: Why it cannot be used, as a clause.
        accepted: The same without "it must be", where it begins with that: then it is a phrase of
            what would have been accepted.
    """

    def __init__(self, name: str, value: object, why: str) -> None:
        self.name = name
        self.value: str = _shown(name.casefold(), value)
        self.why = why
        self.accepted: str = why.removeprefix("it must be ")
        super().__init__(f"{name}={self.value} cannot be used: {why}")


def _shown(name: str, value: object) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)
    if any(word in name for word in _SECRET_WORDS):
        return "<redacted>"
    if isinstance(value, str) and "storage" in name and (scheme := re.match(_SCHEME, value)):
        return repr(f"{scheme[0]}...")
    try:
        text = repr(value)
    except ValueError:
        # A number of thousands of digits, which Python does not write down.
        return "..."
    may_hold_one = any(word in name for word in _WORDS_WITH_SECRETS)
    if re.search(_LOGIN_IN_URI, text) or (may_hold_one and not isinstance(value, int | float)):
        return "<redacted>"
    return text
