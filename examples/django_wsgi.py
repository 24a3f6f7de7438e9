"""Put the proxy in front of a Django project, here in one file.

    FAL_KEY=... python examples/django_wsgi.py

In a project of several files, all of it is one line in wsgi.py; options may stand in the settings:

    application = FalProxyMiddleware(get_wsgi_application(), **settings.FAL_PROXY)

Leaves out: who may call. Django's middleware does not see the proxy's requests, so anyone who
reaches this server can call fal, and you pay. See django_view.py for a view behind a login.
"""

import os
import secrets

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from werkzeug.serving import run_simple

from wsgi_fal_proxy import FalProxyMiddleware

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    FAL_PROXY={"read_timeout": 120},
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or secrets.token_hex(),
)


def hello(request: HttpRequest) -> HttpResponse:
    """Answer as Django does."""
    return HttpResponse("Hello from Django\n")


urlpatterns = [path("", hello)]

application = FalProxyMiddleware(get_wsgi_application(), **settings.FAL_PROXY)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), application, threaded=True)
