from __future__ import annotations

from dataclasses import FrozenInstanceError
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from urllib3.util import parse_url

from wsgi_fal_proxy._fal.operations import Kind, operation_of
from wsgi_fal_proxy._fal.target import MAX_TARGET_LENGTH, Target
from wsgi_fal_proxy.errors import TargetHostNotAllowed, TargetInvalid, TargetMissing

LABEL_63 = "a" * 63
HOST_253 = "a." * 123 + "fal.run"
HOST_254 = "aa." + "a." * 122 + "fal.run"
FILL = MAX_TARGET_LENGTH - len("https://fal.run/")


@pytest.mark.parametrize(
    ("text", "host", "request_target"),
    [
        pytest.param("https://fal.run", "fal.run", "/", id="apex-fal.run"),
        pytest.param("https://fal.ai", "fal.ai", "/", id="apex-fal.ai"),
        pytest.param("https://fal.run/", "fal.run", "/", id="root"),
        pytest.param("https://queue.fal.run/a/b", "queue.fal.run", "/a/b", id="subdomain"),
        pytest.param("https://rest.fal.ai/a", "rest.fal.ai", "/a", id="subdomain-of-fal.ai"),
        pytest.param("https://a.b.c.d.fal.run/", "a.b.c.d.fal.run", "/", id="deep-subdomain"),
        pytest.param("https://fal.run.fal.ai/", "fal.run.fal.ai", "/", id="one-under-the-other"),
        pytest.param("https://a--b.fal.run/", "a--b.fal.run", "/", id="inner-hyphens"),
        pytest.param("https://axn--b.fal.run/", "axn--b.fal.run", "/", id="xn-inside-a-label"),
        pytest.param("https://0.1.fal.run/", "0.1.fal.run", "/", id="digits-as-labels"),
        pytest.param(
            f"https://{LABEL_63}.fal.run/", f"{LABEL_63}.fal.run", "/", id="label-of-63-characters"
        ),
        pytest.param(f"https://{HOST_253}/", HOST_253, "/", id="host-of-253-characters"),
        pytest.param("HTTPS://QUEUE.Fal.Run/A/b", "queue.fal.run", "/A/b", id="upper-case"),
        pytest.param("https://fal.run:443", "fal.run", "/", id="port-443"),
        pytest.param("https://fal.run:443/a?b", "fal.run", "/a?b", id="port-443-path-and-query"),
        pytest.param("https://fal.run?", "fal.run", "/?", id="bare-question-mark-without-path"),
        pytest.param("https://fal.run/?", "fal.run", "/?", id="bare-question-mark"),
        pytest.param("https://fal.run?a=b", "fal.run", "/?a=b", id="query-without-path"),
        pytest.param("https://fal.run/a??b?", "fal.run", "/a??b?", id="question-marks-in-query"),
        pytest.param("https://fal.run/?q=%c3%A9", "fal.run", "/?q=%c3%A9", id="case-of-escapes"),
        pytest.param("https://fal.run/?q=%", "fal.run", "/?q=%", id="escape-that-is-none"),
        pytest.param("https://fal.run/?q[0]=1", "fal.run", "/?q[0]=1", id="brackets"),
        pytest.param("https://fal.run/?a+b=c+d", "fal.run", "/?a+b=c+d", id="plus"),
        pytest.param("https://fal.run/?a=1;b=2", "fal.run", "/?a=1;b=2", id="semicolon"),
        pytest.param("https://fal.run/?a=1&a=2&a", "fal.run", "/?a=1&a=2&a", id="repeated-keys"),
        pytest.param("https://fal.run/?&&=&=1", "fal.run", "/?&&=&=1", id="empty-keys"),
        pytest.param("https://fal.run/?a='b'|c", "fal.run", "/?a='b'|c", id="quote-and-bar"),
        pytest.param(
            'https://fal.run/?"<>^`{}~!$*()@:/', "fal.run", '/?"<>^`{}~!$*()@:/', id="visible-ascii"
        ),
        pytest.param(
            "https://fal.run/?u=https://evil.example/@x",
            "fal.run",
            "/?u=https://evil.example/@x",
            id="url-in-query",
        ),
        pytest.param(
            "https://fal.run/?ids=1,2,,3", "fal.run", "/?ids=1,2,,3", id="commas-in-query"
        ),
        pytest.param(
            "https://fal.run/?a=1,https%3A//b",
            "fal.run",
            "/?a=1,https%3A//b",
            id="escaped-url-list",
        ),
        pytest.param("https://fal.run//a//b/", "fal.run", "//a//b/", id="empty-segments"),
        pytest.param("https://fal.run/a/../b/.", "fal.run", "/a/../b/.", id="dot-segments"),
        pytest.param("https://fal.run/%2e%2E/%2f", "fal.run", "/%2e%2E/%2f", id="escaped-dots"),
        pytest.param("https://fal.run/@evil:80/", "fal.run", "/@evil:80/", id="at-sign-in-path"),
        pytest.param("https://fal.run/a;b=c:d", "fal.run", "/a;b=c:d", id="path-parameters"),
        pytest.param(
            "https://fal.run/!\"$%&'()*+-.:;<=>[]^_`{|}~",
            "fal.run",
            "/!\"$%&'()*+-.:;<=>[]^_`{|}~",
            id="visible-ascii-in-path",
        ),
        pytest.param(
            f"https://fal.run/{'a' * FILL}", "fal.run", f"/{'a' * FILL}", id="longest-target"
        ),
    ],
)
def test_target_parse_keeps_path_and_query_byte_for_byte(
    text: str, host: str, request_target: str
) -> None:
    assert Target.parse(text) == Target(host, request_target)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="no-header"),
        pytest.param("", id="empty"),
        pytest.param(" ", id="space"),
        pytest.param(" \t ", id="space-and-tab"),
    ],
)
def test_target_parse_tells_a_target_that_is_missing(text: str | None) -> None:
    with pytest.raises(TargetMissing) as caught:
        Target.parse(text)
    assert (caught.value.reason, caught.value.status[:3]) == ("target_missing", "400")


@pytest.mark.parametrize(
    "text",
    [
        # Whose host is it?
        pytest.param("https://fal.run@evil.example/", id="userinfo-like-fal"),
        pytest.param("https://evil.example@fal.run/", id="userinfo"),
        pytest.param("https://user:password@fal.run/", id="userinfo-with-password"),
        pytest.param("https://@fal.run/", id="userinfo-empty"),
        pytest.param("https://fal.run:443@evil.example/", id="userinfo-like-host-and-port"),
        pytest.param("https://evil.example%40fal.run/", id="userinfo-escaped"),
        pytest.param("https://evil.example\\.fal.run/", id="backslash-before-suffix"),
        pytest.param("https://evil.example\\@fal.run/", id="backslash-and-userinfo"),
        pytest.param("https://fal.run\\evil.example/", id="backslash-after-host"),
        pytest.param("https://fal.run\\@evil.example/", id="backslash-after-host-and-userinfo"),
        pytest.param("https:\\\\fal.run/", id="backslashes-for-slashes"),
        pytest.param("https:/\\fal.run/", id="backslash-for-second-slash"),
        pytest.param("https://fal.run/a\\b", id="backslash-in-path"),
        pytest.param("https://fal.run/?a\\b", id="backslash-in-query"),
        pytest.param("https://fal.run/\\..\\evil", id="backslash-dot-segments"),
        pytest.param("https://evil.example;.fal.run/", id="semicolon-in-host"),
        pytest.param("https://evil.example&.fal.run/", id="ampersand-in-host"),
        pytest.param("https://evil.example,fal.run/", id="comma-in-host"),
        pytest.param("https://fal.run%2eevil.example/", id="escaped-dot"),
        pytest.param("https://fal.run%2fevil.example/", id="escaped-slash-in-host"),
        pytest.param("https://%66al.run/", id="escaped-letter"),
        pytest.param("https://fal.run%00.evil.example/", id="escaped-null"),
        pytest.param("https://f\u0430l.run/", id="cyrillic-a"),
        pytest.param("https://\uff46al.run/", id="full-width-letter"),
        pytest.param("https://fal\uff0erun/", id="full-width-dot"),
        pytest.param("https://fal\u3002run/", id="ideographic-full-stop"),
        pytest.param("https://evil.example\uff0f.fal.run/", id="full-width-slash"),
        pytest.param("https://evil.example\u2044.fal.run/", id="fraction-slash"),
        pytest.param(
            "https://evil.example\u2100.fal.run/", id="character-that-decomposes-to-slash"
        ),
        pytest.param("https://fal\u00ad.run/", id="soft-hyphen"),
        pytest.param("https://fal.\u200brun/", id="zero-width-space"),
        pytest.param("https://\u212a.fal.run/", id="kelvin-sign"),
        pytest.param("http\u017f://fal.run/", id="long-s-in-scheme"),
        pytest.param("https://\u0661.fal.run/", id="arabic-digit"),
        pytest.param("https://\xe9.fal.run/", id="latin-1-letter"),
        pytest.param("https://xn--fl-jia.run/", id="punycode-look-alike"),
        pytest.param("https://xn--80ak6aa92e.fal.run/", id="punycode-label"),
        pytest.param("https://a.XN--80ak6aa92e.fal.run/", id="punycode-label-upper-case"),
        pytest.param("https://xn--.fal.run/", id="punycode-empty"),
        # Labels.
        pytest.param("https://fal.run./", id="trailing-dot"),
        pytest.param("https://fal.run..", id="two-trailing-dots"),
        pytest.param("https://.fal.run/", id="leading-dot"),
        pytest.param("https://queue..fal.run/", id="empty-label"),
        pytest.param("https://./", id="dot-alone"),
        pytest.param("https://-a.fal.run/", id="leading-hyphen"),
        pytest.param("https://a-.fal.run/", id="trailing-hyphen"),
        pytest.param("https://-.fal.run/", id="hyphen-alone"),
        pytest.param("https://a_b.fal.run/", id="underscore"),
        pytest.param("https://*.fal.run/", id="asterisk"),
        pytest.param(f"https://a{LABEL_63}.fal.run/", id="label-of-64-characters"),
        pytest.param("https://[::1]/", id="ipv6"),
        pytest.param("https://[::ffff:127.0.0.1].fal.run/", id="ipv6-before-suffix"),
        pytest.param("https://[fal.run]/", id="brackets-around-host"),
        pytest.param("https://[fe80::1%25.fal.run]/", id="ipv6-zone"),
        # Ports.
        pytest.param("https://fal.run:80/", id="port-80"),
        pytest.param("https://fal.run:4430/", id="port-4430"),
        pytest.param("https://fal.run:44/", id="port-44"),
        pytest.param("https://fal.run:0443/", id="port-with-leading-zero"),
        pytest.param("https://fal.run:+443/", id="port-with-sign"),
        pytest.param("https://fal.run:/", id="port-empty"),
        pytest.param("https://fal.run:", id="port-empty-at-the-end"),
        pytest.param("https://fal.run:443:443/", id="port-twice"),
        pytest.param("https://fal.run:443.evil.example/", id="port-like-label"),
        pytest.param("https://fal.run:\u0664\u0664\u0663/", id="port-in-arabic-digits"),
        pytest.param("https://fal.run:https/", id="port-by-name"),
        # Schemes and shapes.
        pytest.param("http://fal.run/", id="http"),
        pytest.param("http://fal.run:443/", id="http-to-port-443"),
        pytest.param("httpss://fal.run/", id="scheme-longer"),
        pytest.param("wss://fal.run/", id="wss"),
        pytest.param("ftp://fal.run/", id="ftp"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("file://fal.run/etc/passwd", id="file-with-host"),
        pytest.param("javascript://fal.run/%0aalert(1)", id="javascript"),
        pytest.param("data:text/plain,fal.run", id="data"),
        pytest.param("blob:https://fal.run/", id="blob"),
        pytest.param("://fal.run/", id="scheme-empty"),
        pytest.param("//fal.run/", id="scheme-relative"),
        pytest.param("/fal-ai/flux", id="path-alone"),
        pytest.param("fal.run/fal-ai/flux", id="no-scheme"),
        pytest.param("fal-ai/flux", id="endpoint-alone"),
        pytest.param("https:", id="scheme-alone"),
        pytest.param("https://", id="no-host"),
        pytest.param("https:///fal.run/", id="host-empty"),
        pytest.param("https://?fal.run", id="query-for-host"),
        pytest.param("https:fal.run/", id="no-slashes"),
        pytest.param("https:/fal.run/", id="one-slash"),
        pytest.param("https//fal.run/", id="no-colon"),
        pytest.param("https ://fal.run/", id="space-in-scheme"),
        pytest.param("<https://fal.run/>", id="angle-brackets"),
        pytest.param('"https://fal.run/"', id="quotes"),
        # Characters that no target holds.
        pytest.param(" https://fal.run/", id="leading-space"),
        pytest.param("https://fal.run/ ", id="trailing-space"),
        pytest.param("https:// fal.run/", id="space-before-host"),
        pytest.param("https://fal.run /", id="space-after-host"),
        pytest.param("https://fal.run/a b", id="space-in-path"),
        pytest.param("https://fal.run/?a b", id="space-in-query"),
        pytest.param("\thttps://fal.run/", id="leading-tab"),
        pytest.param("https://fal\t.run/", id="tab-in-host"),
        pytest.param("ht\ntps://fal.run/", id="newline-in-scheme"),
        pytest.param("https://fal.run/\n", id="newline-at-the-end"),
        pytest.param("https://fal.run/?\n", id="newline-at-the-end-of-query"),
        pytest.param("https://fal.run\n", id="newline-after-host"),
        pytest.param("https://fal.run/\r\nX-Evil: 1", id="line-in-path"),
        pytest.param("https://fal.run/?\r\n\r\nGET / HTTP/1.1", id="request-in-query"),
        pytest.param("https://fal.run/\r", id="carriage-return"),
        pytest.param("\x00https://fal.run/", id="leading-null"),
        pytest.param("https://evil.example\x00.fal.run/", id="null-in-host"),
        pytest.param("https://fal.run/\x00", id="null-in-path"),
        pytest.param("https://fal.run/\x1f", id="control-in-path"),
        pytest.param("https://fal.run/\x7f", id="delete-in-path"),
        pytest.param("https://fal.run/?\x7f", id="delete-in-query"),
        pytest.param("https://fal.run/\x85", id="next-line-in-path"),
        pytest.param("https://fal.run/\xe9", id="latin-1-in-path"),
        pytest.param("https://fal.run/?\xe9", id="latin-1-in-query"),
        pytest.param("https://fal.run/\u2028", id="line-separator-in-path"),
        pytest.param("https://fal.run/\ud800", id="lone-surrogate"),
        pytest.param("https://fal.run#", id="fragment-empty-after-host"),
        pytest.param("https://fal.run/#", id="fragment-empty"),
        pytest.param("https://fal.run/#a", id="fragment"),
        pytest.param("https://fal.run/?a#b", id="fragment-after-query"),
        pytest.param("https://evil.example#.fal.run/", id="fragment-before-suffix"),
        pytest.param("https://fal.run#@evil.example/", id="fragment-and-userinfo"),
        # Two headers, joined by a server.
        pytest.param("https://fal.run/a,https://fal.run/b", id="two"),
        pytest.param("https://fal.run/a, https://fal.run/b", id="two-with-space"),
        pytest.param("https://fal.run,https://fal.run", id="two-without-path"),
        pytest.param("https://fal.run/?a,https://fal.run/b", id="two-first-with-query"),
        pytest.param("https://fal.run/?a, https://fal.run/b", id="two-with-query-and-space"),
        pytest.param("https://fal.run/?,https://evil.example/", id="two-second-is-not-fal"),
        pytest.param("https://fal.run/?a,HTTPS://fal.run/b", id="two-second-in-upper-case"),
        pytest.param("https://fal.run/?a,http://fal.run/b", id="two-second-with-other-scheme"),
        pytest.param("https://fal.run/?a,x-y+z.1://b", id="two-second-with-odd-scheme"),
        pytest.param("https://fal.run/?a,//fal.run/b", id="two-second-scheme-relative"),
        pytest.param("https://fal.run/?a=1,2,https://fal.run/b", id="two-after-a-comma-of-its-own"),
        pytest.param("https://fal.run/?a,", id="second-empty"),
        pytest.param("https://fal.run/,", id="second-empty-after-path"),
        pytest.param(",https://fal.run/", id="first-empty"),
        pytest.param("https://fal.run/a,b", id="comma-in-path"),
        # Length.
        pytest.param(f"https://fal.run/{'a' * (FILL + 1)}", id="over-long"),
        pytest.param("https://" + "a." * 50_000 + "fal.run/", id="over-long-host"),
        pytest.param(" " * 100_000 + "https://fal.run/", id="over-long-leading-space"),
    ],
)
def test_target_parse_refuses_what_is_not_a_plain_https_url(text: str) -> None:
    with pytest.raises(TargetInvalid) as caught:
        Target.parse(text)
    assert (caught.value.reason, caught.value.status[:3]) == ("target_invalid", "412")


def test_target_parse_refuses_an_over_long_target_with_the_bound() -> None:
    with pytest.raises(TargetInvalid) as caught:
        Target.parse("https://fal.run/" + "a" * MAX_TARGET_LENGTH)
    assert "8000 characters" in caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("https://evil.example/", id="another"),
        pytest.param("https://fal.run.evil.example/", id="fal-as-prefix"),
        pytest.param("https://fal.ai.evil.example/", id="fal.ai-as-prefix"),
        pytest.param("https://evilfal.run/", id="fal-without-label-boundary"),
        pytest.param("https://evil-fal.run/", id="hyphen-for-label-boundary"),
        pytest.param("https://evilfal.ai/", id="fal.ai-without-label-boundary"),
        pytest.param("https://fal.runs/", id="longer-top-level"),
        pytest.param("https://fal.ru/", id="shorter-top-level"),
        pytest.param("https://fal.com/", id="other-top-level"),
        pytest.param("https://falxrun/", id="letter-for-dot"),
        pytest.param("https://fa1.run/", id="digit-for-letter"),
        pytest.param("https://fal/", id="name-alone"),
        pytest.param("https://run/", id="top-level-alone"),
        pytest.param("https://run.fal/", id="labels-swapped"),
        pytest.param("https://fal.run.ai/", id="top-levels-mixed"),
        pytest.param("https://evil.example/.fal.run", id="suffix-in-path"),
        pytest.param("https://evil.example/@fal.run/", id="userinfo-in-path"),
        pytest.param("https://evil.example?.fal.run", id="suffix-in-query"),
        pytest.param("https://evil.example:443/fal.run", id="port-443"),
        pytest.param("https://localhost/", id="localhost"),
        pytest.param("https://127.0.0.1/", id="ipv4"),
        pytest.param("https://169.254.169.254/latest/meta-data/", id="metadata-service"),
        pytest.param("https://2130706433/", id="ipv4-as-one-number"),
        pytest.param("https://0x7f.1/", id="ipv4-in-hexadecimal"),
        pytest.param("https://0177.0.0.1/", id="ipv4-in-octal"),
        pytest.param("https://127.0.0.1.nip.io/", id="ipv4-in-a-name"),
        pytest.param(f"https://{HOST_254}/", id="host-of-254-characters"),
    ],
)
def test_target_parse_refuses_a_host_that_is_not_fals(text: str) -> None:
    with pytest.raises(TargetHostNotAllowed) as caught:
        Target.parse(text)
    assert (caught.value.reason, caught.value.status[:3]) == ("target_host_not_allowed", "412")


CANCEL = "https://queue.fal.run/fal-ai/flux/requests/0-1-a/cancel"


def is_cancel(text: str) -> bool:
    return operation_of("PUT", Target.parse(text)).kind is Kind.CANCEL


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(CANCEL, id="plain"),
        pytest.param("https://queue.fal.run:443/fal-ai/flux/requests/1/cancel", id="port"),
        pytest.param("https://QUEUE.FAL.RUN/fal-ai/flux/requests/1/cancel", id="host-upper-case"),
        pytest.param("https://queue.fal.run/workflows/me/flow/requests/1/cancel", id="workflows"),
        pytest.param("https://queue.fal.run/comfy/me/flow/requests/1/cancel", id="comfy"),
        pytest.param("https://queue.fal.run/a_b/c.d~e/requests/F-1/cancel", id="punctuation"),
    ],
)
def test_target_is_cancel_of_a_queued_request(text: str) -> None:
    assert is_cancel(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("https://fal.run/fal-ai/flux/requests/1/cancel", id="apex"),
        pytest.param("https://rest.fal.ai/fal-ai/flux/requests/1/cancel", id="other-subdomain"),
        pytest.param("https://queue.fal.ai/fal-ai/flux/requests/1/cancel", id="other-apex"),
        pytest.param("https://a.queue.fal.run/fal-ai/flux/requests/1/cancel", id="below-queue"),
        pytest.param(f"{CANCEL}?", id="bare-question-mark"),
        pytest.param(f"{CANCEL}?a=b", id="query"),
        pytest.param(f"{CANCEL}/", id="trailing-slash"),
        pytest.param(f"{CANCEL}/x", id="below"),
        pytest.param(f"{CANCEL};x", id="path-parameter"),
        pytest.param(f"{CANCEL}led", id="longer-word"),
        pytest.param("https://queue.fal.run/a/b/requests/1/CANCEL", id="upper-case"),
        pytest.param("https://queue.fal.run/a/b/requests/1/%63ancel", id="escaped"),
        pytest.param("https://queue.fal.run/a/b/requests/1/status", id="status"),
        pytest.param("https://queue.fal.run/a/b/requests/1", id="result"),
        pytest.param("https://queue.fal.run/a/b/requests//cancel", id="empty-id"),
        pytest.param("https://queue.fal.run/a/b/requests/cancel", id="no-id"),
        pytest.param("https://queue.fal.run/a/requests/1/cancel", id="no-app"),
        # It would run the workflow "requests" of the owner "a".
        pytest.param("https://queue.fal.run/workflows/a/requests/1/cancel", id="workflow"),
        pytest.param("https://queue.fal.run/Comfy/a/b/requests/1/cancel", id="upper-case-comfy"),
        pytest.param("https://queue.fal.run//a/b/requests/1/cancel", id="empty-segment"),
        pytest.param("https://queue.fal.run/a/b/c/requests/1/cancel", id="path-below-app"),
        pytest.param("https://queue.fal.run/other/a/b/requests/1/cancel", id="other-namespace"),
        pytest.param("https://queue.fal.run/../b/requests/1/cancel", id="dots-as-owner"),
        pytest.param("https://queue.fal.run/a/../requests/1/cancel", id="dots-as-app"),
        pytest.param("https://queue.fal.run/a/b/requests/../cancel", id="dots-as-id"),
        pytest.param("https://queue.fal.run/a/b/requests/./cancel", id="dot-as-id"),
        pytest.param("https://queue.fal.run/a/b/requests/%2e%2e/cancel", id="escaped-dots-as-id"),
        pytest.param("https://queue.fal.run/a/b/requests/1%2f2/cancel", id="escaped-slash-in-id"),
        pytest.param("https://queue.fal.run/workflows/../a/b/requests/1/cancel", id="dots-further"),
        pytest.param("https://queue.fal.run/", id="root"),
    ],
)
def test_target_is_no_cancel_otherwise(text: str) -> None:
    assert not is_cancel(text)


def test_target_cannot_be_changed() -> None:
    target = Target.parse("https://fal.run/")
    with pytest.raises(FrozenInstanceError):
        target.host = "evil.example"  # type: ignore[misc]


def test_target_does_not_show_its_query_in_a_repr() -> None:
    assert repr(Target.parse("https://fal.run/?private")) == "Target(host='fal.run')"


URL_PIECES = (
    *("https://", "HTTPS://", "http://", "https:", "//", "/", "\\", "@", ":", ":443", ":80"),
    *(
        "fal.run",
        "fal.ai",
        "FAL.RUN",
        "queue",
        "evil.example",
        "xn--",
        ".",
        "-",
        "127.0.0.1",
        "[::1]",
    ),
    *(
        "?",
        "#",
        ",",
        "%2e",
        "%00",
        "..",
        "a",
        "=",
        "&",
        " ",
        "\t",
        "\r\n",
        "\x00",
        "\xe9",
        "\u3002",
    ),
)
urls_or_nearly = st.lists(st.sampled_from(URL_PIECES), max_size=12).map("".join)
fal_urls_or_nearly = urls_or_nearly.map("https://fal.run".__add__)


def parsed(text: str) -> Target | None:
    try:
        return Target.parse(text)
    except (TargetMissing, TargetInvalid, TargetHostNotAllowed):
        return None


def is_at_fal(host: str) -> bool:
    return f".{host}".endswith((".fal.run", ".fal.ai"))


def is_end_of(text: str, request_target: str) -> bool:
    # Only an empty path is written out, as "/".
    return text.endswith((request_target, request_target.removeprefix("/")))


@settings(max_examples=300, deadline=None)
@given(st.text() | urls_or_nearly | fal_urls_or_nearly)
@example("https://evil.example\\.fal.run/")
@example("https://queue.fal.run/a?b")
def test_target_parse_takes_any_text_for_one_at_fal_or_refuses_it_by_name(text: str) -> None:
    target = parsed(text)
    assert target is None or (is_at_fal(target.host) and is_end_of(text, target.request_target))


@settings(max_examples=300, deadline=None)
@given(fal_urls_or_nearly)
@example("https://fal.run:443/a?b")
def test_target_parse_accepts_where_other_url_parsers_read_the_same_host(text: str) -> None:
    target = parsed(text)
    assert target is None or target.host == urlsplit(text).hostname == parse_url(text).host


TWICE = "was sent twice, or holds a comma in its path or before a second URL."
URL_IN_PATH = "was sent twice, or holds a URL in its path."


@pytest.mark.parametrize(
    ("text", "what"),
    [
        pytest.param("http://fal.run/", "does not begin with https://", id="scheme"),
        pytest.param("fal-ai/flux", "does not begin with https://", id="no-url"),
        pytest.param("https://fal.run/a b", "holds a space, a control character or", id="space"),
        pytest.param("https://fal.run\\a", "holds a backslash", id="backslash"),
        pytest.param("https://fal.run/#a", "holds a fragment, which begins with #", id="fragment"),
        pytest.param("https://me@fal.run/", "holds a user name", id="user"),
        pytest.param("https://fal.run:80/", "names a port that is not 443", id="port"),
        pytest.param("https://fal.run/a,b", TWICE, id="comma"),
        pytest.param("https://fal.run/a,https://fal.run/a", TWICE, id="two"),
        pytest.param("https://fal.run/a, https://fal.run/a", TWICE, id="two-with-space"),
        pytest.param("https://fal.run,https://fal.run", TWICE, id="two-without-path"),
        pytest.param("https://fal.run/?a,https://fal.run/", TWICE, id="two-with-query"),
        pytest.param("https://fal.run/?a,//fal.run/", TWICE, id="two-scheme-relative"),
        pytest.param("https://fal.run/?a,", TWICE, id="second-empty"),
        pytest.param("https://fal.run/?a, ", TWICE, id="second-blank"),
        pytest.param("https://fal.run/ahttps://fal.run/b", URL_IN_PATH, id="two-unseparated"),
        pytest.param("https://fal.runhttps://fal.run", URL_IN_PATH, id="two-unseparated-no-path"),
        pytest.param("https://fal.run/http://a?b", URL_IN_PATH, id="url-in-path"),
        pytest.param("https://fal.run/a:///b", URL_IN_PATH, id="url-without-host-in-path"),
        pytest.param("https://fal.run./", "has a host that is not a plain name", id="host"),
        pytest.param(
            "https://fal.run./?a,b", "has a host that is not a plain name", id="host-comma"
        ),
    ],
)
def test_target_parse_tells_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(TargetInvalid) as caught:
        Target.parse(text)
    assert caught.value.detail.startswith(f"The target in x-fal-target-url {what}")


@pytest.mark.parametrize(
    "text",
    ["https://" + "a" * 7_000, "https://" + "@:" * 3_000 + ",", "https://a/?" + ", " * 3_000 + "b"],
)
def test_target_parse_tells_what_is_wrong_in_no_time(text: str) -> None:
    with pytest.raises(TargetInvalid):
        Target.parse(text)
