"""Count what is called, and how long it takes, for Prometheus: over all of gunicorn's processes.

    export FAL_KEY=... PROMETHEUS_MULTIPROC_DIR=$(mktemp -d)
    gunicorn -c examples/gunicorn.conf.py --pythonpath examples prometheus_metrics:app

Each process writes to that directory, which is to be empty at each start.

Leaves out: who may call (anyone who reaches this server can, and you pay), and who may read
/metrics.
"""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app, multiprocess

from wsgi_fal_proxy import CallRecord, FalProxyMiddleware

# By what is one of few, so that no caller can make up series: neither endpoint, host nor identity,
# unless an allowlist bounds them.
CALLS = Counter("fal_calls", "Requests that are over.", ["kind", "status", "reason", "left"])
SECONDS = Histogram(
    "fal_call_seconds",
    "From a request's arrival to its end.",
    ["kind"],
    buckets=[0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300],
)
BYTES = Counter("fal_bytes", "Content.", ["direction"])


def observe(record: CallRecord) -> None:
    """Count one request."""
    kind = record.kind or "none"
    left = str(record.client_left).lower()
    CALLS.labels(kind, str(record.status), record.reason or "", left).inc()
    SECONDS.labels(kind).observe(record.seconds)
    BYTES.labels("up").inc(record.bytes_up)
    BYTES.labels("down").inc(record.bytes_down)


def metrics(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Give the sums over all processes, the ended ones included."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    answer: Iterable[bytes] = make_wsgi_app(registry)(environ, start_response)
    return answer


app = FalProxyMiddleware(metrics, observer=observe)
