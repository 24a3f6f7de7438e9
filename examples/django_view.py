"""The proxy as a view of a Django project, here in one file, behind Django's login.

    FAL_KEY=... python examples/django_view.py

The user is `ada`, with the password that DJANGO_PASSWORD holds, or that is printed.

Leaves out: a database that stays (this one is in memory), a page to log in by, and how often each
user may call. Put no GZipMiddleware around the view: it holds events back.
"""

import os
import secrets

from django.conf import settings
from django.contrib import auth
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from werkzeug.serving import run_simple

from wsgi_fal_proxy.django import fal_view, signed_in

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "file:project?mode=memory&cache=shared",
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or secrets.token_hex(),
)
application = get_wsgi_application()


@csrf_exempt  # for the sake of curl; a page's form sends the token
def sign_in(request: HttpRequest) -> HttpResponse:
    """Begin a session."""
    user = auth.authenticate(request, **{name: request.POST[name] for name in CREDENTIALS})
    if user is None:
        return HttpResponse("Wrong name or password\n", status=401)
    auth.login(request, user)
    return HttpResponse("Signed in\n")


CREDENTIALS = ("username", "password")


def hello(request: HttpRequest) -> HttpResponse:
    """Answer as Django does."""
    return HttpResponse("Hello from Django\n")


urlpatterns = [
    path("", hello),
    path("login", sign_in),
    path("api/fal/proxy", fal_view(authorize=signed_in)),
]

if __name__ == "__main__":
    password = os.environ.get("DJANGO_PASSWORD") or secrets.token_hex(8)
    call_command("migrate", verbosity=0)
    auth.get_user_model().objects.create_user("ada", password=password)
    if "DJANGO_PASSWORD" not in os.environ:
        print(f"Sign in as ada, with the password {password}")
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), application, threaded=True)
