"""CORS: which pages of other origins may read the proxy's answers (the Fetch standard).

Requests to the proxy have the header `x-fal-target-url`, which no form can send. A browser
therefore asks first (a preflight), and sends nothing if the proxy does not allow the origin.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._http.fields import TOKEN
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy._http.fields import HeaderList

LOCALHOST: Final = "localhost"
"""As an origin, means this machine: all of its loopback names, on any port."""

# HTML, "serialization of an origin": scheme, host and port, in lower-case ASCII. The scheme's
# default port is left out.
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?",
    re.ASCII,
)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_THIS_MACHINE: Final = re.compile(
    r"https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.ASCII
)

_METHODS: Final = "GET, POST, PUT"
# Seconds. Chromium caps it at two hours.
_MAX_AGE_SECONDS: Final = "7200"
# Characters. fal's client asks for at most five names, and an app may add a few.
_MAX_REQUESTED_LENGTH: Final = 4_096

# Exposing these is of no use. A page can always read some (Fetch, "CORS-safelisted response-header
# name") and never others ("forbidden response-header name"). `vary` is for caches.
_NOT_EXPOSED: Final = frozenset(
    {
        "cache-control",
        "content-language",
        "content-length",
        "content-type",
        "expires",
        "last-modified",
        "pragma",
        "set-cookie",
        "set-cookie2",
        "vary",
    }
)
_CORS_PREFIX: Final = "access-control-"


def wrong_origin(origin: object) -> str | None:
    """Return why a value is not an origin, as a clause. None if it is one."""
    if origin == "*":
        return (
            "name each origin, such as 'https://app.example.com': with '*', any page on the"
            " internet could spend your money"
        )
    match = _ORIGIN.fullmatch(origin) if isinstance(origin, str) else None
    if origin == LOCALHOST or (
        match is not None and match["port"] != _DEFAULT_PORTS.get(match["scheme"], "")
    ):
        return None
    return (
        "each must be 'localhost' or an origin as browsers write it, such as"
        " 'https://app.example.com' or 'http://10.0.0.1:3000' (lower case, no path, no slash at the"
        " end, no default port)"
    )


class Cors:
    """Lets pages of some origins use the proxy, with cookies.

    Args:
        origins: Origins for which `wrong_origin` returns None.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins) - {LOCALHOST}
        self._with_this_machine = LOCALHOST in origins

    @staticmethod
    def is_preflight(environ: WSGIEnvironment) -> bool:
        """Whether this request is a CORS preflight (Fetch, "HTTP requests")."""
        return (
            environ["REQUEST_METHOD"] == "OPTIONS"
            and "HTTP_ORIGIN" in environ
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        )

    def preflight(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer a preflight. If the origin is not allowed, the answer allows nothing.

        No answer lets a public page into a private network, whatever
        `Access-Control-Request-Private-Network` asks for.
        """
        headers = [("Vary", "Origin, Access-Control-Request-Headers")]
        if allowing := self._allowing(environ):
            headers += allowing
            headers.append(("Access-Control-Allow-Methods", _METHODS))
            headers.append(("Access-Control-Max-Age", _MAX_AGE_SECONDS))
            # All requested names are allowed. A header gives the page no power beyond spending,
            # which it already has, and an app's `authorize` may need one, such as `authorization`.
            requested = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
            if names := _names(requested):
                headers.append(("Access-Control-Allow-Headers", ", ".join(names)))
        start_response("204 No Content", headers)
        return []

    def with_cors_headers(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> StartResponse:
        """Return a `start_response` that adds the CORS fields to an answer."""
        allowing = self._allowing(environ)

        def start(
            status: str, headers: HeaderList, exc_info: Any = None, /
        ) -> Callable[[bytes], object]:
            shared = _with_vary_origin(headers) + allowing
            if allowing and (exposed := _exposed(headers)):
                shared.append(("Access-Control-Expose-Headers", exposed))
            return start_response(status, shared, exc_info)

        return start

    def _allowing(self, environ: WSGIEnvironment) -> HeaderList:
        origin = environ.get("HTTP_ORIGIN", "")
        if origin not in self._origins and not (
            self._with_this_machine and _THIS_MACHINE.fullmatch(origin)
        ):
            return []
        # Credentials need a named origin (Fetch, "CORS protocol and credentials"). They let the
        # browser send the app's session.
        return [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
        ]


def _names(requested: str) -> list[str]:
    names = [name.strip(" \t") for name in requested.split(",")]
    if len(requested) <= _MAX_REQUESTED_LENGTH and all(map(TOKEN.fullmatch, names)):
        return names
    return []


def _with_vary_origin(headers: HeaderList) -> HeaderList:
    """Return the fields without fal's own CORS fields, and with `Vary: Origin`."""
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() != "vary" and not name.lower().startswith(_CORS_PREFIX)
    ]
    # RFC 9110 section 12.5.5: a list of names, or an asterisk for everything.
    varying = ", ".join(value for name, value in headers if name.lower() == "vary")
    fields = {field.strip().lower() for field in varying.split(",")}
    if not fields & {"origin", "*"}:
        varying = f"{varying}, Origin" if varying else "Origin"
    kept.append(("Vary", varying))
    return kept


def _exposed(headers: HeaderList) -> str:
    # With credentials, "*" is not a wildcard (Fetch, "HTTP new-header syntax"), so name each one.
    names = dict.fromkeys(name.lower() for name, _ in headers)
    return ", ".join(
        name for name in names if name not in _NOT_EXPOSED and not name.startswith(_CORS_PREFIX)
    )


def check_origins(name: str, origins: object) -> None:
    """Check the value of the option `cors_origins`.

    Raises:
        SettingsError: It is not a list of origins.
    """
    if not isinstance(origins, list | tuple | set | frozenset):
        raise SettingsError(name, origins, "it must be a list of origins")
    for origin in origins:
        if why := wrong_origin(origin):
            raise SettingsError(name, origin, why)
