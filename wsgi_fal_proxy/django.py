"""The relay as a Django view, behind what Django does around a view: sessions, users, decorators.

    from wsgi_fal_proxy.django import fal_view, signed_in

    urlpatterns = [path("api/fal/proxy", fal_view(authorize=signed_in))]

To answer in front of Django instead, wrap its application: see `FalProxyMiddleware`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Unpack

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIRequest
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt
from werkzeug.test import run_wsgi_app

from wsgi_fal_proxy._core.proxy import FalProxy
from wsgi_fal_proxy._policy.authorize import Allow, Refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_fal_proxy._fal.request import FalRequest
    from wsgi_fal_proxy._settings.options import Options

_REQUEST: Final = "wsgi_fal_proxy.django.request"


def fal_view(**options: Unpack[Options]) -> Callable[..., StreamingHttpResponse]:
    """Make a view that relays, for a path of your choice.

    It is exempt from CSRF tokens, which fal's client does not send (nor can a form on another site
    send the header that it does), and from `ATOMIC_REQUESTS`, so that no transaction is held while
    fal works. A decorator that uses `functools.wraps`, as Django's own do, keeps both.

    fal's cookies go into Django's own jar; any other header that fal repeats is joined by commas
    (RFC 9110 section 5.3), since Django has one of each.

    Args:
        **options: Those of `FalProxy`.

    Returns:
        The view. What its URL pattern captures is of no account to it. It raises
        `ImproperlyConfigured` when Django is not served by WSGI.

    Raises:
        SettingsError: An option is unknown, or its value cannot be used.
    """
    proxy = FalProxy(**options)

    def view(request: HttpRequest, *args: object, **kwargs: object) -> StreamingHttpResponse:
        if not isinstance(request, WSGIRequest):
            raise ImproperlyConfigured(
                "fal_view needs Django to be served by WSGI (wsgi.py), and this is ASGI: "
                "serve fal's path by a process of its own, such as gunicorn wsgi_fal_proxy.wsgi"
            )
        # Of a WSGIRequest, META is the WSGI environ itself.
        environ = {**request.META, _REQUEST: request}
        content, status, headers = run_wsgi_app(proxy, environ)
        return _response(content, status, headers.to_wsgi_list())

    exempt: Callable[..., StreamingHttpResponse] = csrf_exempt(non_atomic_requests(view))
    return exempt


def django_request(request: FalRequest) -> HttpRequest:
    """Give Django's request, in an `authorize` of yours that serves a `fal_view`."""
    of_django: HttpRequest = request.environ[_REQUEST]
    return of_django


def signed_in(request: FalRequest) -> Allow | Refuse:
    """Serve Django's users: a value for the option `authorize` of `fal_view`.

    The identity is the user's primary key. Who is not signed in is answered 401, where
    `login_required` would send fal's client to a page. It needs
    `django.contrib.auth.middleware.AuthenticationMiddleware`.
    """
    user = django_request(request).user
    return Allow(identity=str(user.pk)) if user.is_authenticated else Refuse(401, "Sign in first.")


def _response(
    content: Iterable[bytes], status: str, headers: Iterable[tuple[str, str]]
) -> StreamingHttpResponse:
    code, _, phrase = status.partition(" ")
    response = StreamingHttpResponse(content, status=int(code), reason=phrase)
    # Django's own guess, which fal's answer overrules or does without.
    del response["Content-Type"]
    for name, value in headers:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response[name] = f"{response[name]}, {value}" if name in response else value
    return response
