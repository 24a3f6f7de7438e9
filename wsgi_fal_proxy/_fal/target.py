r"""The target: parses the text of `x-fal-target-url` into the host and path that are dialled.

URL parsers disagree. The host of `https://evil.example\.fal.run/` ends in `.fal.run` for
`urllib.parse`, while urllib3 would dial `evil.example` with the key. So the text is never used to
connect: one strict grammar accepts the whole text or nothing, and only the parts that it captured
are used. The grammar's authority is within both RFC 3986 and the WHATWG URL standard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from wsgi_fal_proxy.errors import TargetHostNotAllowed, TargetInvalid, TargetMissing

MAX_TARGET_LENGTH: Final = 8_000
"""Characters. RFC 9110 section 4.1 asks every party to support URIs of at least this length."""

_MAX_HOST_LENGTH: Final = 253  # RFC 1035 section 2.3.4, less the root's dot
# RFC 1123 section 2.1: at most 63 letters, digits and inner hyphens. No `xn--`: fal has no
# internationalised names, and they can imitate others.
HOST_LABEL: Final = r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

# Path and query are visible ASCII and are sent unchanged. "#" is left out because it begins a
# fragment, the backslash because WHATWG reads it as a slash. The path has no comma: WSGI servers
# join a header that was sent twice with one, and fal's paths have none. Nor has the path "://":
# some servers join two headers with nothing between them.
_PATH: Final = r"""/(?![^?]*://)[!"$-+\--> @-\[\]-~]*""".replace(" ", "")
_TARGET: Final = re.compile(
    rf"https://(?P<host>{HOST_LABEL}(?:\.{HOST_LABEL})*)(?::443)?"
    rf"""(?P<path>{_PATH})?(?:\?(?P<query>[!"$-\[\]-~]*))?""",
    re.IGNORECASE | re.ASCII,
)
# A second target that was joined to the first one's query.
_SECOND_TARGET: Final = r"(?ia),(?:\Z|(?:[a-z][a-z0-9+.-]*:)?//)"

_SENT_TWICE: Final = "was sent twice, or holds a comma in its path or before a second URL"
_URL_IN_PATH: Final = "was sent twice, or holds a URL in its path"
# What is wrong with an invalid target. The first pattern that is found gives the message.
_COMMON_MISTAKES: Final = (
    (r"^(?!https://)", "does not begin with https://"),
    # Two joined targets come before mistakes that only the second one has.
    (r",[ \t]*(?:\Z|(?:[a-z][a-z0-9+.-]*:)?//)", _SENT_TWICE),
    (r"[^!-~]", "holds a space, a control character or a character outside ASCII"),
    (r"\\", "holds a backslash"),
    (r"#", "holds a fragment, which begins with #"),
    (r"^https://[^?]*://", _URL_IN_PATH),
    (r"^https://[^/?]*@", "holds a user name"),
    (r"^https://[^/?]*:", "names a port that is not 443"),
    (r"^[^?]*,", _SENT_TWICE),
    (r"", "has a host that is not a plain name"),
)

_FAL_DOMAINS: Final = ("fal.ai", "fal.run")


@dataclass(frozen=True, slots=True)
class Target:
    """Where an accepted request goes: a host under fal.ai or fal.run, on port 443, over TLS.

    Only `Target.parse` makes targets.

    Attributes:
        host: In lower case, such as `queue.fal.run`.
        request_target: Path and query (RFC 9112 section 3.2.1), byte for byte as the client wrote
            them, such as `/fal-ai/flux/requests/1/status?logs=1`. The repr does not show it, since
            a query can be private.
    """

    host: str
    request_target: str = field(repr=False)

    @staticmethod
    def parse(text: str | None) -> Target:
        """Accept the whole text as a target or refuse it.

        Raises:
            TargetMissing: The text is None, empty or white space.
            TargetInvalid: The text is not a plain https URL, or it is two URLs.
            TargetHostNotAllowed: The host is not under fal.ai or fal.run.
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
    return next(
        what for pattern, what in _COMMON_MISTAKES if re.search(pattern, text, re.IGNORECASE)
    )


def _is_fal(host: str) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in _FAL_DOMAINS)
