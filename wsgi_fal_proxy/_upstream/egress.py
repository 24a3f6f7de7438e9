"""The egress proxy through which calls leave a company's network, if there is one.

urllib3 asks such a proxy for a tunnel by `http.client`. That reads the answer without a clock of
its own and puts the proxy's words into errors as they are. `Tunnelled` does it by a deadline, and
its errors say whether the egress proxy or fal is at fault. It never shows a login. For that it
overrides `_tunnel`, and reads `_tunnel_host`, `_tunnel_port` and `_tunnel_headers`: these are
http.client's, and urllib3 relies on them, too.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

from wsgi_fal_proxy._http.h1 import MAX_HEAD_BYTES, request_head
from wsgi_fal_proxy._upstream.errors import WHILE_CONNECTING, connect_error
from wsgi_fal_proxy._upstream.wire import receive, seconds_left, send_all
from wsgi_fal_proxy.errors import (
    ConnectTimeout,
    SettingsError,
    UpstreamTlsFailed,
    UpstreamUnreachable,
    UpstreamUnresolvable,
)

if TYPE_CHECKING:
    from urllib3.connection import HTTPSConnection

    from wsgi_fal_proxy._upstream.lookup import Lookup
    from wsgi_fal_proxy.errors import GatewayError

    _Base = HTTPSConnection
else:
    _Base = object

ENVIRONMENT: Final = "environment"
"""The value of the option `egress_proxy` that stands for `HTTPS_PROXY` and `NO_PROXY`."""
DIRECT: Final = "none"
"""The value of the option `egress_proxy` that stands for no proxy, and no warning."""

_DEFAULT_PORTS: Final = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}
_ACCEPTED: Final = (
    "it must be the URL of a proxy, such as http://egress.internal:3128 (also https://, socks5://"
    " and socks5h://)"
)
_HOST: Final = r"(?a)[\w.-]+|\[[0-9A-Fa-f:.]+\]"


@dataclass(frozen=True, slots=True, repr=False)
class Egress:
    """An egress proxy, as the owner names it. The repr hides the login.

    Attributes:
        scheme: How it is spoken to, such as `http`.
        host: Its name or address, in brackets if that is of IPv6.
        port: Its port.
        login: The user's name and the password, without percent-encoding. None if there is none.
    """

    scheme: str
    host: str
    port: int
    login: tuple[bytes, bytes] | None

    @property
    def url(self) -> str:
        """Its URL, without the login."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, for which the package PySocks is needed."""
        return self.scheme.startswith("socks")


def parse_egress(text: str) -> Egress:
    """Read the URL of an egress proxy, as curl and requests do.

    Without a scheme it is `http://`. The login may be percent-encoded. A path means nothing.

    Raises:
        ValueError: It is no such URL. The message does not show it.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(_ACCEPTED) from None
    scheme = parts.scheme.lower()
    userinfo, at, place = parts.netloc.rpartition("@")
    host = re.sub(r":[0-9]*\Z", "", place)
    if scheme not in _DEFAULT_PORTS or not re.fullmatch(_HOST, host) or port == 0:
        raise ValueError(_ACCEPTED)
    login = split_login(userinfo) if at else None
    return Egress(scheme, host.lower(), port or _DEFAULT_PORTS[scheme], login)


def usable_egress(name: str, text: object, *, also: str = "") -> Egress:
    """Read the URL of an egress proxy, and see whether this machine can speak to it.

    Args:
        name: The option or variable that holds it, for the error.
        text: The URL, or what was given in its place.
        also: What is accepted there, too, for the error.

    Raises:
        SettingsError: It is no such URL, or a package is missing.
    """
    if not isinstance(text, str):
        raise SettingsError(name, text, _ACCEPTED + also)
    try:
        egress = parse_egress(text)
        if egress.is_socks:
            # Sent as text by PySocks.
            for part in egress.login or ():
                part.decode()
    except ValueError as error:
        is_login = isinstance(error, UnicodeDecodeError)
        why = "its login is not UTF-8" if is_login else _ACCEPTED + also
        raise SettingsError(name, text, why) from None
    if egress.is_socks and find_spec("socks") is None:
        why = "it needs a package that is not installed: pip install pysocks"
        raise SettingsError(name, text, why)
    return egress


def split_login(userinfo: str) -> tuple[bytes, bytes]:
    """Read a URL's user name and password, which percent-encoding may protect."""
    user, _, password = userinfo.encode("utf-8", "surrogateescape").partition(b":")
    return unquote_to_bytes(user), unquote_to_bytes(password)


def basic_login(login: tuple[bytes, bytes]) -> dict[str, str]:
    """Return the field that tells a proxy the login (RFC 7617).

    As curl does it: the bytes are those of the URL, so UTF-8 where it holds other letters.
    """
    return {"Proxy-Authorization": f"Basic {b64encode(b':'.join(login)).decode()}"}


_AT_EGRESS: Final[dict[type[GatewayError], str]] = {
    UpstreamUnresolvable: "The host name of the egress proxy could not be resolved.",
    UpstreamUnreachable: "No connection to the egress proxy could be made.",
    UpstreamTlsFailed: "No secure connection to the egress proxy could be made.",
    ConnectTimeout: "The egress proxy did not accept a connection in time.",
}
_BY_SOCKS: Final[dict[type[GatewayError], str]] = {
    UpstreamUnreachable: "No connection to the target could be made through the egress proxy.",
    ConnectTimeout: "No connection to the target was made in time through the egress proxy.",
}
_NO_TIME: Final = "The egress proxy did not connect to the target in time."
_CLOSED: Final = "The egress proxy closed the connection before it answered."
_MALFORMED: Final = "The egress proxy's answer is not valid HTTP."
_ANSWERS: Final = {
    403: "The egress proxy does not allow connections to the target.",
    407: "The egress proxy does not accept the fal proxy's login.",
}
_NO_LOGIN: Final = "The egress proxy asks for a login, and the fal proxy has none for it."
_OTHER_ANSWER: Final = "The egress proxy did not connect to the target: it answered {}."

# RFC 9112 section 4. Lines may end without CR, since the owner cannot mend the proxy.
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9]{2})(?:[ \r]([^\n]*))?\Z")
_HTTP_1: Final = b"HTTP/1."
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_SHOWN_LENGTH: Final = 80


class Tunnelled(_Base):
    """A connection that asks an egress proxy for a tunnel, if its pool has one.

    `connect_timeout` bounds the way through it as a whole.
    """

    _tunnel_headers: dict[str, str]
    _is_at_egress: bool = False
    _deadline: float | None = None

    def look_up(self, lookup: Lookup, deadline: float | None) -> None:
        """Look up the egress proxy's name, if there is one, else the target's.

        Raises:
            GatewayError: The egress proxy is at fault.
            HTTPError: The target's name could not be looked up.
        """
        untyped: Any = super()
        self._is_at_egress = self.proxy is not None
        try:
            untyped.look_up(lookup, deadline)
        except WHILE_CONNECTING as error:
            self._blame_egress(error)
            raise

    def connect(self) -> None:
        """Connect; see `HTTPSConnection`.

        Raises:
            GatewayError: The egress proxy is at fault.
            Exception: One of `errors.WHILE_CONNECTING`. The failure is between the egress proxy and
                the target, or the target's.
        """
        self._is_at_egress = self._tunnel_host is not None
        timeout: Any = self.timeout
        self._deadline = None if timeout is None else monotonic() + timeout
        try:
            super().connect()
        except WHILE_CONNECTING as error:
            self._blame_egress(error)
            raise

    def _blame_egress(self, error: BaseException) -> None:
        """Raise an error of ours, if the egress proxy is at fault."""
        # Among urllib3's connections, only the SOCKS one has this attribute.
        is_socks = hasattr(self, "_socks_options")
        blamed = connect_error(error)
        sentences = _AT_EGRESS if self._is_at_egress else _BY_SOCKS if is_socks else {}
        if type(blamed) in sentences:
            raise type(blamed)(sentences[type(blamed)]) from error

    def _tunnel(self) -> None:
        name = f"{self._tunnel_host}:{self._tunnel_port}"
        # The owner's fields; newer versions of Python add `Host` to them.
        fields = {name.lower(): value for name, value in self._tunnel_headers.items()}
        fields["host"] = name
        try:
            request = request_head("CONNECT", name, fields.items())
            send_all(self.sock, request, seconds_left(self._deadline))
            status, phrase = _read_answer(self.sock, self._deadline)
        except TimeoutError as error:
            raise ConnectTimeout(_NO_TIME) from error
        except OSError as error:
            raise UpstreamUnreachable(_CLOSED) from error
        if not 200 <= status < 300:  # noqa: PLR2004 - RFC 9110 section 9.3.6
            detail = _ANSWERS.get(status, _OTHER_ANSWER.format(status))
            if status == 407 and "proxy-authorization" not in fields:  # noqa: PLR2004
                detail = _NO_LOGIN
            raise UpstreamUnreachable(detail, for_the_log=f" [{status} {_shown(phrase)}]")
        # What fails from here on is between the target and us.
        self._is_at_egress = False
        self.sock.settimeout(seconds_left(self._deadline))


def _read_answer(sock: Any, deadline: float | None) -> tuple[int, bytes]:
    """Read the answer to CONNECT: its status and reason phrase.

    The answer has no content if it agrees, whatever its fields say (RFC 9110 section 9.3.6).
    """
    received = b""
    while True:
        while (end := _HEAD_END.search(received)) is None:
            if len(received) > MAX_HEAD_BYTES or received[:7] != _HTTP_1[: len(received)]:
                raise UpstreamUnreachable(_MALFORMED)
            if not (data := receive(sock, deadline)):
                raise ConnectionError("the egress proxy closed the connection")
            received += data
        match = _STATUS_LINE.match(received[: received.index(b"\n")])
        if match is None:
            raise UpstreamUnreachable(_MALFORMED)
        status, received = int(match[1]), received[end.end() :]
        if status < 200:  # noqa: PLR2004 - an interim answer (RFC 9110 section 15.2)
            continue
        if status < 300 and received:  # noqa: PLR2004
            # With TLS, the client speaks first.
            raise UpstreamUnreachable(_MALFORMED)
        return status, (match[2] or b"").strip()


def _shown(phrase: bytes) -> str:
    """Return a proxy's words for the log: short, and without control characters."""
    shown = ascii(phrase[:_SHOWN_LENGTH].decode("latin-1"))
    return shown if len(phrase) <= _SHOWN_LENGTH else f"{shown}..."
