"""Applications in which something else reads the body, before the mounted relay or after it.

A server imports `application` from here; the variable `READER` says which application that is. It
answers `/seen` with what fal received, what the reader saw, and what the application failed on.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import sentry_sdk
from elasticapm.contrib.flask import ElasticAPM
from elasticapm.transport.base import Transport as ElasticTransport
from flask import Flask, Response, jsonify, request
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport as SentryTransport

from wsgi_fal_proxy import Allow, FalProxy, FalRequest, Refuse, allow_anyone
from wsgi_fal_proxy.django import django_request, fal_view
from wsgi_fal_proxy.testing import FakeFal

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIApplication

    from sentry_sdk.envelope import Envelope
    from werkzeug.wrappers import Response as BaseResponse

fal = FakeFal().start()
seen: list[str] = []
"""What the reader saw: of a body, up to its first 100 characters."""


def failing_log(request: FalRequest) -> Allow:
    """An `authorize` that logs an error, and lets the caller in."""
    logging.getLogger("app").error("a user's session is stale")
    return Allow()


def see(body: bytes | str | None) -> None:
    text = body.decode() if isinstance(body, bytes) else body
    seen.append(str(text)[:100])


OPTIONS: dict[str, Any] = {"key": fal.key, "pool_manager": fal.pool_manager()}


# Sentry and Elastic APM, which send nothing.


class SeenBySentry(SentryTransport):
    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            event = item.get_event() or item.get_transaction_event()
            if event and event.get("request", {}).get("method") == "POST":
                see(str(event["request"].get("data")))


def begin_sentry(*, event_level: int = logging.ERROR, traces: bool = False) -> None:
    sentry_sdk.init(
        "http://key@127.0.0.1:9/1",
        transport=SeenBySentry,
        traces_sample_rate=1.0 if traces else None,
        max_request_body_size="always",
        integrations=[LoggingIntegration(event_level=event_level)],
    )


class SeenByElastic(ElasticTransport):
    def queue(self, event_type: str, data: Any, flush: bool = False) -> None:
        context = data.get("context", {}).get("request", {})
        if event_type == "transaction" and context.get("method") == "POST":
            see(context.get("body"))


# Flask.


def flask_app(**options: Any) -> Flask:
    app = Flask(__name__)
    relay = FalProxy(**{"authorize": allow_anyone, **OPTIONS, **options})

    @app.route("/fal", methods=["GET", "POST"])
    def fal_proxy() -> BaseResponse:
        return Response.from_app(relay, request.environ)

    @app.get("/seen")
    def what_was_seen() -> Response:
        return jsonify(answer_seen())

    return app


def answer_seen() -> dict[str, list[str]]:
    return {"fal": [asked.body.decode() for asked in fal.requests], "reader": seen}


def flask_after() -> Flask:
    app = flask_app()

    @app.after_request
    def audit(response: Response) -> Response:
        if request.method == "POST":
            see(request.get_data())
        return response

    return app


def flask_before() -> Flask:
    app = flask_app()

    @app.before_request
    def audit() -> None:
        if request.method == "POST":
            see(request.get_data())

    return app


def flask_form_before() -> Flask:
    """Asking for a form has Werkzeug wrap the input, and reads nothing of JSON."""
    app = flask_after()

    @app.before_request
    def look_for_a_token() -> None:
        request.form.get("token")

    return app


def flask_stream_before() -> Flask:
    """A body that is read without being kept is not there any more."""
    app = flask_app()

    @app.before_request
    def count() -> None:
        if request.method == "POST":
            see(request.get_data(cache=False))

    return app


def flask_refused() -> Flask:
    app = flask_after()
    app.view_functions["fal_proxy"] = lambda: Response.from_app(
        FalProxy(authorize=lambda _: Refuse(401, "no"), **OPTIONS), request.environ
    )
    return app


def flask_sentry_traces() -> Flask:
    begin_sentry(traces=True)
    return flask_app()


def flask_sentry_error() -> Flask:
    begin_sentry()
    return flask_app(authorize=failing_log)


def flask_sentry_report_only() -> Flask:
    begin_sentry(event_level=logging.WARNING)
    return flask_app(allowed_endpoints=["fal-ai/other"], report_only=True)


def flask_elastic() -> Flask:
    app = flask_app()
    app.config["ELASTIC_APM"] = {
        "SERVICE_NAME": "test",
        "CAPTURE_BODY": "all",
        "CENTRAL_CONFIG": False,
        "CLOUD_PROVIDER": False,
        "METRICS_INTERVAL": "0s",
        "TRANSPORT_CLASS": f"{__name__}.SeenByElastic",
    }
    ElasticAPM(app)
    return app


# Django.


def django_app(*middleware: str, **options: Any) -> WSGIApplication:
    import django  # noqa: PLC0415
    from django.conf import settings  # noqa: PLC0415
    from django.core.wsgi import get_wsgi_application  # noqa: PLC0415
    from django.http import JsonResponse  # noqa: PLC0415
    from django.urls import path  # noqa: PLC0415

    class Urls:
        urlpatterns = (
            path("fal", fal_view(**{"authorize": allow_anyone, **OPTIONS, **options})),
            path("seen", lambda request: JsonResponse(answer_seen())),
        )

    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"], MIDDLEWARE=middleware, ROOT_URLCONF=Urls, SECRET_KEY="test"
    )
    django.setup()
    application: WSGIApplication = get_wsgi_application()
    return application


def auditing(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A middleware of Django that reads the body after the view."""

    def middleware(request: Any) -> Any:
        response = get_response(request)
        if request.method == "POST":
            see(request.body)
        return response

    return middleware


def django_after() -> WSGIApplication:
    return django_app(f"{__name__}.auditing")


def django_request_logging() -> WSGIApplication:
    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # The answer, which has the prompt, is a stream and not logged.
            if "red fox" in record.getMessage():
                see(record.getMessage())

    application = django_app("request_logging.middleware.LoggingMiddleware")
    # Django's own configuration of loggers would remove it.
    logger = logging.getLogger("django.request")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Seen())
    return application


def django_sentry_traces() -> WSGIApplication:
    begin_sentry(traces=True)
    return django_app()


def django_sentry_error() -> WSGIApplication:
    def authorize(request: FalRequest) -> Allow:
        assert django_request(request).method == "POST"
        return failing_log(request)

    begin_sentry()
    return django_app(authorize=authorize)


def django_sentry_report_only() -> WSGIApplication:
    begin_sentry(event_level=logging.WARNING)
    return django_app(allowed_endpoints=["fal-ai/other"], report_only=True)


# Pyramid and Bottle.


def pyramid_app(tween: str) -> WSGIApplication:
    from pyramid.config import Configurator  # noqa: PLC0415
    from pyramid.response import Response as PyramidResponse  # noqa: PLC0415

    options = {f"fal_proxy.{name}": value for name, value in OPTIONS.items()}
    options |= {"fal_proxy.prefix": "/fal", "fal_proxy.authorize": allow_anyone}
    with Configurator(settings=options) as config:
        config.include("wsgi_fal_proxy.pyramid")
        config.add_tween(f"{__name__}:{tween}")
        config.add_route("seen", "/seen")
        config.add_view(lambda request: PyramidResponse(json_body=answer_seen()), route_name="seen")
        application: WSGIApplication = config.make_wsgi_app()
    return application


def reading_after(handler: Callable[[Any], Any], registry: object) -> Callable[[Any], Any]:
    def tween(request: Any) -> Any:
        response = handler(request)
        if request.method == "POST":
            see(request.body)
        return response

    return tween


def reading_before(handler: Callable[[Any], Any], registry: object) -> Callable[[Any], Any]:
    def tween(request: Any) -> Any:
        if request.method == "POST":
            see(request.body)
        return handler(request)

    return tween


def pyramid_after() -> WSGIApplication:
    return pyramid_app("reading_after")


def pyramid_before() -> WSGIApplication:
    return pyramid_app("reading_before")


def bottle_app(*, before: bool) -> WSGIApplication:
    import bottle  # noqa: PLC0415

    app = bottle.Bottle()
    relay = FalProxy(**{"authorize": allow_anyone, **OPTIONS})

    def read_it() -> None:
        if bottle.request.method == "POST":
            see(bottle.request.body.read())

    app.add_hook("before_request" if before else "after_request", read_it)
    app.mount("/fal", relay)
    app.route("/seen", callback=answer_seen)
    application: WSGIApplication = app
    return application


def bottle_after() -> WSGIApplication:
    return bottle_app(before=False)


def bottle_before() -> WSGIApplication:
    return bottle_app(before=True)


application: WSGIApplication = getattr(sys.modules[__name__], os.environ["READER"])()
