"""The relay as a Django view, with Django's sessions, users and decorators.

    from wsgi_fal_proxy.django import fal_view, signed_in

    urlpatterns = [path("api/fal/proxy", fal_view(authorize=signed_in))]

To answer in front of Django instead, wrap its application in `FalProxyMiddleware`.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Unpack

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIRequest
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt
from werkzeug.test import run_wsgi_app

from wsgi_fal_proxy._core.proxy import FalProxy
from wsgi_fal_proxy._http.request_body import BODY_HOLDER
from wsgi_fal_proxy._policy.authorize import Allow, Refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy._fal.request import FalRequest
    from wsgi_fal_proxy._settings.options import Options

_REQUEST: Final = "wsgi_fal_proxy.django.request"


def fal_view(**options: Unpack[Options]) -> Callable[..., StreamingHttpResponse]:
    """Make a view that relays to fal, for a path of your choice.

    The view is exempt from CSRF tokens: fal's client does not send them. A form on another site
    cannot call the view, since it cannot send the header `x-fal-target-url`. The view is also
    exempt from `ATOMIC_REQUESTS`, so that no transaction stays open while fal works. A decorator
    that uses `functools.wraps`, as Django's own do, keeps both exemptions.

    fal's cookies become cookies of Django's response. If fal repeats another header, its values are
    joined by commas (RFC 9110 section 5.3), since Django's responses have each header once.

    If a middleware has read `request.body` before, the view relays that. After the view,
    `request.body` gives a body of up to 64 KiB again, and is empty for a larger one, unless it was
    read before.

    Args:
        **options: The options of `FalProxy`.

    Returns:
        The view. It ignores the arguments that its URL pattern captures. If ASGI serves Django, it
        raises `ImproperlyConfigured`.

    Raises:
        SettingsError: An option is unknown, or its value cannot be used.
    """
    proxy = FalProxy(**options)

    def view(request: HttpRequest, *args: object, **kwargs: object) -> StreamingHttpResponse:
        if not isinstance(request, WSGIRequest):
            raise ImproperlyConfigured(
                "fal_view needs WSGI (wsgi.py), but ASGI serves this Django. Serve fal's path"
                " from a separate process, such as gunicorn wsgi_fal_proxy.wsgi."
            )
        # The META of a WSGIRequest is the WSGI environ itself.
        environ = {**request.META, _REQUEST: request, BODY_HOLDER: _Body(request)}
        content, status, headers = run_wsgi_app(proxy, environ)
        return _response(content, status, headers.to_wsgi_list())

    exempt: Callable[..., StreamingHttpResponse] = csrf_exempt(non_atomic_requests(view))
    return exempt


class _Body:
    """The body of Django's request: a `BodyHolder`."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def input(self, environ: WSGIEnvironment) -> Any:
        request = self._request
        # Django does not read a body whose length is not declared.
        if not environ.get("CONTENT_LENGTH") or environ.get("HTTP_TRANSFER_ENCODING"):
            return environ["wsgi.input"]
        if hasattr(request, "_body"):
            return BytesIO(request.body)
        # It ends where the body does. The server's input may not.
        return request._stream if request._read_started else environ["wsgi.input"]  # noqa: SLF001

    def give_back(self, body: bytes) -> None:
        request = self._request
        request.META["wsgi.input"] = BytesIO(body)
        request.META["wsgi.input_terminated"] = True
        if not hasattr(request, "_body"):
            request._body, request._stream = body, BytesIO(body)  # noqa: SLF001


def django_request(request: FalRequest) -> HttpRequest:
    """Return Django's request: for your own `authorize` of a `fal_view`."""
    of_django: HttpRequest = request.environ[_REQUEST]
    return of_django


def signed_in(request: FalRequest) -> Allow | Refuse:
    """Allow signed-in users of Django: a value for the option `authorize` of `fal_view`.

    The identity is the user's primary key. All others get 401, whereas `login_required` would
    redirect fal's client to a page. Needs
    `django.contrib.auth.middleware.AuthenticationMiddleware`.
    """
    user = django_request(request).user
    return Allow(identity=str(user.pk)) if user.is_authenticated else Refuse(401, "Sign in first.")


def _response(
    content: Iterable[bytes], status: str, headers: Iterable[tuple[str, str]]
) -> StreamingHttpResponse:
    code, _, phrase = status.partition(" ")
    response = StreamingHttpResponse(content, status=int(code), reason=phrase)
    # Django sets a default. fal's answer has its own content type, or none.
    del response["Content-Type"]
    for name, value in headers:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response[name] = f"{response[name]}, {value}" if name in response else value
    return response
