"""Ways to run what the owner has not allowed: the allowlist refuses each.

`tests/wire/test_allowlist_bypass.py` shows of each class that nothing is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.allowlists import check
from tests.support.environs import answer_to
from wsgi_fal_proxy import STRICT_URLS, FalProxy
from wsgi_fal_proxy._fal.headers import request_headers
from wsgi_fal_proxy._policy.allowlist import Allowlist
from wsgi_fal_proxy.errors import Refusal

if TYPE_CHECKING:
    from tests.support.network import NetworkGuard

ENDPOINT = "fal-ai/flux/dev"
RUN = f"https://fal.run/{ENDPOINT}"
VEO = "https://fal.run/fal-ai/veo3"
REST = "https://rest.fal.ai"
WMA = "https://wma.fal.run"
# Three kinds of lists: one name, wildcards, and both options.
EXACT = Allowlist(None, [ENDPOINT])
WILD = Allowlist(None, ["fal-ai/flux/*", "*/lora/train", "*/sd/**", "**/preview"])
BOTH = Allowlist(STRICT_URLS, [ENDPOINT])


def refuses(allowlist: Allowlist, method: str, url: str, content: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        check(allowlist, method, url, content)
    assert caught.value.status.startswith("412 ")


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
def test_allowlist_refuses_every_other_path(host: str, path: str) -> None:
    for allowlist in (EXACT, WILD, BOTH):
        for method in ("GET", "POST"):
            if allowlist is not WILD or not passes_wild(path):
                refuses(allowlist, method, f"https://{host}{path}", b"{}")


TARGETS = [
    # A namespace that may be none.
    *(f"https://queue.fal.run/{name}/a/b/requests/1" for name in ("Workflows", "COMFY", "comfY")),
    # Not one target, or not one of fal's.
    *("x", RUN.removeprefix("https://"), RUN.replace("https", "http")),
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
def test_allowlist_refuses_every_other_target(method: str, target: str) -> None:
    for allowlist in (EXACT, WILD, BOTH):
        refuses(allowlist, method, target, b'{"allowed_apps": ["x"]}')


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
def test_allowlist_refuses_every_token_for_more(path: str, content: bytes) -> None:
    for allowlist in (EXACT, WILD, BOTH):
        for host in ("rest.fal.ai", "rest.alpha.fal.ai"):
            refuses(allowlist, "POST", f"https://{host}{path}", content)


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
def test_allowlist_refuses_every_session_with_another(path: str, content: bytes) -> None:
    for allowlist in (EXACT, WILD, BOTH):
        refuses(allowlist, "POST", WMA + path, content)


# Round the allowlist

PROXY = FalProxy(key="k", allowed_endpoints=[ENDPOINT])


def refusal(method: str, target: str, **environ: Any) -> tuple[str, str]:
    asked = {"REQUEST_METHOD": method, "HTTP_X_FAL_TARGET_URL": target}
    status, headers, _ = answer_to(PROXY, **asked, **environ)
    return status[:3], headers["x-fal-proxy-error"]


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
        # A workflow that is called requests is not cancelled into running.
        *(
            ("PUT", f"https://queue.fal.run/{namespace}/me/requests/x/cancel")
            for namespace in ("workflows", "comfy", "Workflows")
        ),
    ],
)
def test_proxy_refuses_every_other_method(network: NetworkGuard, method: str, target: str) -> None:
    assert refusal(method, target) == ("405", "method_not_allowed")
    assert network.dialled == []


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
def test_allowlist_is_not_passed_by_another_header(
    network: NetworkGuard, spoofed: dict[str, str]
) -> None:
    for target in (VEO, "https://queue.fal.run/fal-ai/veo3", f"{REST}/tokens/realtime"):
        assert refusal("POST", target, **spoofed) == ("412", "endpoint_not_allowed")
    assert network.dialled == []


@pytest.mark.parametrize(
    ("key", "value"),
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
def test_request_headers_narrowed_drop_every_header_that_might_choose_what_is_run(
    key: str, value: str
) -> None:
    def sent(environ: dict[str, str]) -> list[tuple[str, str]]:
        return request_headers(
            environ,
            host="fal.run",
            authorization="Key k",
            forwarded=frozenset(),
            narrowed=True,
        )

    assert sent({key: value}) == sent({})
