"""`config.include("wsgi_fal_proxy.pyramid")`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import webtest
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import Allowed, Denied

from wsgi_fal_proxy import KeyFile, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from pyramid.request import Request

    from wsgi_fal_proxy import CallRecord
    from wsgi_fal_proxy.testing import FakeFal

TO_FAL = {"x-fal-target-url": "https://fal.run/fal-ai/flux/dev"}


class OnlyWith:
    """Permits whoever says in a header that they may do it."""

    def __init__(self, user: object = None) -> None:
        self._user = user

    def authenticated_userid(self, request: Request) -> object:
        return self._user

    def permits(self, request: Request, context: object, permission: str) -> Allowed | Denied:
        given = request.headers.get("X-May") == permission
        return Allowed("said so") if given else Denied("did not say so")


def app_of(
    settings: dict[str, Any], *, route_prefix: str | None = None, policy: OnlyWith | None = None
) -> webtest.TestApp:
    with Configurator(settings=settings) as config:
        config.set_security_policy(policy or OnlyWith())
        config.set_default_csrf_options(require_csrf=True)
        config.include("wsgi_fal_proxy.pyramid", route_prefix=route_prefix)
        config.add_notfound_view(lambda request: Response("of the app", status=404))
        return webtest.TestApp(config.make_wsgi_app(), lint=True)


@pytest.mark.parametrize("path", ["/api/fal/proxy", "/api/fal/proxy/", "/api/fal/proxy/below/x"])
def test_pyramid_answers_at_the_prefix_and_below(path: str) -> None:
    assert app_of({}).post(path, status=400).json["reason"] == "target_missing"


def test_pyramid_leaves_what_only_begins_like_the_prefix() -> None:
    assert app_of({}).post("/api/fal/proxyfoo", status=404).text == "of the app"


def test_pyramid_relays(fal: FakeFal) -> None:
    app = app_of({"fal_proxy.key": fal.key, "fal_proxy.pool_manager": fal.pool_manager()})

    answer = app.post_json("/api/fal/proxy", {"prompt": "a fox"}, headers=TO_FAL)

    assert answer.json["prompt"] == "a fox"
    assert len(fal.requests) == 1


def test_pyramid_asks_for_the_permission(fal: FakeFal) -> None:
    app = app_of(
        {
            "fal_proxy.key": fal.key,
            "fal_proxy.pool_manager": fal.pool_manager(),
            "fal_proxy.permission": "spend",
        }
    )

    app.post_json("/api/fal/proxy", {"prompt": "a fox"}, headers=TO_FAL, status=403)
    assert fal.requests == []
    headers = {**TO_FAL, "X-May": "spend"}
    app.post_json("/api/fal/proxy", {"prompt": "a fox"}, headers=headers, status=200)


@pytest.mark.parametrize(("user", "identity"), [("ada", "ada"), (7, "7"), (None, None)])
def test_pyramid_takes_the_user_for_the_identity(user: object, identity: str | None) -> None:
    records: list[CallRecord] = []
    app = app_of(
        {"fal_proxy.permission": "spend", "fal_proxy.observer": records.append},
        policy=OnlyWith(user),
    )

    app.get("/api/fal/proxy", headers={**TO_FAL, "X-May": "spend"}, status=500)

    assert [record.identity for record in records] == [identity]


def test_pyramid_reads_text_as_in_an_ini_file(tmp_path: Path) -> None:
    settings = {
        "fal_proxy.prefix": "/fal",
        "fal_proxy.max_body_bytes": "4",
        "fal_proxy.key_file": str(tmp_path / "key"),
        "pyramid.reload_templates": "true",
    }
    app = app_of(settings, route_prefix="/v1")

    answer = app.post_json("/v1/fal", {"prompt": "a fox"}, headers=TO_FAL, status=413)
    assert "4 bytes" in answer.json["detail"]
    assert app.get("/v1/fal", headers=TO_FAL, status=500).json["reason"] == "key_missing"


def test_pyramid_takes_what_is_no_text_as_it_is(tmp_path: Path) -> None:
    app = app_of({"fal_proxy.key": KeyFile(tmp_path / "key"), "fal_proxy.read_timeout": None})

    assert app.get("/api/fal/proxy", headers=TO_FAL, status=500).json["reason"] == "key_missing"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("read_timeouts", "5", "did you mean read_timeout?"),
        ("read_timeout", "5s", "read_timeout='5s' cannot be used: it must be a number of seconds"),
        ("read_timeout", True, "read_timeout=True cannot be used: it must be a number of seconds"),
        ("max_bodies", 5, "there is no such option"),
        ("prefix", 5, "prefix=5 cannot be used: it must be a path"),
        ("prefix", "fal", "prefix='fal' cannot be used: it must be a path"),
    ],
)
def test_pyramid_refuses_what_cannot_be_used(name: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        app_of({f"fal_proxy.{name}": value})

    assert message in str(caught.value)
