"""Patterns of URLs and endpoints (globs): checked, and compiled into one regex for the whole list.

`*` stays within a segment, `**` crosses segments, and no other character is special. A pattern that
can never match is an error, so that no owner relies on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._fal.target import HOST_LABEL
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The characters of fal's paths. None has a second meaning to any server: "%" is left out because a
# server may decode it, ";" because a server may cut it off (RFC 3986 section 3.3).
_PLAIN: Final = r"A-Za-z0-9._~@:+-"
# Servers remove dot segments (RFC 3986 section 5.2.4), and some remove empty ones.
_NOT_DOTS: Final = r"(?!\.+(?:/|\Z))"
PLAIN_PATH: Final = re.compile(rf"(?:/{_NOT_DOTS}[{_PLAIN}]++)*+/?")
"""A path that every server reads alike. It may end in a slash."""

_SEGMENT: Final = re.compile(rf"{_NOT_DOTS}[*{_PLAIN}]+")
_HOST: Final = re.compile(rf"(?:\*\.)?(?:{HOST_LABEL}\.)*fal\.(?:ai|run)")
_QUERY: Final = re.compile(r'[!"$-\[\]-~]*')  # the same characters as in a target
_BELOW: Final = r"(?:/[^?]*)?"  # "/**" in a path, which ends before the query

# "*" as the owner must not match a namespace: "workflows/owner/name" is not "owner/app/path".
_NOT_A_NAMESPACE: Final = r"(?!/(?i:workflows|comfy)(?:/|\Z))"

# In patterns of endpoints: how to recognise each, and what a pattern must do instead.
_COMMON_MISTAKES: Final = (
    (r"""["'()\[\]{}]""", "be without brackets and quotation marks"),
    (r"\A\s|\s\Z", "have no white space around it"),
    (rf"\A(?:[A-Za-z]+://|{_HOST.pattern}(?:/|\Z))", "be without https:// and host"),
    (r"\A/|/\Z", "have no slash at either end"),
)


class PatternInvalid(ValueError):
    """A pattern that can never match, or does not match what it seems to.

    Attributes:
        why: The rule that the pattern breaks, as a clause.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Patterns:
    """A compiled list of patterns.

    Attributes:
        plain: The patterns without a wildcard.
        regex: All other patterns as one regex. None if there are none.
    """

    plain: frozenset[str]
    regex: re.Pattern[str] | None

    def match(self, text: str) -> bool:
        """Whether any pattern matches the whole text."""
        return text in self.plain or (
            self.regex is not None and self.regex.fullmatch(text) is not None
        )


def compile_url_patterns(patterns: Iterable[str]) -> Patterns:
    """Compile patterns of host, path and query, such as `fal.run/**`.

    Match them against a target's host followed by its request target.

    Raises:
        PatternInvalid: A pattern cannot be used.
    """
    return _compile({pattern: _url_regex(pattern) for pattern in patterns})


def compile_endpoint_patterns(patterns: Iterable[str], *, in_namespaces: bool = False) -> Patterns:
    """Compile patterns of fal endpoints, such as `fal-ai/flux/*`.

    Match them against "/" followed by the endpoint.

    Args:
        patterns: The whole list.
        in_namespaces: Whether a wildcard as the owner also matches a namespace.

    Raises:
        PatternInvalid: A pattern cannot be used.
    """
    guard = "" if in_namespaces else _NOT_A_NAMESPACE
    return _compile({f"/{pattern}": _endpoint_regex(pattern, guard) for pattern in patterns})


def compile_app_patterns(patterns: Iterable[str]) -> Patterns:
    """Compile the apps that patterns of endpoints allow as a whole, with all paths below them.

    Match them against "/owner/app", or against "/*/app" for the app of every owner.

    Raises:
        PatternInvalid: A pattern cannot be used.
    """
    # An app's name is two segments, owner and app. fal may ignore the third.
    return compile_endpoint_patterns(
        "/".join([*owner_and_app, *["*"] * (2 - len(owner_and_app))]).replace("**", "*")
        for *owner_and_app, last in (pattern.split("/") for pattern in patterns)
        if last == "**" and len(owner_and_app) <= 2  # noqa: PLR2004 - an owner and an app
    )


def _compile(regexes: dict[str, str]) -> Patterns:
    plain = frozenset(pattern for pattern in regexes if "*" not in pattern)
    wild = [regex for pattern, regex in regexes.items() if pattern not in plain]
    return Patterns(plain, re.compile("|".join(wild)) if wild else None)


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
            "a query must be visible ASCII without # and backslashes, with ** only at its end"
        )
    segments = path.split("/")
    _check(segments if segments[-1] else segments[:-1])
    if question_mark and segments.count("**") > 1:
        raise PatternInvalid("a path before a query can have at most one **")
    # "*." before a host is one label or more: "*.fal.ai" matches "rest.alpha.fal.ai".
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
            "each pattern must begin with an owner and an app, as fal names endpoints, such as"
            " fal-ai/flux/dev or fal-ai/flux/**"
        )
    _check(segments)
    return (guard if "*" in segments[0] else "") + _path_regex(segments, "(?:/.*)?")


def _check_form(pattern: str) -> None:
    """Raise `PatternInvalid` for a common mistake, with its own message."""
    for mistake, remedy in _COMMON_MISTAKES:
        if re.search(mistake, pattern):
            raise PatternInvalid(f"a pattern must {remedy}, such as fal-ai/flux/dev")


def _check(segments: list[str]) -> None:
    if not all(map(_SEGMENT.fullmatch, segments)):
        raise PatternInvalid(
            "a path must be segments with one slash between them; a segment has letters, digits,"
            " . _ ~ @ : + - and the wildcards * and **, and does not consist of dots"
        )
    if any("**" in segment and segment != "**" for segment in segments):
        raise PatternInvalid("** must be a whole segment")
    # With more of them, a crafted path could make matching slow.
    if segments[:-1].count("**") > 1 or segments[-2:] == ["**", "**"]:
        raise PatternInvalid("there can be at most one **, and one more at the end")


def _path_regex(segments: list[str], all_below: str) -> str:
    *inner, last = segments
    # "**" also matches nothing, without its slash: "a/**" matches "a".
    parts = [_BELOW if segment == "**" else _one(segment) for segment in inner]
    return "".join([*parts, all_below if last == "**" else _one(last)])


def _one(segment: str) -> str:
    return "/" + _within(segment, "[^/?]")


def _within(pattern: str, character: str) -> str:
    """Return the regex for a pattern whose wildcard matches these characters.

    Each literal matches at its first occurrence, for good (hence "?>"). The rest of the pattern
    then has the most room, and no text can make the regex backtrack.
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
    _check_patterns(name, patterns, compile_url_patterns)


def check_endpoint_patterns(name: str, patterns: object) -> None:
    """Check the value of an option that holds patterns of endpoints.

    Raises:
        SettingsError: It is not a list of usable patterns.
    """
    _check_patterns(name, patterns, compile_endpoint_patterns)


def _check_patterns(
    name: str, patterns: object, compile_all: Callable[[Iterable[str]], Patterns]
) -> None:
    if not isinstance(patterns, list | tuple | set | frozenset):
        raise SettingsError(name, patterns, "it must be a list of patterns, or None to allow all")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise SettingsError(name, pattern, "each pattern must be text")
        try:
            compile_all([pattern])
        except PatternInvalid as error:
            raise SettingsError(name, pattern, error.why) from error
