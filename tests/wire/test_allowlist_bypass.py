"""Ways to run what the owner has not allowed, each through the whole proxy: nothing is sent."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.raw_server import Connection, RawServer, close_connections
from tests.unit.test_globs import NAMESPACES, matches
from tests.wire.test_relay import answer_to
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
        self._proxies: dict[str, FalProxy] = {}

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
        if name not in self._proxies:
            self._proxies[name] = FalProxy(key="k", pool_manager=self.manager, **options)
        declared = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(content))}
        full = {"REQUEST_METHOD": method, "HTTP_X_FAL_TARGET_URL": target, **declared, **environ}
        status, headers, _ = answer_to(
            self._proxies[name], **{"wsgi.input": io.BytesIO(content), **full}
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
        close_connections(upstream.manager)


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
def test_what_is_allowed_arrives(
    upstream: Upstream, options: dict[str, Any], method: str, target: str
) -> None:
    assert upstream.call(options, method, target) == ("200", None)
    ((line, host, _),) = upstream.requests
    assert line == f"{method} {target.removeprefix(f'https://{host}')} HTTP/1.1"


PATHS = [
    # Other endpoints, near and far.
    *("/fal-ai/veo3", "/fal-ai/flux", "/fal-ai", "/", "/flux/dev", "/dev", "/fal-ai/flux-dev"),
    *("/fal-ai/flux/dev2", "/fal-ai/flux/de", "/fal-ai/fluxx/dev", "/xfal-ai/flux/dev"),
    *("/fal-ai/flux.dev", "/fal-ai.flux/dev", "/fal-ai-flux-dev", "/fal_ai/flux/dev"),
    *("/evil/fal-ai/flux/dev", "/fal.run/fal-ai/flux/dev", "/evil/flux/dev", "/dev/flux/fal-ai"),
    *("/110602490-flux", "/110602490-flux/dev", "/110602490/flux/dev", "/@fal-ai/flux/dev"),
    # Subpaths.
    *("/fal-ai/flux/dev/stream", "/fal-ai/flux/dev/realtime", "/fal-ai/flux/dev/ws"),
    *("/fal-ai/flux/dev/requests/1", "/fal-ai/flux/dev/image-to-image", "/fal-ai/flux/dev/ice"),
    # Namespaces.
    *("/workflows/fal-ai/flux/dev", "/workflows/execute", "/workflows/fal-ai/flux"),
    *("/comfy/fal-ai/flux/dev", "/comfy/fal-ai/flux", "/workflows/lora/train", "/comfy/lora/train"),
    *("/Workflows/lora/train", "/COMFY/lora/train", "/workflows/sd", "/workflows/sd/x"),
    *("/workflows/me/preview", "/comfy/me/preview", "/workflows/preview"),
    # Case.
    *("/FAL-AI/flux/dev", "/fal-ai/Flux/dev", "/fal-ai/flux/DEV", "/Fal-Ai/Flux/Dev"),
    # Empty segments.
    *("//fal-ai/flux/dev", "/fal-ai//flux/dev", "/fal-ai/flux//dev", "/fal-ai/flux/dev//"),
    *("///", "/fal-ai/veo3//fal-ai/flux/dev", "//fal.run/fal-ai/veo3"),
    # Dot segments.
    *("/fal-ai/flux/../veo3", "/fal-ai/flux/dev/..", "/fal-ai/flux/dev/../../veo3"),
    *("/../fal-ai/flux/dev", "/./fal-ai/flux/dev", "/fal-ai/./flux/dev", "/fal-ai/flux/dev/."),
    *("/fal-ai/veo3/../flux/dev", "/fal-ai/flux/dev/../../../evil/app", "/fal-ai/flux/..."),
    *("/fal-ai/flux/.../dev", "/fal-ai/sd/../veo3", "/me/sd/..", "/me/sd/../../fal-ai/veo3"),
    # Path parameters, which some servers cut off before they look at dots.
    *("/fal-ai/flux/dev;", "/fal-ai/flux/dev;x=y", "/fal-ai;x/flux/dev", "/fal-ai/flux/..;/veo3"),
    *("/fal-ai/flux/..;x=/veo3", "/;/fal-ai/flux/dev", "/fal-ai/flux/.;/dev", "/fal-ai/veo3;/flux"),
    # Encodings.
    *("/fal-ai/flux/%2e%2e/veo3", "/fal-ai/flux/%2E%2E/veo3", "/fal-ai/flux/.%2e/veo3"),
    *("/fal-ai/flux/%2e./veo3", "/fal-ai/flux/%252e%252e/veo3", "/fal-ai/flux/%25252e./veo3"),
    *("/fal-ai%2fflux%2fdev", "/fal-ai/flux%2Fdev", "/fal-ai/flux/dev%2f..%2f..%2fveo3"),
    *("/fal-ai/flux/..%2fveo3", "/fal-ai/flux/dev%252f", "/fal-ai/flux/..%5cveo3"),
    *("/fal-ai/flux/%5c..%5cveo3", "/fal-ai/flux/%5C", "/fal-ai/fl%75x/dev", "/%66al-ai/flux/dev"),
    *(
        "/fal-ai/flux/d%65v",
        "/fal-ai/flux/%64%65%76",
        "/fal-ai/fl%2575x/dev",
        "/fal-ai/flux/dev%00",
    ),
    *(
        "/fal-ai/flux/dev%20",
        "/fal-ai/flux/dev%09",
        "/fal-ai/flux/dev%0a",
        "/fal-ai/flux/dev%0d%0a",
    ),
    *("/fal-ai/flux/dev%3fx", "/fal-ai/flux/dev%23", "/fal-ai/flux/dev%3b", "/fal-ai/flux/%u002e"),
    *("/fal-ai/flux/%c0%ae%c0%ae/veo3", "/fal-ai/flux/%ef%bc%8e%ef%bc%8e/veo3", "/fal-ai/flux/%"),
    *("/fal-ai/flux/%zz", "/fal-ai/flux/%2", "/fal-ai/%2a", "/%2f%2ffal-ai/flux/dev"),
    # What the list itself is written with, and other patterns.
    *("/*/flux/dev", "/**", "/fal-ai/*/dev", "/fal-ai/**", "/fal-ai/flux/*", "/fal-ai/flux/{dev}"),
    *("/fal-ai/flux/[d]ev", "/fal-ai/flux/dev|x", "/(fal-ai)/flux/dev", "/!fal-ai/flux/dev"),
    # Characters that are no part of a target at all.
    *("/fal-ai/flux/dev\t", "/fal-ai/flux/dev ", "/fal-ai/flux\\dev", "/fal-ai/flux/..\\veo3"),
    *(
        "/fal-ai/flux/dev\n",
        "/fal-ai/flux/dev\r\nX: y",
        "/fal-ai/flux/dev\x00",
        "/fal-ai/flux/dev#",
    ),
    *("/fal-ai/veo3#/fal-ai/flux/dev", "/fal-ai/fl\u00fcx/dev", "/fal-ai/flux/dev\x7f", "/a,b"),
    # The endpoint that is allowed stands elsewhere.
    *("?/fal-ai/flux/dev", "/?fal-ai/flux/dev", "/fal-ai/veo3?/fal-ai/flux/dev"),
    *("/fal-ai/veo3?endpoint=fal-ai/flux/dev", "/fal-ai/veo3??", "/fal-ai/veo3/fal-ai/flux/dev"),
    *("", "?", "/?"),
]


def passes_wild(path: str) -> bool:
    """Whether the list with wildcards names this one, as it is meant to."""
    return path in {"/fal-ai/flux/dev2", "/fal-ai/flux/de", "/fal-ai/flux/DEV"}


@pytest.mark.parametrize("host", ["fal.run", "queue.fal.run"])
@pytest.mark.parametrize("path", PATHS)
def test_no_other_path_is_sent(
    upstream: Upstream, network: NetworkGuard, host: str, path: str
) -> None:
    for options in (EXACT, WILD, BOTH):
        for method in ("GET", "POST"):
            if options is WILD and passes_wild(path):
                continue
            status, reason = upstream.call(options, method, f"https://{host}{path}", b"{}")
            assert (status, reason is not None) == ("412", True)
            assert upstream.requests == []
    assert network.lookups == []


TARGETS = [
    # A namespace that may be none.
    *(f"https://queue.fal.run/{name}/a/b/requests/1" for name in ("Workflows", "COMFY", "comfY")),
    # Not one target, or not one of fal's.
    *("", " ", "x", RUN.removeprefix("https://"), RUN.replace("https", "http")),
    *(
        f"{RUN},{VEO}",
        f"{VEO},{RUN}",
        f"{RUN}, {VEO}",
        f"{RUN};{VEO}",
        f"{RUN} {VEO}",
        f"{VEO}?,{RUN}",
    ),
    *(f"{RUN}\r\nx-fal-target-url: {VEO}", f"https://fal.run@evil.example/{ENDPOINT}"),
    *(f"https://evil.example\\.fal.run/{ENDPOINT}", f"https://fal.run:444/{ENDPOINT}"),
    *(f"https://fal.run.evil.example/{ENDPOINT}", f"https://fal.run./{ENDPOINT}"),
    # Other hosts, that may run it as well.
    *(
        f"https://{host}/{ENDPOINT}"
        for host in ("fal.ai", "rest.fal.ai", "wma.fal.run", "ws.fal.run")
    ),
    *(
        f"https://{host}/{ENDPOINT}"
        for host in ("api.fal.ai", "gateway.alpha.fal.ai", "x.queue.fal.run")
    ),
    *(f"https://{host}/{ENDPOINT}" for host in ("queue.fal.ai", "alpha.fal.run", "sync.fal.run")),
    *("https://110602490-flux.gateway.alpha.fal.ai/", "https://fal.ai/", "https://rest.fal.ai/"),
    *(f"{REST}/workflows/execute", f"{REST}/users/me/keys", f"{REST}/billing/user_balance"),
    *("https://api.fal.ai/v1/models", "https://api.fal.ai/v1/keys", "https://fal.ai/api/run"),
    # The queue's own paths, where they are not free.
    *(
        "https://queue.fal.run/fal-ai/veo3/requests/1/run",
        "https://queue.fal.run/fal-ai/veo3/requests",
    ),
    *(
        "https://queue.fal.run/fal-ai/veo3/requests/1/status/x",
        "https://queue.fal.run/a/b/c/requests/1",
    ),
    *(
        "https://queue.fal.run/fal-ai/veo3/requests/",
        "https://queue.fal.run/fal-ai/veo3/Requests/1",
    ),
    *("https://queue.fal.run/fal-ai/requests/1/status", "https://queue.fal.run/requests/1/status"),
    *("https://queue.fal.run/fal-ai/veo3/requests/../x", "https://queue.fal.run/a/b/requests/1;/x"),
    *(
        "https://queue.fal.run/fal-ai/veo3/requests/1/..",
        "https://queue.fal.run/a/b/requests/%2e%2e",
    ),
    *(
        "https://queue.fal.run/fal-ai/veo3/requests//status",
        "https://queue.fal.run/a/b/requests/1/status/",
    ),
    *(
        "https://queue.fal.run/workflows/me/requests/x",
        "https://queue.fal.run/comfy/me/requests/x/status",
    ),
    *(
        "https://queue.fal.run/Workflows/me/requests/x",
        "https://fal.run/fal-ai/veo3/requests/1/status",
    ),
    # Near what is free on the other hosts.
    *(
        f"{REST}/storage/upload",
        f"{REST}/storage/upload/initiate/x",
        f"{REST}/storage/upload/initiate/",
    ),
    *(f"{REST}/Storage/upload/initiate", f"{REST}//storage/upload/initiate", f"{REST}/storage"),
    *(f"{REST}/storage/upload/../../tokens/", f"{REST}/storage/upload/initiate;/../../tokens"),
    *(
        f"{REST}/tokens/x",
        f"{REST}/tokens//",
        f"{REST}/Tokens/",
        f"{REST}/tokens;",
        f"{REST}/%74okens/",
    ),
    *(
        f"{REST}/tokens/?allowed_apps=flux",
        f"{REST}/tokens?",
        f"{REST}/tokens/.",
        f"{REST}/tokens/realtime",
    ),
    *(f"{WMA}/", f"{WMA}/session/", f"{WMA}/session/x", f"{WMA}/session?app_id=x", f"{WMA}/ice/"),
    *(
        f"{WMA}/session/heartbeat/x",
        f"{WMA}/session/heartbeat?x",
        f"{WMA}/Session",
        f"{WMA}/start-session",
    ),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_other_target_is_sent(upstream: Upstream, method: str, target: str) -> None:
    for options in (EXACT, WILD, BOTH):
        status, reason = upstream.call(options, method, target, b'{"allowed_apps": ["x"]}')
        assert status == ("412" if target.strip() else "400")
        assert reason is not None
        assert upstream.requests == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *((method, VEO) for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE")),
        *((method, VEO) for method in ("post", "Get", "POST ", "CONNECT", "GETS", "")),
        ("PUT", RUN),
        ("PUT", "https://queue.fal.run/fal-ai/veo3"),
        ("PUT", "https://queue.fal.run/fal-ai/veo3/requests/1"),
        ("PUT", "https://queue.fal.run/fal-ai/veo3/requests/1/cancel?x"),
        ("PUT", "https://queue.fal.run/fal-ai/veo3/x/../requests/1/cancel"),
        ("PUT", "https://queue.fal.run/a/b/c/requests/1/cancel"),
        ("PUT", "https://fal.run/fal-ai/veo3/requests/1/cancel"),
        ("PUT", f"{REST}/tokens/"),
        ("PUT", f"{WMA}/session"),
    ],
)
def test_no_other_method_is_sent(upstream: Upstream, method: str, target: str) -> None:
    assert upstream.call(EXACT, method, target, b"{}") == ("405", "method_not_allowed")
    assert upstream.requests == []


@pytest.mark.parametrize("namespace", ["workflows", "comfy", "Workflows"])
def test_a_workflow_that_is_called_requests_is_not_cancelled_into_running(
    upstream: Upstream, namespace: str
) -> None:
    target = f"https://queue.fal.run/{namespace}/me/requests/x/cancel"
    assert upstream.call(EXACT, "PUT", target) == ("405", "method_not_allowed")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "spoofed",
    [
        {"HTTP_X_HTTP_METHOD_OVERRIDE": "GET"},
        {"HTTP_X_METHOD_OVERRIDE": "PUT"},
        {"HTTP_X_ORIGINAL_URL": "/fal-ai/flux/dev"},
        {"HTTP_X_REWRITE_URL": "/fal-ai/flux/dev"},
        {"HTTP_X_FORWARDED_HOST": "fal.run"},
        {"HTTP_X_FORWARDED_PREFIX": "/fal-ai/flux/dev"},
        {"HTTP_X_FAL_ENDPOINT": ENDPOINT},
        {"HTTP_X_FAL_TARGET": RUN},
        {"HTTP_X_FAL_TARGET_URL_": RUN},
        {"HTTP_X_FAL_CLIENT_PROXY": "@fal-ai/server-proxy"},
        {"HTTP_AUTHORIZATION": "Key x"},
        {"HTTP_HOST": "fal.run"},
        {"HTTP_CONNECTION": "x-fal-target-url"},
        {"QUERY_STRING": f"url={RUN}"},
        {"PATH_INFO": "/fal-ai/flux/dev"},
        {"REMOTE_ADDR": "127.0.0.1"},
        {"HTTP_REFERER": RUN},
    ],
    ids=lambda spoofed: next(iter(spoofed)),
)
def test_no_other_header_changes_that(upstream: Upstream, spoofed: dict[str, str]) -> None:
    for target in (VEO, "https://queue.fal.run/fal-ai/veo3", f"{REST}/tokens/realtime"):
        answer = upstream.call(EXACT, "POST", target, b"{}", **spoofed)
        assert answer == ("412", "endpoint_not_allowed")
        assert upstream.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_X_FAL_ENDPOINT", "fal-ai/veo3"),
        ("HTTP_X_FAL_APP_ID", "fal-ai/veo3"),
        ("HTTP_X_FAL_APPLICATION", "veo3"),
        ("HTTP_X_FAL_TARGET_HOST", "rest.fal.ai"),
        ("HTTP_X_FAL_CALLER_USER_ID", "someone"),
        ("HTTP_X_FAL_MACHINE_TYPE", "GPU-H100"),
        ("HTTP_X_FAL_QUEUE_PRIORITY_", "x"),
        ("HTTP_X_FAL_", "x"),
        ("HTTP_X_HTTP_METHOD_OVERRIDE", "PUT"),
        ("HTTP_X_FORWARDED_URI", "/fal-ai/veo3"),
    ],
)
def test_no_header_that_might_choose_what_is_run_is_sent(
    upstream: Upstream, name: str, value: str
) -> None:
    assert upstream.call(EXACT, "POST", RUN, b"{}", **{name: value}) == ("200", None)
    ((_, _, head),) = upstream.requests
    sent = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:-2]}
    assert name.removeprefix("HTTP_").replace("_", "-").lower().encode() not in sent


# By bodies

TOKEN_BODIES = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"allowed_apps": []}',
    b'{"allowed_apps": null}',
    b'{"allowed_apps": "flux"}',
    b'{"allowed_apps": ["veo3"]}',
    b'{"allowed_apps": ["flux"]}',
    b'{"allowed_apps": ["flux/dev"]}',
    b'{"allowed_apps": ["fal-ai/flux"]}',
    b'{"allowed_apps": ["fal-ai/flux/dev"]}',
    b'{"allowed_apps": ["fal-ai/flux/dev", "veo3"]}',
    b'{"allowed_apps": ["*"]}',
    b'{"allowed_apps": ["**"]}',
    b'{"allowed_apps": [""]}',
    b'{"allowed_apps": ["fal-ai/*"]}',
    b'{"allowed_apps": ["sd", "veo3"]}',
    b'{"allowed_apps": ["workflows/sd"]}',
    b'{"allowed_apps": ["sd/../veo3"]}',
    b'{"allowed_apps": ["sd"], "allowed_apps": ["veo3"]}',
    b'{"allowed_apps": ["veo3"], "allowed_apps": ["sd"]}',
    b'{"allowed_apps": ["sd"], "allowed\\u005fapps": ["veo3"]}',
    b'{"allowed_apps": ["sd"], "ALLOWED_APPS": ["veo3"]}',
    b'{"allowed_apps": ["sd"], "allowedApps": ["veo3"]}',
    b'{"allowed_apps": ["sd"], "scopes": ["admin"]}',
    b'{"app_id": "fal-ai/flux/dev"}',
    b'[{"allowed_apps": ["sd"]}]',
    b'\xef\xbb\xbf{"allowed_apps": ["sd"]}',
    '{"allowed_apps": ["sd"]}'.encode("utf-16"),
    b'{"allowed_apps": ["sd"], "token_expiration": NaN}',
    b'{"allowed_apps": ["sd"], "token_expiration": ' + b"[" * 60_000,
    b'{"allowed_apps": ["sd"]}' + b" " * 70_000 + b',"allowed_apps": ["veo3"]}',
    b'{"allowed_apps": ["sd"]}{"allowed_apps": ["veo3"]}',
    b"allowed_apps=sd",
]


@pytest.mark.parametrize("content", TOKEN_BODIES, ids=lambda content: repr(content[:60]))
@pytest.mark.parametrize("path", ["/tokens/", "/tokens"])
def test_no_token_for_more_is_asked_for(upstream: Upstream, path: str, content: bytes) -> None:
    for options in (EXACT, WILD, BOTH):
        for host in ("rest.fal.ai", "rest.alpha.fal.ai"):
            status, _ = upstream.call(options, "POST", f"https://{host}{path}", content)
            assert status == "412"
            assert upstream.requests == []


def test_a_token_for_what_is_allowed_is_asked_for(upstream: Upstream) -> None:
    content = b'{"allowed_apps": ["sd"], "token_expiration": 120}'
    assert upstream.call(WILD, "POST", f"{REST}/tokens/", content) == ("200", None)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"sdp": "v=0", "type": "offer"}',
        b'{"app_id": null}',
        b'{"app_id": ["fal-ai/flux/dev"]}',
        b'{"app_id": "fal-ai/veo3"}',
        b'{"app_id": "fal-ai/flux/dev/../../veo3"}',
        b'{"app_id": "fal-ai/flux/dev/"}',
        b'{"app_id": "fal-ai/flux/%64ev"}',
        b'{"app_id": "fal-ai/flux/dev "}',
        b'{"app_id": "workflows/lora/train"}',
        b'{"app_id": "fal-ai/flux/dev", "app_id": "fal-ai/veo3"}',
        b'{"app_id": "fal-ai/flux/dev", "app\\u005fid": "fal-ai/veo3"}',
        b'{"app_id": "fal-ai/flux/dev", "appId": "fal-ai/veo3"}',
        b'{"app_id": "fal-ai/flux/dev", "allowed_apps": ["veo3"]}',
        b'{"app_id": "fal-ai/flux/dev", "sdp": "' + b"x" * 70_000 + b'"}',
    ],
    ids=lambda content: repr(content[:60]),
)
@pytest.mark.parametrize("path", ["/session", "/ice"])
def test_no_session_with_another_is_opened(upstream: Upstream, path: str, content: bytes) -> None:
    for options in (EXACT, WILD, BOTH):
        assert upstream.call(options, "POST", WMA + path, content)[0] == "412"
        assert upstream.requests == []


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_no_body_that_is_not_json_is_sent(upstream: Upstream, content_type: str) -> None:
    content = b'{"allowed_apps": ["sd"]}'
    answer = upstream.call(WILD, "POST", f"{REST}/tokens/", content, CONTENT_TYPE=content_type)
    assert answer == ("415", "unsupported_media_type")
    assert upstream.requests == []


@pytest.mark.parametrize("charset", ["utf-7", "utf-16", "utf-16le", "latin-1", "utf-8, utf-7"])
def test_no_body_in_another_charset_is_sent(upstream: Upstream, charset: str) -> None:
    content_type = f'application/json; charset="{charset}"'
    content = b'{"allowed_apps": ["sd"]}'
    answer = upstream.call(WILD, "POST", f"{REST}/tokens/", content, CONTENT_TYPE=content_type)
    assert answer == ("412", "body_ambiguous")
    assert upstream.requests == []


@pytest.mark.parametrize("target", [VEO, f"{REST}/tokens/"])
@pytest.mark.parametrize("declared", ["x", "-1", "5", "1_0", "2, 2"])
def test_no_unfinished_body_is_sent(upstream: Upstream, target: str, declared: str) -> None:
    status, reason = upstream.call(EXACT, "POST", target, b"{}", CONTENT_LENGTH=declared)
    assert (status, reason is not None) == ("412" if target == VEO else "400", True)
    assert upstream.requests == []


def test_a_body_that_is_refused_is_read_so_that_the_next_request_is_in_step(
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
def test_what_arrives_is_free_or_named(upstream: Upstream, method: str, target: str) -> None:
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
