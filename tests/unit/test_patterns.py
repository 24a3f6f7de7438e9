"""Patterns: what they match, what they do not, and which are errors."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.patterns import matches
from wsgi_fal_proxy._fal.patterns import (
    PLAIN_PATH,
    PatternInvalid,
    Patterns,
    compile_app_patterns,
    compile_endpoint_patterns,
    compile_url_patterns,
)


@pytest.mark.parametrize(
    ("pattern", "endpoint"),
    [
        ("fal-ai/flux/dev", "fal-ai/flux/dev"),
        ("fal-ai/flux/*", "fal-ai/flux/dev"),
        ("fal-ai/flux/**", "fal-ai/flux"),
        ("fal-ai/flux/**", "fal-ai/flux/dev"),
        ("fal-ai/flux/**", "fal-ai/flux/dev/stream"),
        ("fal-ai/**/stream", "fal-ai/stream"),
        ("fal-ai/**/stream", "fal-ai/flux/dev/stream"),
        ("fal-ai/**/dev/**", "fal-ai/flux/dev"),
        ("fal-ai/*/dev", "fal-ai/flux/dev"),
        ("*/flux/dev", "fal-ai/flux/dev"),
        ("fal-ai/flux*", "fal-ai/flux"),
        ("fal-ai/flux*", "fal-ai/flux-lora"),
        ("fal-ai/*-lora", "fal-ai/flux-lora"),
        ("fal-ai/f*x*l*a", "fal-ai/flux-lora-a-la"),
        ("fal-ai/a*b*c", "fal-ai/aabbcbc"),
        ("**", "fal-ai/flux"),
        ("**", "a/b/c/d/e"),
        ("**/dev", "fal-ai/flux/dev"),
        ("workflows/me/*", "workflows/me/mine"),
        ("workflows/**", "workflows/execute"),
        ("Owner/App.v2_x~1", "Owner/App.v2_x~1"),
    ],
)
def test_pattern_matches_endpoint(pattern: str, endpoint: str) -> None:
    assert compile_endpoint_patterns([pattern]).match(f"/{endpoint}")
    assert matches(pattern, endpoint)


@pytest.mark.parametrize(
    ("pattern", "endpoint"),
    [
        ("fal-ai/flux/dev", "fal-ai/flux/de"),
        ("fal-ai/flux/dev", "fal-ai/flux/dev/stream"),
        ("fal-ai/flux/dev", "fal-ai/flux/Dev"),
        ("fal-ai/flux/dev", "x/fal-ai/flux/dev"),
        ("fal-ai/flux.dev", "fal-ai/flux-dev"),
        ("fal-ai/flux/*", "fal-ai/flux"),
        ("fal-ai/flux/*", "fal-ai/flux/"),
        ("fal-ai/flux/*", "fal-ai/flux/dev/stream"),
        ("fal-ai/flux/**", "fal-ai/flux-lora"),
        ("fal-ai/flux/**", "fal-ai"),
        ("fal-ai/**/stream", "fal-ai/flux/upstream"),
        ("fal-ai/*/dev", "fal-ai/dev"),
        ("fal-ai/*/dev", "fal-ai/a/b/dev"),
        ("fal-ai/a*b*c", "fal-ai/acb"),
        ("*/flux/dev", "workflows/flux/dev"),
        ("*/flux/dev", "Comfy/flux/dev"),
        ("**", "workflows/me/mine"),
        ("**/mine", "workflows/me/mine"),
        ("w*/me/mine", "workflows/me/mine"),
        ("comfy/me/*", "workflows/me/mine"),
    ],
)
def test_pattern_does_not_match_endpoint(pattern: str, endpoint: str) -> None:
    assert not compile_endpoint_patterns([pattern]).match(f"/{endpoint}")
    assert not matches(pattern, endpoint)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("fal.run/**", "fal.run/"),
        ("fal.run/**", "fal.run/fal-ai/flux"),
        ("fal.run/**", "fal.run/fal-ai/flux?a=/b/c"),
        ("fal.run/**", "fal.run/?a"),
        ("fal.run/", "fal.run/"),
        ("fal.run/?a=*", "fal.run/?a=1"),
        ("fal.run/fal-ai/flux/", "fal.run/fal-ai/flux/"),
        ("fal.run/**/stream", "fal.run/fal-ai/flux/stream"),
        ("queue.fal.run/*/*/requests/*/status?logs=*", "queue.fal.run/a/b/requests/1/status?logs="),
        ("*.fal.ai/x", "rest.alpha.fal.ai/x"),
        ("rest.fal.ai/**?b=1", "rest.fal.ai/x/y?b=1"),
        ("rest.fal.ai/a?b=*&c=1", "rest.fal.ai/a?b=2&c=1"),
        ("rest.fal.ai/a?*", "rest.fal.ai/a?b"),
        ("rest.fal.ai/a?**", "rest.fal.ai/a?b=2&c=1"),
        ("rest.fal.ai/a?b=*&**", "rest.fal.ai/a?b=2&c=1&d=/?"),
        ("rest.fal.ai/a?", "rest.fal.ai/a?"),
        ("rest.fal.ai/a?b[]={!}|?", "rest.fal.ai/a?b[]={!}|?"),
        ("rest.fal.ai/a?b[]=*", "rest.fal.ai/a?b[]=(1)"),
    ],
)
def test_pattern_matches_url(pattern: str, url: str) -> None:
    assert compile_url_patterns([pattern]).match(url)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("fal.run/**", "queue.fal.run/x"),
        ("fal.run/**", "evilfal.run/x"),
        ("fal.run/**", "falxrun/x"),
        ("fal.run/*", "fal.run/"),
        ("fal.run/*", "fal.run/a?b"),
        ("fal.run/*", "fal.run/a/b"),
        ("fal.run/a", "fal.run/a?b"),
        ("fal.run/a", "fal.run/a/"),
        ("fal.run/a", "fal.run/A"),
        ("fal.run/a?", "fal.run/a"),
        ("fal.run/a?b", "fal.run/ab"),
        ("fal.run/a.b", "fal.run/a-b"),
        ("fal.run/**/stream", "fal.run/evil?/stream"),
        ("fal.run/*/stream", "fal.run/evil?x/stream"),
        ("fal.run/a*", "fal.run/a?x"),
        ("*.fal.ai/x", "fal.ai/x"),
        ("*.fal.ai/x", "rest.fal.run/x"),
        ("*.fal.ai/x", "a.fal.ai/y.fal.ai/x"),
        ("rest.fal.ai/**?b=1", "rest.fal.ai/x?y?b=1"),
        ("rest.fal.ai/a?b=*", "rest.fal.ai/a?b=1&c=2"),
        ("rest.fal.ai/a?b=*&**", "rest.fal.ai/a?b=1"),
        ("rest.fal.ai/a?b=*&c=1", "rest.fal.ai/a?c=1&b=2"),
    ],
)
def test_pattern_does_not_match_url(pattern: str, url: str) -> None:
    assert not compile_url_patterns([pattern]).match(url)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/",
        "**",
        "*",
        "/fal.run/x",
        "https://fal.run/x",
        "//fal.run/x",
        "fal.run",
        "fal.run:443/x",
        "fal.run?x",
        "Fal.run/x",
        "FAL.RUN/x",
        "example.com/x",
        "evilfal.run/x",
        "fal.run.example/x",
        "fal.*/x",
        "*fal.run/x",
        "*/x",
        "xn--a.fal.run/x",
        "a..fal.run/x",
        "-a.fal.run/x",
        "user@fal.run/x",
        " fal.run/x",
        "fal.run/x ",
        "fal.run/x\n",
        "fal.run//x",
        "fal.run/x//",
        "fal.run/./x",
        "fal.run/../x",
        "fal.run/x/..",
        "fal.run/.../x",
        "fal.run/a%2fb",
        "fal.run/a;b",
        "fal.run/a,b",
        "fal.run/a#b",
        "fal.run/a\\b",
        "fal.run/[ab]",
        "fal.run/{a,b}",
        "fal.run/!a",
        "fal.run/a(b)",
        "fal.run/a|b",
        "fal.run/\u00e4",
        "fal.run/a**",
        "fal.run/**a",
        "fal.run/a**b/c",
        "fal.run/***",
        "fal.run/**/**",
        "fal.run/**/a/**/b",
        "fal.run/**/a/**?b",
        "fal.run/a?b#c",
        "fal.run/a?b\\c",
        "fal.run/a?b c",
        "fal.run/a?\u00e4",
        "fal.run/a?**b",
        "fal.run/a?b**c**",
    ],
)
def test_pattern_that_is_no_url_is_an_error(pattern: str) -> None:
    with pytest.raises(PatternInvalid):
        compile_url_patterns([pattern])


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/",
        "*",
        "flux",
        "/fal-ai/flux",
        "fal-ai/flux/",
        "fal-ai//flux",
        "fal-ai/../flux",
        "fal-ai/./flux",
        "fal-ai/fl%75x",
        "fal-ai/flux;x",
        "fal-ai/flux?x",
        "fal-ai/flux#x",
        "fal-ai/flux dev",
        "fal-ai/flux,fal-ai/veo3",
        "fal-ai/[f]lux",
        "fal-ai/{flux,veo3}",
        "!fal-ai/veo3",
        "fal-ai/flux\\dev",
        "fal-ai/fl\u00fcx",
        "fal-ai/flux**",
        "**/**",
        "fal-ai/**/a/**/b",
        "fal.run/fal-ai/flux",
        "queue.fal.run/fal-ai/flux",
        "https://fal.run/fal-ai/flux",
    ],
)
def test_pattern_that_is_no_endpoint_is_an_error(pattern: str) -> None:
    with pytest.raises(PatternInvalid):
        compile_endpoint_patterns([pattern])


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        pytest.param("https://fal.run/fal-ai/flux", "be without https:// and host", id="url"),
        pytest.param("HTTP://fal.run/fal-ai/flux", "be without https:// and host", id="http"),
        pytest.param("fal.run/fal-ai/flux", "be without https:// and host", id="host"),
        pytest.param("/fal-ai/flux", "have no slash at either end", id="slash-before"),
        pytest.param("fal-ai/flux/dev/", "have no slash at either end", id="slash-after"),
        pytest.param("/", "have no slash at either end", id="slash-alone"),
        pytest.param(" fal-ai/flux", "have no white space around it", id="space-before"),
        pytest.param("fal-ai/flux\n", "have no white space around it", id="newline-after"),
        pytest.param('["fal-ai/flux"]', "be without brackets and quotation marks", id="json"),
        pytest.param("'fal-ai/flux'", "be without brackets and quotation marks", id="quotes"),
        pytest.param("fal-ai/{flux,veo3}", "be without brackets and quotation marks", id="braces"),
        pytest.param(
            "fal-ai//flux", "a path must be segments with one slash between them", id="other"
        ),
        pytest.param("", "each pattern must begin with an owner and an app", id="empty"),
    ],
)
def test_pattern_of_endpoints_is_refused_with_what_is_wrong(pattern: str, why: str) -> None:
    with pytest.raises(PatternInvalid) as caught:
        compile_endpoint_patterns([pattern])
    assert caught.value.why.removeprefix("a pattern must ").startswith(why)


def test_patterns_of_a_list_are_one_decision() -> None:
    patterns = compile_endpoint_patterns(["a/b", "c/d", "e/*", "f/**"])
    assert patterns.plain == {"/a/b", "/c/d"}
    assert [patterns.match(path) for path in ("/a/b", "/c/d", "/e/x", "/f/x/y", "/a/c")] == [
        True,
        True,
        True,
        True,
        False,
    ]
    assert compile_endpoint_patterns(["a/b"]) == Patterns(frozenset({"/a/b"}), None)


@pytest.mark.parametrize(
    ("pattern", "app", "allowed"),
    [
        ("fal-ai/flux/**", "/fal-ai/flux", True),
        ("fal-ai/flux/**", "/*/flux", False),
        ("fal-ai/flux/**", "/fal-ai/flux-lora", False),
        ("fal-ai/**", "/fal-ai/flux", True),
        ("fal-ai/**", "/*/flux", False),
        ("*/flux/**", "/*/flux", True),
        ("*/flux/**", "/fal-ai/flux", True),
        ("*/flux/**", "/*/veo3", False),
        ("*/flux*/**", "/*/flux-lora", True),
        ("f*/flux/**", "/*/flux", False),
        ("f*/flux/**", "/fal-ai/flux", True),
        ("**", "/*/flux", True),
        ("**", "/fal-ai/flux", True),
        ("**/flux/**", "/*/flux", True),
        ("**/flux/**", "/fal-ai/flux", True),
        ("**/flux/**", "/fal-ai/veo3/flux", False),
        ("*/**", "/*/flux", True),
        ("*/flux", "/*/flux", False),
        ("*/flux/*", "/*/flux", False),
        ("*/*", "/*/flux", False),
        ("fal-ai/flux/dev/**", "/fal-ai/flux", False),
        ("**/flux", "/*/flux", False),
    ],
)
def test_app_patterns_match_an_app_where_all_of_it_is_allowed(
    pattern: str, app: str, allowed: bool
) -> None:
    assert compile_app_patterns([pattern]).match(app) is allowed


_words = st.text("ab*-", min_size=1, max_size=4).filter(lambda text: "**" not in text)
_segments = st.sampled_from(["fal-ai", "flux", "dev", "*", "**", "f*", "workflows"]) | _words
_endpoints = st.lists(
    st.sampled_from(["fal-ai", "flux", "dev", "fl", "workflows", "Comfy"])
    | st.text("ab-", min_size=1, max_size=4),
    min_size=1,
    max_size=5,
).map("/".join)


@given(pattern=st.lists(_segments, min_size=1, max_size=5).map("/".join), endpoint=_endpoints)
@example(pattern="**/a*b/**", endpoint="fal-ai/aab")
def test_pattern_matches_as_it_does_segment_by_segment(pattern: str, endpoint: str) -> None:
    try:
        patterns = compile_endpoint_patterns([pattern])
    except PatternInvalid:
        return
    assert patterns.match(f"/{endpoint}") is matches(pattern, endpoint)


@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/", "/fal-ai/flux/dev", "/a.b/~c_d", "/.a", "/a..b", "/a:b@c+d"]
)
def test_plain_path_matches_a_path_that_is_plain(path: str) -> None:
    assert PLAIN_PATH.fullmatch(path)


@pytest.mark.parametrize(
    "path",
    [
        *("//", "/a//b", "/a//", "//a", "/.", "/..", "/a/..", "/a/./b", "/../a", "/.../a"),
        *(
            "/a%2eb",
            "/%2e%2e/a",
            "/%2F",
            "/%5c",
            "/%252e",
            "/fl%75x",
            "/%",
            "/a;b",
            "/a;",
            "/..;/a",
        ),
        *("/a|b", "/a[b]", "/a(b)", "/a*", "/a!", "/a'b", "/a=b", "/a&b", "/a$b", "/a^b", "/`"),
        *(
            "/a b",
            "/a\\b",
            "/a\n",
            "/a\t",
            "/a\x00",
            "/\u00e4",
            "/a,b",
            "/{a}",
            '/"a"',
            "/<a>",
            "a",
        ),
    ],
)
def test_plain_path_does_not_match_another(path: str) -> None:
    assert not PLAIN_PATH.fullmatch(path)
