"""What a pattern of endpoints matches, told without a regular expression."""

from __future__ import annotations

NAMESPACES = ("workflows", "comfy")


def matches(pattern: str, endpoint: str) -> bool:
    """Tell it segment by segment, without a regular expression."""
    patterns, segments = pattern.split("/"), endpoint.split("/")
    if "*" in patterns[0] and segments[0].lower() in NAMESPACES:
        return False
    return _segments_match(patterns, segments)


def _segments_match(patterns: list[str], segments: list[str]) -> bool:
    if not patterns:
        return not segments
    first, *rest = patterns
    if first == "**":
        return any(_segments_match(rest, segments[i:]) for i in range(len(segments) + 1))
    if not segments or (first == "*" and not segments[0]):
        return False
    return _segment_matches(first, segments[0]) and _segments_match(rest, segments[1:])


def _segment_matches(pattern: str, segment: str) -> bool:
    if not pattern:
        return not segment
    if pattern[0] == "*":
        return any(_segment_matches(pattern[1:], segment[i:]) for i in range(len(segment) + 1))
    return segment[:1] == pattern[0] and _segment_matches(pattern[1:], segment[1:])
