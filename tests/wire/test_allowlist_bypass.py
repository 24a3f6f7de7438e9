"""Ways to run what the owner has not allowed, through the whole proxy: nothing is sent.

Each class is here once; `tests/unit/test_allowlist_bypass.py` has all ways of each.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.environs import answer_to
from tests.support.patterns import NAMESPACES, matches
from tests.support.raw_server import Connection, RawServer, close_connections
from wsgi_fal_proxy import STRICT_URLS, FalProxy
from wsgi_fal_proxy.testing import FakeFalPoolManager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.network import NetworkGuard

ENDPOINT = "fal-ai/flux/dev"
RUN = f"https://fal.run/{ENDPOINT}"
VEO = "https://fal.run/fal-ai/veo3"
REST = "https://rest.fal.ai"
WMA = "https://wma.fal.run"
# With these, three kinds of lists: one name, wildcards, and both options.
EXACT = {"allowed_endpoints": [ENDPOINT]}
WILD = {"allowed_endpoints": ["fal-ai/flux/*", "*/lora/train", "*/sd/**", "**/preview"]}
BOTH = {"allowed_endpoints": [ENDPOINT], "allowed_urls": STRICT_URLS}


class Upstream:
    """What has reached a server that takes anything, from proxies that dial it for all hosts."""

    def __init__(self, port: int, requests: list[tuple[str, str, bytes]]) -> None:
        self.manager = FakeFalPoolManager(port)
        self.requests = requests
        self.proxies: dict[str, FalProxy] = {}

    def call(
        self,
        options: dict[str, Any],
        method: str,
        target: str,
        content: bytes = b"",
        **environ: Any,
    ) -> tuple[str, str | None]:
        """Give the status and our reason for a request."""
        self.requests.clear()
        name = repr(options)
        if name not in self.proxies:
            self.proxies[name] = FalProxy(key="k", pool_manager=self.manager, **options)
        declared = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(content))}
        full = {"REQUEST_METHOD": method, "HTTP_X_FAL_TARGET_URL": target, **declared, **environ}
        status, headers, _ = answer_to(
            self.proxies[name], **{"wsgi.input": io.BytesIO(content), **full}
        )
        return status[:3], headers.get("x-fal-proxy-error")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    requests: list[tuple[str, str, bytes]] = []

    def script(connection: Connection) -> None:
        while True:  # until the client closes
            head, _ = connection.read_request()
            line, _, fields = head.decode("latin-1").partition("\r\n")
            host = fields.partition("Host: ")[2].partition("\r\n")[0]
            requests.append((line, host, head))
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with RawServer(script, tls=False) as server:
        upstream = Upstream(server.port, requests)
        yield upstream
        for proxy in upstream.proxies.values():
            close_connections(proxy)


@pytest.mark.parametrize(
    ("options", "method", "target"),
    [
        *((options, method, RUN) for options in (EXACT, WILD, BOTH) for method in ("GET", "POST")),
        (EXACT, "POST", f"https://queue.fal.run/{ENDPOINT}"),
        (EXACT, "POST", f"{RUN}/"),
        (WILD, "POST", "https://fal.run/me/lora/train"),
        (WILD, "POST", "https://fal.run/me/sd/a/b"),
        (WILD, "POST", "https://fal.run/fal-ai/kling/v2/preview"),
        (BOTH, "GET", "https://queue.fal.run/fal-ai/flux/requests/1/status"),
        (BOTH, "PUT", "https://queue.fal.run/fal-ai/flux/requests/1/cancel"),
    ],
)
def test_allowlist_lets_arrive_what_is_allowed(
    upstream: Upstream, options: dict[str, Any], method: str, target: str
) -> None:
    assert upstream.call(options, method, target) == ("200", None)
    ((line, host, _),) = upstream.requests
    assert line == f"{method} {target.removeprefix(f'https://{host}')} HTTP/1.1"


PATHS = {
    "another endpoint": "/fal-ai/veo3",
    "a subpath": "/fal-ai/flux/dev/stream",
    "a namespace": "/workflows/fal-ai/flux/dev",
    "another case": "/FAL-AI/flux/dev",
    "an empty segment": "/fal-ai//flux/dev",
    "a dot segment": "/fal-ai/flux/dev/../../veo3",
    "a path parameter": "/fal-ai/flux/..;/veo3",
    "an encoded dot segment": "/fal-ai/flux/%2e%2e/veo3",
    "a doubly encoded dot segment": "/fal-ai/flux/%252e%252e/veo3",
    "an encoded slash": "/fal-ai%2fflux%2fdev",
    "an encoded letter": "/fal-ai/flux/d%65v",
    "an encoded line break": "/fal-ai/flux/dev%0d%0a",
    "a pattern": "/fal-ai/**",
    "a backslash": "/fal-ai/flux\\dev",
    "a line break": "/fal-ai/flux/dev\r\nX: y",
    "a fragment": "/fal-ai/veo3#/fal-ai/flux/dev",
    "the endpoint in the query": "/fal-ai/veo3?/fal-ai/flux/dev",
    "no path": "",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_allowlist_sends_no_other_path(
    upstream: Upstream, network: NetworkGuard, path: str
) -> None:
    for options in (EXACT, WILD, BOTH):
        status, reason = upstream.call(options, "POST", f"https://fal.run{path}", b"{}")
        assert (status, reason is not None) == ("412", True)
        assert upstream.requests == []
    assert network.lookups == []


TARGETS = {
    "none": ("POST", ""),
    "a blank": ("POST", " "),
    "two targets": ("POST", f"{RUN},{VEO}"),
    "a header in a target": ("POST", f"{RUN}\r\nx-fal-target-url: {VEO}"),
    "a user": ("POST", f"https://fal.run@evil.example/{ENDPOINT}"),
    "another host of fal's that runs": ("POST", f"https://ws.fal.run/{ENDPOINT}"),
    "a gateway": ("POST", "https://110602490-flux.gateway.alpha.fal.ai/"),
    "the account": ("GET", f"{REST}/users/me/keys"),
    "near a poll": ("GET", "https://queue.fal.run/fal-ai/veo3/requests/1/run"),
    "a poll on another host": ("GET", "https://fal.run/fal-ai/veo3/requests/1/status"),
    "a poll in what may be no namespace": ("GET", "https://queue.fal.run/Comfy/a/b/requests/1"),
    "near an upload": ("POST", f"{REST}/storage/upload/initiate/x"),
    "near a token": ("POST", f"{REST}/tokens//"),
    "near a session": ("POST", f"{WMA}/session/x"),
}


@pytest.mark.parametrize(("method", "target"), TARGETS.values(), ids=TARGETS)
def test_allowlist_sends_no_other_target(upstream: Upstream, method: str, target: str) -> None:
    for options in (EXACT, WILD, BOTH):
        status, reason = upstream.call(options, method, target, b'{"allowed_apps": ["x"]}')
        assert status == ("412" if target.strip() else "400")
        assert reason is not None
        assert upstream.requests == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("DELETE", VEO),
        ("post", VEO),
        ("PUT", RUN),
        ("PUT", "https://queue.fal.run/fal-ai/veo3/x/../requests/1/cancel"),
        # A workflow that is called requests is not cancelled into running.
        ("PUT", "https://queue.fal.run/workflows/me/requests/x/cancel"),
    ],
)
def test_proxy_sends_no_other_method(upstream: Upstream, method: str, target: str) -> None:
    assert upstream.call(EXACT, method, target, b"{}") == ("405", "method_not_allowed")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "spoofed",
    [
        {"HTTP_X_HTTP_METHOD_OVERRIDE": "GET"},
        {"HTTP_X_ORIGINAL_URL": "/fal-ai/flux/dev"},
        {"HTTP_X_FAL_TARGET_URL_": RUN},
        {"HTTP_CONNECTION": "x-fal-target-url"},
        {"QUERY_STRING": f"url={RUN}"},
    ],
    ids=lambda spoofed: next(iter(spoofed)),
)
def test_allowlist_is_not_passed_by_another_header(
    upstream: Upstream, spoofed: dict[str, str]
) -> None:
    assert upstream.call(EXACT, "POST", VEO, b"{}", **spoofed) == ("412", "endpoint_not_allowed")
    assert upstream.requests == []


def test_allowlist_sends_no_header_that_might_choose_what_is_run(upstream: Upstream) -> None:
    spoofed = {"HTTP_X_FAL_ENDPOINT": "fal-ai/veo3", "HTTP_X_HTTP_METHOD_OVERRIDE": "PUT"}
    assert upstream.call(EXACT, "POST", RUN, b"{}", **spoofed) == ("200", None)
    ((_, _, head),) = upstream.requests
    sent = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:-2]}
    assert sent.isdisjoint({b"x-fal-endpoint", b"x-http-method-override"})


# By bodies

BODIES = {
    "a token for nothing": ("/tokens/", b"{}"),
    "a token for another app": ("/tokens/", b'{"allowed_apps": ["sd", "veo3"]}'),
    "a token by a repeated key": (
        "/tokens/",
        b'{"allowed_apps": ["veo3"], "allowed_apps": ["sd"]}',
    ),
    "a token by another key": ("/tokens/", b'{"allowed_apps": ["sd"], "scopes": ["admin"]}'),
    "a token in another encoding": ("/tokens/", '{"allowed_apps": ["sd"]}'.encode("utf-16")),
    "a token beyond the first piece": (
        "/tokens/",
        b'{"allowed_apps": ["sd"]}' + b" " * 70_000 + b',"allowed_apps": ["veo3"]}',
    ),
    "a session with nothing": ("/session", b'{"sdp": "v=0", "type": "offer"}'),
    "a session with another endpoint": ("/session", b'{"app_id": "fal-ai/veo3"}'),
    "a session by another key": (
        "/session",
        b'{"app_id": "fal-ai/flux/dev", "allowed_apps": ["veo3"]}',
    ),
    "another way to open a session": ("/ice", b'{"app_id": "fal-ai/veo3"}'),
}


@pytest.mark.parametrize(("path", "content"), BODIES.values(), ids=BODIES)
def test_allowlist_sends_no_other_body(upstream: Upstream, path: str, content: bytes) -> None:
    for options in (EXACT, WILD, BOTH):
        origin = REST if path == "/tokens/" else WMA
        assert upstream.call(options, "POST", origin + path, content)[0] == "412"
        assert upstream.requests == []


def test_allowlist_sends_a_token_request_for_what_is_allowed(upstream: Upstream) -> None:
    content = b'{"allowed_apps": ["sd"], "token_expiration": 120}'
    assert upstream.call(WILD, "POST", f"{REST}/tokens/", content) == ("200", None)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        ({"CONTENT_TYPE": "text/plain"}, ("415", "unsupported_media_type")),
        ({"CONTENT_TYPE": "application/json; charset=utf-7"}, ("412", "body_ambiguous")),
        ({"CONTENT_LENGTH": "x"}, ("400", "content_length_invalid")),
        ({"CONTENT_LENGTH": "50"}, ("400", "body_incomplete")),
    ],
)
def test_allowlist_sends_no_body_that_it_cannot_read(
    upstream: Upstream, environ: dict[str, str], answer: tuple[str, str]
) -> None:
    content = b'{"allowed_apps": ["sd"]}'
    assert upstream.call(WILD, "POST", f"{REST}/tokens/", content, **environ) == answer
    assert upstream.requests == []


def test_allowlist_refusal_reads_the_body_so_that_the_next_request_is_in_step(
    upstream: Upstream,
) -> None:
    for target in (VEO, f"{REST}/tokens/"):
        content = io.BytesIO(b"{" + b" " * 100_000 + b"}next")
        environ: dict[str, Any] = {"wsgi.input": content, "CONTENT_LENGTH": "100002"}
        assert upstream.call(EXACT, "POST", target, **environ)[0] == "412"
        assert content.read() == b"next"
        assert upstream.requests == []


# Whatever the target

PATTERNS = [ENDPOINT, "fal-ai/flux/*", "*/sd/**", "**/preview", "workflows/me/*", "me/l*a/x"]
_parts = st.sampled_from(
    [
        *(
            "fal-ai",
            "flux",
            "dev",
            "me",
            "sd",
            "preview",
            "lora",
            "x",
            "veo3",
            "workflows",
            "comfy",
        ),
        *(
            "requests",
            "1",
            "status",
            "cancel",
            "tokens",
            "session",
            "storage",
            "upload",
            "initiate",
        ),
        *("", ".", "..", "...", "%2e", "..;", ";x", "fl%75x", "*", "**", "Dev", "a:b", "heartbeat"),
    ]
) | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=4)
_targets = st.builds(
    "https://{}{}{}".format,
    st.sampled_from(
        ["fal.run", "queue.fal.run", "FAL.run:443", "rest.fal.ai", "wma.fal.run", "x.fal.run"]
    ),
    st.lists(_parts, max_size=7).map(lambda parts: "".join(f"/{part}" for part in parts)),
    st.sampled_from(["", "/", "?", "?a=/fal-ai/flux/dev", "?logs=1"]),
)
FREE_POSTS = {
    ("rest.fal.ai", "/storage/upload/initiate"),
    ("wma.fal.run", "/session/heartbeat"),
}


def is_free(method: str, host: str, path: str) -> bool:
    """Tell from the request that arrived, without a regular expression."""
    segments = path.split("/")[1:]
    in_namespace = segments[0] in NAMESPACES
    is_clear = in_namespace or segments[0].lower() not in NAMESPACES
    segments = segments[in_namespace:]
    if host == "queue.fal.run" and is_clear and segments[2:3] == ["requests"] and len(segments) > 3:
        ask = segments[4:]
        if method == "GET":
            return ask in ([], ["status"], ["status", "stream"], ["response"])
        return method == "PUT" and ask == ["cancel"]
    return method == "POST" and (host, path) in FREE_POSTS


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(method=st.sampled_from(["GET", "POST", "PUT"]), target=_targets)
@example(method="POST", target=RUN)
@example(method="GET", target="https://fal.run/me/sd")
@example(method="POST", target="https://queue.fal.run/workflows/me/x/")
@example(method="GET", target="https://queue.fal.run/a/b/requests/1/status?logs=1")
@example(method="PUT", target="https://queue.fal.run/comfy/a/b/requests/1/cancel")
@example(method="POST", target="https://rest.fal.ai/storage/upload/initiate?a=b")
@example(method="PUT", target="https://queue.fal.run/workflows/a/requests/b/cancel")
@example(method="GET", target="https://queue.fal.run/Comfy/a/b/requests/preview")
@example(method="GET", target="https://queue.fal.run/comfy/a/requests/b")
def test_allowlist_lets_arrive_only_what_is_free_or_named(
    upstream: Upstream, method: str, target: str
) -> None:
    status, _ = upstream.call({"allowed_endpoints": PATTERNS}, method, target, b"{}")
    if status != "200":
        assert upstream.requests == []
        return
    ((line, host, _),) = upstream.requests
    sent_method, request_target, _ = line.split(" ")
    path = request_target.partition("?")[0]
    assert sent_method == method
    if not is_free(method, host, path):
        assert host in ("fal.run", "queue.fal.run")
        assert any(matches(pattern, path[1:].removesuffix("/")) for pattern in PATTERNS)
