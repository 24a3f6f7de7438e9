"""The examples: how each is started, and a call of one."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from tests.support.serving import ROOT, Served, dialling, free_port, running, wait_for_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    import urllib3

    from wsgi_fal_proxy.testing import FakeFal

EXAMPLES = ROOT / "examples"
GUNICORN = ("-m", "gunicorn", "--no-control-socket", "-c", "examples/gunicorn.conf.py")
COMMANDS = {
    "plain_wsgi.py": ("examples/plain_wsgi.py",),
    "flask_app.py": ("examples/flask_app.py",),
    "bottle_app.py": ("examples/bottle_app.py",),
    "pyramid_app.py": ("examples/pyramid_app.py",),
    "playground.py": ("examples/playground.py",),
    "bottle_mount.py": ("examples/bottle_mount.py",),
    "dispatcher.py": ("examples/dispatcher.py",),
    "django_view.py": ("examples/django_view.py",),
    "django_wsgi.py": ("examples/django_wsgi.py",),
    "falcon_app.py": ("examples/falcon_app.py",),
    "falcon_sink.py": ("examples/falcon_sink.py",),
    "fastapi_app.py": ("examples/fastapi_app.py",),
    "pyramid_view.py": ("examples/pyramid_view.py",),
    "gunicorn.conf.py": (*GUNICORN, "wsgi_fal_proxy.wsgi"),
    "flask_login_app.py": ("examples/flask_login_app.py",),
    "django_app.py": ("examples/django_app.py",),
    "jwt_app.py": ("examples/jwt_app.py",),
    "key_per_tenant.py": ("examples/key_per_tenant.py",),
    "prometheus_metrics.py": (*GUNICORN, "--pythonpath", "examples", "prometheus_metrics:app"),
    "opentelemetry_spans.py": ("examples/opentelemetry_spans.py",),
    "limits_redis.py": (*GUNICORN, "examples.limits_redis:app"),
}
CALL = {"x-fal-target-url": "https://fal.run/fal-ai/flux/dev"}


@contextlib.contextmanager
def run_example(name: str, fal: FakeFal, **environment: str) -> Iterator[Served]:
    port = free_port()
    environment = {**dialling(fal), "PORT": str(port), **environment}
    with running([sys.executable, *COMMANDS[name]], environment) as (process, log):
        wait_for_port(port)
        yield Served(port, process, log)


def call(http: urllib3.PoolManager, url: str, **headers: str) -> urllib3.BaseHTTPResponse:
    return http.request("POST", url, json={"prompt": "a fox"}, headers={**CALL, **headers})
