"""All errors that a client can get: status, stable reason and detail.

Most are of two branches. A `Refusal` means that fal has not acted on the request: nothing was
sent, or the body failed half-way and the request was never completed. A `GatewayError` means that
the proxy got no usable answer of fal, or could not deliver it. The others mean that the proxy
itself cannot serve: it has no usable key, trusts no certificate, or has a bug.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final


class FalProxyError(Exception):
    """The proxy answers this request itself, instead of fal.

    Attributes:
        status: Status code and phrase, such as `400 Bad Request` (PEP 3333).
        reason: A stable snake_case name for programs, sent as `x-fal-proxy-error`.
        detail: What happened and what to do, for the client. It never holds the key. Of the
            request, it shows at most a header's name, or an endpoint that is a plain path.
        headers: Header fields that this status requires, such as `Allow`.
        for_the_log: Text that only the log gets, after the detail. It never holds the key.
        may_be_billed: Whether fal may bill the call despite the error. If so, the limits keep
            their charge.
    """

    status: str
    reason: ClassVar[str]
    headers: tuple[tuple[str, str], ...] = ()
    may_be_billed: ClassVar[bool] = False
    default_detail: ClassVar[str]

    def __init__(self, detail: str | None = None, *, for_the_log: str = "") -> None:
        self.detail: str = self.default_detail if detail is None else detail
        self.for_the_log: str = for_the_log
        super().__init__(self.detail)


class Refusal(FalProxyError):
    """The request may not be relayed. fal has not acted on it."""


class Unauthenticated(Refusal):
    """`authorize` returned `Refuse(401)`. RFC 9110 section 15.5.2 requires a challenge."""

    status = "401 Unauthorized"
    reason = "unauthenticated"
    # A registered scheme for which no browser asks the user for a password.
    headers: tuple[tuple[str, str], ...] = (("WWW-Authenticate", "Bearer"),)
    default_detail = "This app needs to know who you are. Sign in, then try again."


class Forbidden(Refusal):
    """`authorize` returned `Refuse()` or `Refuse(403)`."""

    status = "403 Forbidden"
    reason = "forbidden"
    default_detail = "This app does not let you make this call."


class AuthorizeFailed(Refusal):
    """`authorize` raised, or returned something that it may not return."""

    status = "403 Forbidden"
    reason = "authorize_failed"
    default_detail = "This app could not check whether you may make this call."


class LimitExceeded(Refusal):
    """A limit of the option `limits` has no room for the call (RFC 6585 section 4)."""

    status = "429 Too Many Requests"
    reason = "limit_exceeded"
    default_detail = "This app's limit on calls is reached. Try again later."

    def __init__(self, detail: str, headers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(detail)
        self.headers = headers


class LimitsUnavailable(Refusal):
    """The store of the limits does not answer; see the option `limits_fail_open`."""

    status = "503 Service Unavailable"
    reason = "limits_unavailable"
    headers: tuple[tuple[str, str], ...] = (("Retry-After", "5"),)
    default_detail = "The fal proxy cannot count calls at the moment. Try again shortly."


class MethodNotAllowed(Refusal):
    """Rule 2 of the formula. RFC 9110 section 15.5.6 requires `Allow`."""

    status = "405 Method Not Allowed"
    reason = "method_not_allowed"
    headers: tuple[tuple[str, str], ...] = (("Allow", "GET, POST"),)
    default_detail = "The fal proxy accepts GET and POST, and PUT to cancel a queued request."


class NotFound(Refusal):
    """The stand-alone proxy has nothing at this path: it is neither the prefix nor `/healthz`."""

    status = "404 Not Found"
    reason = "not_found"
    default_detail = "There is nothing here. The fal proxy answers under its prefix."


class HostNotAllowed(Refusal):
    """The development server got a request for a name that is not this machine's.

    A page on the internet can make its own name resolve to 127.0.0.1 (DNS rebinding). The browser
    then sees one origin, and the page could spend the key's money.
    """

    status = "403 Forbidden"
    reason = "host_not_allowed"
    default_detail = (
        "This development server answers only to localhost and 127.0.0.1. To call it by another"
        " name, start it with --host 0.0.0.0. Then everyone who reaches this machine can use it."
    )


class TargetMissing(Refusal):
    """Rule 3 of the formula."""

    status = "400 Bad Request"
    reason = "target_missing"
    default_detail = (
        "The header x-fal-target-url is missing or empty. It must name the fal URL to call."
    )


class HeaderInvalid(Refusal):
    """A relayed header holds a forbidden character (RFC 9110 section 5.5)."""

    status = "400 Bad Request"
    reason = "header_invalid"
    default_detail = "A request header holds a control character."


class ContentLengthInvalid(Refusal):
    """The body's length is unknown or not a decimal number (RFC 9110 section 8.6)."""

    status = "400 Bad Request"
    reason = "content_length_invalid"
    default_detail = "The length of the request body is unknown. Send a decimal Content-Length."


class BodyIncomplete(Refusal):
    """The body is shorter than declared, or could not be read."""

    status = "400 Bad Request"
    reason = "body_incomplete"
    default_detail = (
        "The request body ended before its declared length, or the app has read part of it before"
        " the proxy."
    )


class TargetInvalid(Refusal):
    """Rule 3 of the formula: the target is not a URL, or URL parsers could disagree on it."""

    status = "412 Precondition Failed"
    reason = "target_invalid"
    default_detail = "The target in x-fal-target-url is not a plain https URL."


class TargetHostNotAllowed(Refusal):
    """Rule 3 of the formula: the target's host is not fal's."""

    status = "412 Precondition Failed"
    reason = "target_host_not_allowed"
    default_detail = "The target's host is not under fal.ai or fal.run."


class TargetNotAllowed(Refusal):
    """No pattern of `allowed_urls` matches. The detail does not disclose the patterns."""

    status = "412 Precondition Failed"
    reason = "target_not_allowed"
    default_detail = (
        "This app does not let you call this URL: no pattern of the proxy's option allowed_urls"
        " matches its host, path and query."
    )


class EndpointNotAllowed(Refusal):
    """No pattern of `allowed_endpoints` matches. The detail does not disclose the patterns."""

    status = "412 Precondition Failed"
    reason = "endpoint_not_allowed"
    default_detail = (
        "This app does not let you run this: no pattern of the proxy's option allowed_endpoints"
        " matches the endpoint (a subpath such as /stream is part of an endpoint)."
    )


class TargetAmbiguous(Refusal):
    """With an allowlist: fal may read the path as a different one."""

    status = "412 Precondition Failed"
    reason = "target_ambiguous"
    default_detail = (
        "The target's path is not plain. Empty segments, dot segments, percent-encoding, semicolons"
        " and the like are refused here, because servers read them in different ways."
    )


class BodyAmbiguous(Refusal):
    """With `allowed_endpoints`: parsers could disagree on which apps the body names."""

    status = "412 Precondition Failed"
    reason = "body_ambiguous"
    default_detail = (
        "The body must be what fal's own client sends to this URL: one JSON object in UTF-8, of at"
        " most 65,536 bytes, without unknown or repeated keys."
    )


class UnsupportedMediaType(Refusal):
    """Rule 4 of the formula."""

    status = "415 Unsupported Media Type"
    reason = "unsupported_media_type"
    default_detail = "A request body must be JSON, sent with the content type application/json."


class BodyTooLarge(Refusal):
    """The body is larger than the option `max_body_bytes`."""

    status = "413 Content Too Large"
    reason = "body_too_large"
    default_detail = "The request body is larger than this proxy accepts."


class KeyMissing(FalProxyError):
    """Rule 5 of the formula: there is no usable key. None is set, or its source failed."""

    status = "500 Internal Server Error"
    reason = "key_missing"
    default_detail = "The fal proxy has no key: set FAL_KEY on the server."


class KeyMalformed(FalProxyError):
    """The key cannot be a fal key. The detail names a position, never the content."""

    status = "500 Internal Server Error"
    reason = "key_malformed"
    default_detail = "The fal key on the server is malformed."


class TrustUnusable(FalProxyError):
    """No certificate, or not the owner's, is trusted. Only `/healthz` answers so.

    The calls get `upstream_tls_failed`.
    """

    status = "500 Internal Server Error"
    reason = "trust_unusable"
    default_detail = (
        "The fal proxy cannot trust fal's certificate: see SSL_CERT_FILE and the server's log."
    )


class InternalError(FalProxyError):
    """A bug in the proxy, or an unexpected exception from the owner's `pool_manager`."""

    status = "500 Internal Server Error"
    reason = "internal_error"
    # The error may have come after the call reached fal.
    may_be_billed = True
    default_detail = "The fal proxy failed. The server's log has the details."


_MAY_HAVE_ARRIVED: Final = (
    " fal may have received the call and may bill it, so check before you send it again."
)


class GatewayError(FalProxyError):
    """Something failed between the proxy and fal."""

    def discourage_retry(self) -> None:
        """Make this the answer to a call that spends and may have reached fal.

        500 is the one such status that no client of fal's repeats: the JavaScript client repeats
        429, 502, 503 and 504, the Python client 408, 409 and 429, OkHttp 408 and 503. Otherwise a
        client would pay for the same call up to four times.
        """
        self.status = "500 Internal Server Error"
        self.detail: str = f"{self.detail}{_MAY_HAVE_ARRIVED}"


class UpstreamUnresolvable(GatewayError):
    """The name lookup failed."""

    status = "502 Bad Gateway"
    reason = "upstream_unresolvable"
    default_detail = "The target's host name could not be resolved."


class UpstreamUnreachable(GatewayError):
    """No connection: it was refused, there is no route, or the egress proxy refused."""

    status = "502 Bad Gateway"
    reason = "upstream_unreachable"
    default_detail = "No connection to the target could be made."


class UpstreamTlsFailed(GatewayError):
    """The TLS handshake failed, or the certificate is not trusted."""

    status = "502 Bad Gateway"
    reason = "upstream_tls_failed"
    default_detail = "No secure connection to the target could be made."


class UpstreamClosed(GatewayError):
    """The connection ended before the whole response head arrived."""

    status = "502 Bad Gateway"
    reason = "upstream_closed"
    default_detail = "The target closed the connection before it answered."
    # fal may still work on the call: a proxy in between may have closed the connection.
    may_be_billed = True


class UpstreamMalformed(GatewayError):
    """The answer is not HTTP as RFC 9112 defines it."""

    status = "502 Bad Gateway"
    reason = "upstream_malformed"
    may_be_billed = True
    default_detail = "The target's answer is not valid HTTP."


class UpstreamCodingUnsupported(GatewayError):
    """The answer has a content coding that was not asked for and cannot be decoded."""

    status = "502 Bad Gateway"
    reason = "upstream_coding_unsupported"
    default_detail = "The target's answer is in a content coding that the proxy did not ask for."


class RelayFull(GatewayError):
    """No slot is free (the option `max_concurrent`), or no connection in a blocking pool."""

    status = "503 Service Unavailable"
    reason = "relay_full"
    headers: tuple[tuple[str, str], ...] = (("Retry-After", "1"),)
    default_detail = "The fal proxy is at its limit of concurrent requests. Try again shortly."


class ConnectTimeout(GatewayError):
    """The option `connect_timeout` ran out."""

    status = "504 Gateway Timeout"
    reason = "connect_timeout"
    default_detail = "The target did not accept a connection in time."


class ReadTimeout(GatewayError):
    """The option `read_timeout` ran out before the response head was complete."""

    status = "504 Gateway Timeout"
    reason = "read_timeout"
    may_be_billed = True
    default_detail = "The target did not answer in time."


class TotalTimeout(GatewayError):
    """The option `total_timeout` ran out before the response head was complete."""

    status = "504 Gateway Timeout"
    reason = "total_timeout"
    may_be_billed = True
    default_detail = "The target did not answer within the time limit for a call."


class ClientGone(GatewayError):
    """The client left before fal answered, so the call was aborted. Nobody reads this answer."""

    status = "502 Bad Gateway"
    reason = "client_gone"
    may_be_billed = True
    default_detail = "The client closed its connection before the target answered."


class Truncated(GatewayError):
    """fal's answer ended too early, after its head was passed on.

    The client has the status already, so this never becomes an answer. The response iterator
    raises it, and the WSGI server then breaks off the transfer, which the client can see.
    """

    status = "502 Bad Gateway"
    reason = "truncated"
    default_detail = "The target's answer broke off."


# If an option's name has one of these words, its value may be the key or a part of it. The owner
# may have misspelt the name, so unknown options count, too.
_REDACTED_WORDS: Final = ("key", "secret", "token", "password", "credential")
# If an option's name has one of these words, the repr of its value may contain the key or a
# password.
_REDACTED_REPR_WORDS: Final = ("auth", "storage")
# The options that are URIs, and the variables.
_URI_WORDS: Final = ("storage", "egress_proxy", "https_proxy", "all_proxy")
# A URI's scheme is safe to show: a password can only come after it.
# Both patterns are compiled on first use: compiling takes as long as importing a small module.
_SCHEME: Final = r"(?a)[a-z][a-z0-9+.-]{0,15}://"
_LOGIN_IN_URI: Final = "://[^/]*:[^/]*@"


class SettingsError(ValueError):
    """An option is unknown, or its value cannot be used.

    Attributes:
        name: The option's name.
        value: Its value as text; `<redacted>` if it may hold the key or a password.
        why: Why the value cannot be used, as a clause.
        accepted: `why` without a leading "it must be": usually, the values that are accepted.
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
    if any(word in name for word in _REDACTED_WORDS):
        return "<redacted>"
    if isinstance(value, str) and any(word in name for word in _URI_WORDS):
        scheme = re.match(_SCHEME, value)
        if scheme or "@" in value:
            return repr(f"{scheme[0]}...") if scheme else "<redacted>"
    try:
        text = repr(value)
    except ValueError:
        # A number with thousands of digits: Python refuses to convert it to text.
        return "..."
    may_hold_key = any(word in name for word in _REDACTED_REPR_WORDS)
    if re.search(_LOGIN_IN_URI, text) or (may_hold_key and not isinstance(value, int | float)):
        return "<redacted>"
    return text
