"""Let who is signed in call fal: a Django project in one file, with Django's own sessions.

    FAL_KEY=... DJANGO_SECRET_KEY=... python examples/django_app.py

It shows two ways. In front of the project, `authorize` reads the session: /api/fal/proxy. As a
view, it has been read before: /view/fal.

Leaves out: passwords (whoever names a user is signed in as that one), the form's CSRF token, how
often each may call, and a database: the session is in a signed cookie. Where it is in a database,
close the connection that `authorize` opens, by django.db.close_old_connections().
"""

import os
import secrets
from wsgiref.types import WSGIApplication

import django
from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from werkzeug.serving import run_simple
from werkzeug.test import run_wsgi_app

from wsgi_fal_proxy import Allow, FalProxy, FalProxyMiddleware, FalRequest, Refuse, allow_anyone

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or secrets.token_hex(),
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
django.setup()

sessions = SessionMiddleware(lambda _: HttpResponse())


def signed_in(request: FalRequest) -> Allow | Refuse:
    """Decide who may call fal, in front of Django."""
    of_django = WSGIRequest(request.environ)
    sessions.process_request(of_django)
    # With django.contrib.auth, the user is get_user(of_django).
    name = of_django.session.get("user")
    return Allow(identity=name) if name else Refuse(401, "Sign in to make pictures.")


# The view has decided who may call.
fal = FalProxy(authorize=allow_anyone)


@csrf_exempt
def fal_view(request: WSGIRequest) -> HttpResponse | StreamingHttpResponse:
    """Relay to fal, as a view.

    fal's client sends no CSRF token; nor can a form of another site send the header that it does.
    """
    if not request.session.get("user"):
        # Not by a redirect to a page, which fal's client would take for an answer.
        message = "Sign in to make pictures."
        return JsonResponse({"detail": message, "message": message}, status=401)
    content, status, headers = run_wsgi_app(fal, request.environ)
    code, _, phrase = status.partition(" ")
    return StreamingHttpResponse(content, status=int(code), reason=phrase, headers=dict(headers))


@csrf_exempt
def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in."""
    request.session["user"] = request.POST["name"]
    return HttpResponse("Signed in\n")


def hello(request: HttpRequest) -> HttpResponse:
    """Answer who is signed in."""
    return HttpResponse(f"Hello {request.session.get('user', 'nobody')}\n")


urlpatterns = [path("", hello), path("login", sign_in), path("view/fal", fal_view)]

app: WSGIApplication = FalProxyMiddleware(WSGIHandler(), authorize=signed_in)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
