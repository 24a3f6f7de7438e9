"""For a front end on another origin: whom the browser may give answers to (the Fetch standard).

What a page sends to the proxy has a header that no form has, `x-fal-target-url`, so a browser
asks before it sends (a CORS preflight), and sends nothing where the answer is no.
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
"""Among the origins, stands for this machine, by any of its names and on any port."""

# HTML, "serialization of an origin": scheme, host and, unless it is the scheme's own, port; in
# lower case and ASCII, as a URL's parser leaves them.
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
# Seconds: two hours is the most that Chromium takes.
_MAX_AGE: Final = "7200"
# Characters: fal's client asks for five names at most, an app's own for some more.
_MAX_REQUESTED_LENGTH: Final = 4_096

# What a page may read of any answer (Fetch, "CORS-safelisted response-header name"), what it may
# read of none ("forbidden response-header name"), and what is for caches.
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
    """Tell why something is no origin, as a clause; None for one that is."""
    if origin == "*":
        return (
            "the origins must be named one by one, such as 'https://app.example.com', since any"
            " page on the internet could spend your money by '*'"
        )
    match = _ORIGIN.fullmatch(origin) if isinstance(origin, str) else None
    if origin == LOCALHOST or (
        match is not None and match["port"] != _DEFAULT_PORTS.get(match["scheme"], "")
    ):
        return None
    return (
        "each must be an origin as browsers write it, such as 'https://app.example.com' or"
        " 'http://10.0.0.1:3000' (in lower case, no path, no slash at the end, no default port),"
        " or 'localhost'"
    )


class Cors:
    """Lets pages of some origins use the proxy, cookies included.

    Args:
        origins: Those that `wrong_origin` finds nothing wrong with.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins) - {LOCALHOST}
        self._with_this_machine = LOCALHOST in origins

    @staticmethod
    def is_preflight(environ: WSGIEnvironment) -> bool:
        """Whether a browser asks if it may send a request (Fetch, "HTTP requests")."""
        return (
            environ["REQUEST_METHOD"] == "OPTIONS"
            and "HTTP_ORIGIN" in environ
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        )

    def preflight(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer one: with nothing that allows anything, to an origin that is not allowed.

        Neither is a public page's way into a private network opened
        (`Access-Control-Request-Private-Network`).
        """
        headers = [("Vary", "Origin, Access-Control-Request-Headers")]
        if allowing := self._allowing(environ):
            headers += allowing
            headers.append(("Access-Control-Allow-Methods", _METHODS))
            headers.append(("Access-Control-Max-Age", _MAX_AGE))
            # Whatever names are asked for: a page that may spend the money gains nothing by a
            # header, and an app's own check may need one, such as `authorization`.
            requested = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
            if names := _names(requested):
                headers.append(("Access-Control-Allow-Headers", ", ".join(names)))
        start_response("204 No Content", headers)
        return []

    def sharing(self, environ: WSGIEnvironment, start_response: StartResponse) -> StartResponse:
        """Give a `start_response` that says whom the browser may give the answer to."""
        allowing = self._allowing(environ)

        def start(
            status: str, headers: HeaderList, exc_info: Any = None, /
        ) -> Callable[[bytes], object]:
            shared = _varying(headers) + allowing
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
        # The origins are named one by one, so the app's session may go along (Fetch, "CORS
        # protocol and credentials").
        return [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
        ]


def _names(requested: str) -> list[str]:
    names = [name.strip(" \t") for name in requested.split(",")]
    if len(requested) <= _MAX_REQUESTED_LENGTH and all(map(TOKEN.fullmatch, names)):
        return names
    return []


def _varying(headers: HeaderList) -> HeaderList:
    """Give these without what another server says of origins, and with `Vary: Origin`."""
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() != "vary" and not name.lower().startswith(_CORS_PREFIX)
    ]
    # RFC 9110 section 12.5.5: a list, or an asterisk for anything at all.
    varying = ", ".join(value for name, value in headers if name.lower() == "vary")
    fields = {field.strip().lower() for field in varying.split(",")}
    if not fields & {"origin", "*"}:
        varying = f"{varying}, Origin" if varying else "Origin"
    kept.append(("Vary", varying))
    return kept


def _exposed(headers: HeaderList) -> str:
    # By name, since with credentials "*" is none but itself (Fetch, "HTTP new-header syntax").
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
