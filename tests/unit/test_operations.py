"""What a request asks of fal: only what is surely free is free."""

from __future__ import annotations

import pytest

from wsgi_fal_proxy._fal.operations import Kind, Operation, operation_of
from wsgi_fal_proxy._fal.target import Target

QUEUE = "https://queue.fal.run"
REST = "https://rest.fal.ai"
WMA = "https://wma.fal.run"


def asked(method: str, url: str) -> Operation:
    return operation_of(method, Target.parse(url))


@pytest.mark.parametrize(
    ("method", "url", "kind", "endpoint"),
    [
        ("GET", f"{QUEUE}/fal-ai/flux/requests/1", Kind.POLL, "fal-ai/flux"),
        ("GET", f"{QUEUE}/fal-ai/flux/requests/1/status?logs=1", Kind.POLL, "fal-ai/flux"),
        ("GET", f"{QUEUE}/fal-ai/flux/requests/1/status/stream", Kind.POLL, "fal-ai/flux"),
        ("GET", f"{QUEUE}/fal-ai/flux/requests/1/response", Kind.POLL, "fal-ai/flux"),
        ("GET", f"{QUEUE}/workflows/me/mine/requests/1/status", Kind.POLL, "workflows/me/mine"),
        ("GET", f"{QUEUE}/comfy/me/mine/requests/1", Kind.POLL, "comfy/me/mine"),
        ("PUT", f"{QUEUE}/fal-ai/flux/requests/1/cancel", Kind.CANCEL, "fal-ai/flux"),
        ("PUT", f"{QUEUE}/workflows/me/a/requests/1/cancel", Kind.CANCEL, "workflows/me/a"),
        ("POST", f"{REST}/storage/upload/initiate", Kind.UPLOAD, None),
        ("POST", f"{REST}/storage/upload/initiate?storage_type=x", Kind.UPLOAD, None),
        ("POST", f"{REST}/storage/upload/initiate-multipart", Kind.UPLOAD, None),
        ("POST", f"{REST}/storage/upload/complete-multipart", Kind.UPLOAD, None),
        ("POST", "https://rest.alpha.fal.ai/storage/upload/initiate", Kind.UPLOAD, None),
        ("POST", f"{WMA}/session/heartbeat", Kind.SIGNAL, None),
    ],
)
def test_operation_is_free(method: str, url: str, kind: Kind, endpoint: str | None) -> None:
    assert asked(method, url) == Operation(kind, endpoint)
    assert not asked(method, url).spends


@pytest.mark.parametrize(
    ("method", "url", "kind", "endpoint"),
    [
        ("POST", "https://fal.run/fal-ai/flux/dev", Kind.RUN, "fal-ai/flux/dev"),
        ("POST", "https://fal.run/fal-ai/flux/dev/", Kind.RUN, "fal-ai/flux/dev"),
        ("GET", "https://fal.run/fal-ai/flux/dev?a=b", Kind.RUN, "fal-ai/flux/dev"),
        ("POST", "https://fal.run//fal-ai/flux//", Kind.RUN, "/fal-ai/flux/"),
        ("POST", f"{QUEUE}/fal-ai/flux/dev?fal_webhook=x", Kind.RUN, "fal-ai/flux/dev"),
        ("POST", "https://fal.run/", Kind.RUN, None),
        ("POST", f"{QUEUE}/a/b/requests/1", Kind.RUN, "a/b/requests/1"),
        ("POST", f"{QUEUE}/a/b/requests/1/status", Kind.RUN, "a/b/requests/1/status"),
        ("POST", f"{QUEUE}/a/b/requests/1/cancel", Kind.RUN, "a/b/requests/1/cancel"),
        ("GET", f"{QUEUE}/a/b/requests/1/cancel", Kind.RUN, "a/b/requests/1/cancel"),
        ("GET", f"{QUEUE}/a/b/requests/1/run", Kind.RUN, "a/b/requests/1/run"),
        ("GET", f"{QUEUE}/a/b/c/requests/1", Kind.RUN, "a/b/c/requests/1"),
        ("GET", f"{QUEUE}/a/b/requests/..", Kind.RUN, "a/b/requests/.."),
        ("GET", f"{QUEUE}/a/b/requests/%2e", Kind.RUN, "a/b/requests/%2e"),
        ("GET", "https://fal.run/a/b/requests/1", Kind.RUN, "a/b/requests/1"),
        # Else the workflow "requests" of the owner "me" would be free.
        ("GET", f"{QUEUE}/workflows/me/requests/x", Kind.RUN, "workflows/me/requests/x"),
        ("GET", f"{QUEUE}/Workflows/me/a/requests/1", Kind.RUN, "Workflows/me/a/requests/1"),
        ("GET", f"{QUEUE}/Comfy/me/requests/x", Kind.RUN, "Comfy/me/requests/x"),
        (
            "PUT",
            f"{QUEUE}/workflows/a/requests/b/cancel",
            Kind.RUN,
            "workflows/a/requests/b/cancel",
        ),
        ("PUT", f"{QUEUE}/a/b/requests/1/status", Kind.RUN, "a/b/requests/1/status"),
        ("POST", f"{REST}/tokens/", Kind.TOKEN, None),
        ("POST", f"{REST}/tokens", Kind.TOKEN, None),
        ("POST", "https://rest.alpha.fal.ai/tokens/", Kind.TOKEN, None),
        ("POST", f"{REST}/tokens/?allowed_apps=veo3", Kind.OTHER, None),
        ("POST", f"{REST}/tokens/realtime", Kind.OTHER, None),
        ("GET", f"{REST}/tokens/", Kind.OTHER, None),
        ("GET", f"{REST}/storage/upload/initiate", Kind.OTHER, None),
        ("POST", f"{REST}/storage/upload/initiate/", Kind.OTHER, None),
        ("POST", f"{REST}/storage/upload/other", Kind.OTHER, None),
        ("POST", "https://api.fal.ai/storage/upload/initiate", Kind.OTHER, None),
        ("POST", f"{WMA}/session", Kind.SESSION, None),
        ("POST", f"{WMA}/ice", Kind.SESSION, None),
        ("POST", f"{WMA}/session?app_id=x", Kind.OTHER, None),
        ("GET", f"{WMA}/session", Kind.OTHER, None),
        ("GET", f"{WMA}/session/heartbeat", Kind.OTHER, None),
        ("POST", f"{WMA}/session/heartbeat?x", Kind.OTHER, None),
        ("POST", f"{WMA}/fal-ai/flux", Kind.OTHER, None),
        ("POST", "https://wma.fal.ai/session", Kind.OTHER, None),
        ("POST", "https://fal.ai/fal-ai/flux", Kind.OTHER, None),
        ("POST", "https://1-flux.gateway.alpha.fal.ai/", Kind.OTHER, None),
        ("GET", "https://anything.fal.run/fal-ai/flux", Kind.OTHER, None),
    ],
)
def test_operation_may_spend(method: str, url: str, kind: Kind, endpoint: str | None) -> None:
    assert asked(method, url) == Operation(kind, endpoint)
    assert asked(method, url).spends
