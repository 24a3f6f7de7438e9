"""`fal_view`, in a Django of this process."""

from __future__ import annotations

import sys
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import django
import pytest
import webtest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.core.wsgi import get_wsgi_application
from django.db import transaction
from django.urls import path

import wsgi_fal_proxy.__main__ as command
from tests.support.raw_server import RawServer, answering
from wsgi_fal_proxy import SettingsError
from wsgi_fal_proxy.django import _Body, fal_view, signed_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_fal_proxy import CallRecord
    from wsgi_fal_proxy.testing import FakeFal

TO_FAL = {"x-fal-target-url": "https://fal.run/fal-ai/flux/dev"}


class Urls:
    """Stands for a module of URL patterns."""

    urlpatterns: list[Any] = []  # noqa: RUF012 - Django's own name, set by each test


class User:
    """Stands for a user of Django's."""

    def __init__(self, pk: int | None) -> None:
        self.pk = pk
        self.is_authenticated = pk is not None


class Users:
    """Stands for AuthenticationMiddleware."""

    user: object = None

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        request.user = self.user
        return self._get_response(request)


@pytest.fixture(scope="module", autouse=True)
def _django() -> None:
    settings.configure(
        ALLOWED_HOSTS=["localhost"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": ":memory:",
                "ATOMIC_REQUESTS": True,
            }
        },
        MIDDLEWARE=[
            f"{__name__}.Users",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
        ROOT_URLCONF=Urls,
        SECRET_KEY="test",
    )
    django.setup()


def app_of(**options: Any) -> webtest.TestApp:
    Urls.urlpatterns = [path("fal", fal_view(**options)), path("<captured>/fal", fal_view())]
    django.urls.clear_url_caches()
    return webtest.TestApp(get_wsgi_application(), lint=True)


def test_django_view_relays_without_a_csrf_token_or_a_transaction(fal: FakeFal) -> None:
    def key(environ: dict[str, Any]) -> str:
        held.append(transaction.get_connection().in_atomic_block)
        return fal.key

    held: list[bool] = []
    app = app_of(key=key, pool_manager=fal.pool_manager())

    answer = app.post_json("/fal", {"prompt": "a fox"}, headers=TO_FAL)

    assert answer.json["prompt"] == "a fox"
    assert held == [False]


def test_django_view_ignores_captures_and_passes_its_own_answers_through() -> None:
    answer = app_of().post("/anything/fal", status=400)

    assert answer.json["reason"] == "target_missing"
    assert answer.headers["x-fal-proxy-error"] == "target_missing"


def test_django_view_keeps_headers_that_are_repeated(tmp_path: Path) -> None:
    head = (
        b"HTTP/1.1 204 Empty\r\nVary: a\r\nVary: b\r\n"
        b"Set-Cookie: a=1; Path=/; Secure\r\nSet-Cookie: b=2\r\n\r\n"
    )
    with RawServer(answering(head)) as upstream:
        app = app_of(key="k", pool_manager=upstream.pool_manager(tmp_path))
        answer = app.get("/fal", headers=TO_FAL)

    assert answer.status == "204 Empty"
    assert "Content-Type" not in answer.headers
    assert answer.headers.getall("Vary") == ["a, b"]
    cookies = answer.headers.getall("Set-Cookie")
    assert [cookie.strip() for cookie in cookies] == ["a=1; Path=/; Secure", "b=2"]


@pytest.mark.parametrize(
    ("user", "status", "identity"),
    [(User(7), 500, "7"), (User(None), 401, None)],
    ids=["user", "stranger"],
)
def test_django_view_serves_a_user_who_is_signed_in(
    user: object, status: int, identity: str | None
) -> None:
    records: list[CallRecord] = []
    app = app_of(authorize=signed_in, observer=records.append)
    Users.user = user

    answer = app.get("/fal", headers=TO_FAL, status=status)

    # There is no key: it would have been relayed.
    assert answer.json["reason"] == ("key_missing" if identity else "unauthenticated")
    assert [record.identity for record in records] == [identity]


def test_django_view_refuses_an_option_that_cannot_be_used() -> None:
    with pytest.raises(SettingsError):
        fal_view(read_timeout=0)


def test_django_view_refuses_asgi_with_what_to_do_instead() -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}

    with pytest.raises(ImproperlyConfigured, match=r"needs WSGI .* gunicorn wsgi_fal_proxy"):
        fal_view()(ASGIRequest(scope, None))


def test_command_sees_a_django_view_that_is_not_made_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_urls.py").write_text(
        "from django.urls import path\n"
        "from wsgi_fal_proxy.django import fal_view\n"
        "urlpatterns = [path('fal', fal_view())]\n"
    )
    (tmp_path / "late_wsgi.py").write_text(
        "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(settings, "ROOT_URLCONF", "late_urls")
    django.urls.clear_url_caches()

    _, has_its_own = command._import_application("late_wsgi:application")

    assert has_its_own
    django.urls.clear_url_caches()


def test_django_body_of_unknown_length_comes_from_the_server() -> None:
    server = BytesIO(b"{}")
    body = _Body(SimpleNamespace(_read_started=False))
    assert body.input({"wsgi.input": server}) is server
    chunked = {"wsgi.input": server, "CONTENT_LENGTH": "2", "HTTP_TRANSFER_ENCODING": "chunked"}
    assert body.input(chunked) is server


def test_django_body_that_was_read_is_relayed_and_kept() -> None:
    request = SimpleNamespace(_body=b"{}", body=b"{}", META={})
    body = _Body(request)
    assert body.input({"wsgi.input": BytesIO(), "CONTENT_LENGTH": "2"}).read() == b"{}"
    body.give_back(b"{}")
    assert request.META["wsgi.input"].read() == b"{}"
    assert request._body == b"{}"
