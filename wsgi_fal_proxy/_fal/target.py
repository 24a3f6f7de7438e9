r"""The target: from the text in `x-fal-target-url` to the host and path that are dialled.

The text itself is never used to connect, because URL parsers disagree: a target such as
`https://evil.example\.fal.run/` ends in `.fal.run` for `urllib.parse`, while urllib3 would dial
`evil.example` with the key. Here one strict grammar, within both RFC 3986 and the WHATWG URL
standard as far as the authority goes, accepts the whole text or nothing; from there on only the
parts it captured are used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from wsgi_fal_proxy.errors import TargetHostNotAllowed, TargetInvalid, TargetMissing

MAX_TARGET_LENGTH: Final = 8_000
"""Characters. RFC 9110 section 4.1 asks every party to support URIs of at least this length."""

_MAX_HOST_LENGTH: Final = 253  # RFC 1035 section 2.3.4, less the root's dot
# RFC 1123 section 2.1: letters, digits and inner hyphens, 63 at most. No `xn--`: fal has no
# internationalised names, and look-alikes are made of them.
_LABEL: Final = r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

# Path and query are visible ASCII, sent as they stand. Left out are "#", which begins a fragment,
# and the backslash, which WHATWG reads as a slash. The path holds no comma either: no path of
# fal's does, and a comma is how WSGI servers join a header that was sent twice.
_TARGET: Final = re.compile(
    rf"https://(?P<host>{_LABEL}(?:\.{_LABEL})*)(?::443)?"
    r"""(?P<path>/[!"$-+\--> @-\[\]-~]*)?(?:\?(?P<query>[!"$-\[\]-~]*))?""".replace(" ", ""),
    re.IGNORECASE | re.ASCII,
)
# The other half of that: a second target joined on to the first one's query.
_SECOND_TARGET: Final = r"(?ia),(?:\Z|(?:[a-z][a-z0-9+.-]*:)?//)"

_TWICE: Final = "was sent twice, or holds a comma in its path or before a second URL"
# What to tell of a text that is no target: the first that is found in it.
_WRONG: Final = (
    (r"^(?!https://)", "does not begin with https://"),
    # As a server joins two, before anything that only the second of them brings in.
    (r",[ \t]*(?:\Z|(?:[a-z][a-z0-9+.-]*:)?//)", _TWICE),
    (r"[^!-~]", "holds a space, a control character or a character outside ASCII"),
    (r"\\", "holds a backslash"),
    (r"#", "holds a fragment, which begins with #"),
    (r"^https://[^/?]*@", "holds a user name"),
    (r"^https://[^/?]*:", "names a port that is not 443"),
    (r"^[^?]*,", _TWICE),
    (r"", "has a host that is no plain name"),
)

_FAL_DOMAINS: Final = ("fal.ai", "fal.run")


@dataclass(frozen=True, slots=True)
class Target:
    """Where an accepted request goes: a host under fal.ai or fal.run, on port 443, over TLS.

    Only `Target.parse` makes one.

    Attributes:
        host: In lower case, such as `queue.fal.run`.
        request_target: Path and query as the client wrote them, byte for byte, such as
            `/fal-ai/flux/requests/1/status?logs=1` (RFC 9112 section 3.2.1). Not in the repr,
            since a query can be private.
    """

    host: str
    request_target: str = field(repr=False)

    @staticmethod
    def parse(text: str | None) -> Target:
        """Accept the whole text as a target or refuse it.

        Raises:
            TargetMissing: There is no text.
            TargetInvalid: It is not a plain https URL, or it is more than one.
            TargetHostNotAllowed: It is a URL, and not fal's.
        """
        if not text or not text.strip(" \t"):
            raise TargetMissing
        if len(text) > MAX_TARGET_LENGTH:
            detail = f"The target is longer than {MAX_TARGET_LENGTH} characters."
            raise TargetInvalid(detail)
        match = _TARGET.fullmatch(text)
        if match is None or ("," in text and re.search(_SECOND_TARGET, text)):
            raise TargetInvalid(f"The target in x-fal-target-url {_what_is_wrong_with(text)}.")
        host = match["host"].lower()
        if len(host) > _MAX_HOST_LENGTH or not _is_fal(host):
            raise TargetHostNotAllowed
        path, query = match["path"] or "/", match["query"]
        return Target(host, path if query is None else f"{path}?{query}")

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self.request_target.partition("?")[0]


def _what_is_wrong_with(text: str) -> str:
    return next(what for pattern, what in _WRONG if re.search(pattern, text, re.IGNORECASE))


def _is_fal(host: str) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in _FAL_DOMAINS)
