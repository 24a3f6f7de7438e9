"""The patterns of the allowlists: checked, and compiled into one decision for the whole list.

`*` stays within a segment, `**` crosses segments; no other character is special. A pattern that
could never match is an error, and not a line that protects nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# What paths of fal's are made of. Nothing in it has a second meaning to any server: no "%", which
# may be decoded, no ";", which may be cut off (RFC 3986 section 3.3).
_PLAIN: Final = r"A-Za-z0-9._~@:+-"
# Dot segments are removed by servers (RFC 3986 section 5.2.4), and so may empty ones be.
_NOT_DOTS: Final = r"(?!\.+(?:/|\Z))"
PLAIN_PATH: Final = re.compile(rf"(?:/{_NOT_DOTS}[{_PLAIN}]++)*+/?")
"""A path that every server reads alike, with or without a slash at its end."""

_SEGMENT: Final = re.compile(rf"{_NOT_DOTS}[*{_PLAIN}]+")
_LABEL: Final = r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*fal\.(?:ai|run)")
_QUERY: Final = re.compile(r'[!"$-\[\]-~]*')  # as a target's
_BELOW: Final = r"(?:/[^?]*)?"  # what "**" with its slash takes, short of the query

# "workflows/owner/name" is an endpoint of another kind than "owner/app/path", so that "*" for the
# owner must not stand for one of these.
_NOT_A_NAMESPACE: Final = r"(?!/(?i:workflows|comfy)(?:/|\Z))"

# What a pattern of endpoints is easily written with, and what it must be instead.
_FORMS: Final = (
    (r"""["'()\[\]{}]""", "be without brackets and quotation marks"),
    (r"\A\s|\s\Z", "have no white space around it"),
    (rf"\A(?:[A-Za-z]+://|{_HOST.pattern}(?:/|\Z))", "be without https:// and host"),
    (r"\A/|/\Z", "have no slash at either end"),
)


class PatternInvalid(ValueError):
    """A pattern that could never match, or that says something else than it seems to.

    Attributes:
        why: Why, as a clause: the rule that it breaks.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Globs:
    """A list of patterns, as one decision.

    Attributes:
        plain: Those without a wildcard.
        regex: All others; None without any.
    """

    plain: frozenset[str]
    regex: re.Pattern[str] | None

    def match(self, text: str) -> bool:
        """Whether any of them matches the whole text."""
        return text in self.plain or (
            self.regex is not None and self.regex.fullmatch(text) is not None
        )


def url_globs(patterns: Iterable[str]) -> Globs:
    """Compile patterns of host, path and query, such as `fal.run/**`.

    They are matched with a target's host and request target, one after the other.

    Raises:
        PatternInvalid: One of them cannot be used.
    """
    return _globs({pattern: _url_regex(pattern) for pattern in patterns})


def endpoint_globs(patterns: Iterable[str], *, in_namespaces: bool = False) -> Globs:
    """Compile patterns of fal endpoints, such as `fal-ai/flux/*`.

    They are matched with "/" and the endpoint.

    Args:
        patterns: All of them.
        in_namespaces: Whether a wildcard in the owner's place stands for a namespace, too.

    Raises:
        PatternInvalid: One of them cannot be used.
    """
    guard = "" if in_namespaces else _NOT_A_NAMESPACE
    return _globs({f"/{pattern}": _endpoint_regex(pattern, guard) for pattern in patterns})


def app_globs(patterns: Iterable[str]) -> Globs:
    """Compile which apps the patterns of endpoints allow as a whole, with all that is below them.

    They are matched with "/owner/app", or "/*/app" for that app of every owner.

    Raises:
        PatternInvalid: One of them cannot be used.
    """
    # An app's name is two segments, whoever owns it: of three, fal may take the first two.
    return endpoint_globs(
        "/".join([*owner_and_app, *["*"] * (2 - len(owner_and_app))]).replace("**", "*")
        for *owner_and_app, last in (pattern.split("/") for pattern in patterns)
        if last == "**" and len(owner_and_app) <= 2  # noqa: PLR2004 - an owner and an app
    )


def _globs(regexes: dict[str, str]) -> Globs:
    plain = frozenset(pattern for pattern in regexes if "*" not in pattern)
    wild = [regex for pattern, regex in regexes.items() if pattern not in plain]
    return Globs(plain, re.compile("|".join(wild)) if wild else None)


def _url_regex(pattern: str) -> str:
    host, slash, rest = pattern.partition("/")
    path, question_mark, query = rest.partition("?")
    if not _HOST.fullmatch(host) or not slash:
        raise PatternInvalid(
            "each pattern must begin with a host under fal.ai or fal.run in lower case and a slash,"
            " without https://, such as queue.fal.run/**"
        )
    if not _QUERY.fullmatch(query) or "**" in query.removesuffix("**"):
        raise PatternInvalid(
            "a query is of visible ASCII, neither # nor a backslash, with ** at its end alone"
        )
    segments = path.split("/")
    _check(segments if segments[-1] else segments[:-1])
    if question_mark and segments.count("**") > 1:
        raise PatternInvalid("there is one ** at most in a path before a query")
    # "*" before a host is one name or more: "*.fal.ai" takes "rest.alpha.fal.ai".
    name = re.escape(host.removeprefix("*."))
    any_name = r"[^/?]+\." if host.startswith("*.") else ""
    before = any_name + name
    if question_mark:
        return before + _path_regex(segments, _BELOW) + r"\?" + _query_regex(query)
    return before + _path_regex(segments, r"(?:[/?].*)?")


def _endpoint_regex(pattern: str, guard: str) -> str:
    _check_form(pattern)
    segments = pattern.split("/")
    if len(segments) == 1 and pattern != "**":
        raise PatternInvalid(
            "each pattern must be of endpoints as fal names them, owner and app at least, such as"
            " fal-ai/flux/dev or fal-ai/flux/**"
        )
    _check(segments)
    return (guard if "*" in segments[0] else "") + _path_regex(segments, "(?:/.*)?")


def _check_form(pattern: str) -> None:
    """Tell what is wrong with a pattern of endpoints as a whole, in the words for just that."""
    for wrong, form in _FORMS:
        if re.search(wrong, pattern):
            raise PatternInvalid(f"a pattern must {form}, such as fal-ai/flux/dev")


def _check(segments: list[str]) -> None:
    if not all(map(_SEGMENT.fullmatch, segments)):
        raise PatternInvalid(
            "a path is segments with one slash between them, of letters, digits and . _ ~ @ : + -,"
            " none of them . or .., and the wildcards are * and **"
        )
    if any("**" in segment and segment != "**" for segment in segments):
        raise PatternInvalid("** is a whole segment")
    # More than one would make matching slow for a path that is made to.
    if segments[:-1].count("**") > 1 or segments[-2:] == ["**", "**"]:
        raise PatternInvalid("there is one ** at most, and one at the end")


def _path_regex(segments: list[str], all_below: str) -> str:
    *inner, last = segments
    # With nothing to stand for, "**" takes its slash with it: "a/**" matches "a", too.
    parts = [_BELOW if segment == "**" else _one(segment) for segment in inner]
    return "".join([*parts, all_below if last == "**" else _one(last)])


def _one(segment: str) -> str:
    return "/" + _within(segment, "[^/?]")


def _within(pattern: str, character: str) -> str:
    """Give the expression for a pattern whose wildcard stands for these characters.

    Each literal is found where it comes first, for good (hence "?>"): the rest has most room
    then, and no text can make it try again and again.
    """
    if pattern == "*":
        return f"{character}+"
    first, *rest = map(re.escape, pattern.split("*"))
    if not rest:
        return first
    *inner, last = rest
    return first + "".join(f"(?>{character}*?{part})" for part in inner) + f"{character}*{last}"


def _query_regex(query: str) -> str:
    if query.endswith("**"):
        return _within(query.removesuffix("**"), "[^&]") + ".*"
    return _within(query, "[^&]")


def check_url_patterns(name: str, patterns: object) -> None:
    """Check the value of an option that holds patterns of URLs.

    Raises:
        SettingsError: It is not a list of usable patterns.
    """
    _check_patterns(name, patterns, url_globs)


def check_endpoint_patterns(name: str, patterns: object) -> None:
    """Check the value of an option that holds patterns of endpoints.

    Raises:
        SettingsError: It is not a list of usable patterns.
    """
    _check_patterns(name, patterns, endpoint_globs)


def _check_patterns(
    name: str, patterns: object, compiled: Callable[[Iterable[str]], Globs]
) -> None:
    if not isinstance(patterns, list | tuple | set | frozenset):
        raise SettingsError(name, patterns, "it must be a list of patterns, or None to allow all")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise SettingsError(name, pattern, "each pattern must be text")
        try:
            compiled([pattern])
        except PatternInvalid as error:
            raise SettingsError(name, pattern, error.why) from error
