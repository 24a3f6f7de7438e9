from __future__ import annotations

import pytest

from wsgi_fal_proxy._policy.limits.notation import Limit, parse_limit


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("20/minute", Limit("20/minute", 20, 60, is_global=False)),
        ("200/day", Limit("200/day", 200, 86_400, is_global=False)),
        (" 5 per Second ", Limit("5/second", 5, 1, is_global=False)),
        ("100/2 hours", Limit("100/2 hours", 100, 7_200, is_global=False)),
        ("1000/day global", Limit("1000/day global", 1_000, 86_400, is_global=True)),
        ("1000 per 7 days  GLOBAL", Limit("1000/7 days global", 1_000, 604_800, is_global=True)),
    ],
)
def test_notation_of_a_limit_is_read(text: str, read: Limit) -> None:
    assert parse_limit(text) == read


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("global", id="global-alone"),
        pytest.param("20", id="no-window"),
        pytest.param("20/fortnight", id="unknown-unit"),
        pytest.param("20/month", id="month-of-which-there-are-four-lengths"),
        pytest.param("20/minute globally", id="globally"),
        pytest.param("20/minute global global", id="global-twice"),
        pytest.param("global 20/minute", id="global-first"),
        pytest.param("20/minuteglobal", id="no-space"),
        pytest.param("20/minute;30/hour", id="two"),
        pytest.param("0/minute", id="none-at-all"),
        pytest.param("20/0 minutes", id="no-time"),
        pytest.param("-1/minute", id="negative"),
        pytest.param("1.5/minute", id="fraction"),
        pytest.param("\u0662/minute", id="other-digits"),
        pytest.param("1000000000001/minute", id="too-many"),
        pytest.param("1/99999 days", id="too-long"),
        pytest.param("1" * 5_000 + "/minute", id="thousands-of-digits"),
    ],
)
def test_notation_that_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what it says is said by who asked
        parse_limit(text)
