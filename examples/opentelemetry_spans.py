"""Make a span of each request, for OpenTelemetry.

    FAL_KEY=... python examples/opentelemetry_spans.py

The spans are printed. To have them collected, give BatchSpanProcessor(OTLPSpanExporter()) of
opentelemetry-exporter-otlp instead.

Leaves out: who may call (anyone who reaches this server can, and you pay), and the caller's own
trace, which an instrumentation of your framework carries on.
"""

import os
import time
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from werkzeug.serving import run_simple

from wsgi_fal_proxy import CallRecord, FalProxyMiddleware

provider = TracerProvider(resource=Resource.create({"service.name": "fal-proxy"}))
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
tracer = provider.get_tracer("wsgi_fal_proxy")

SERVER_ERROR = 500


def observe(record: CallRecord) -> None:
    """Make a span of a request that is over, which began when it did."""
    end = time.time_ns()
    attributes = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "http.request.body.size": record.bytes_up,
        "http.response.body.size": record.bytes_down,
        "server.address": record.host,
        "enduser.id": record.identity,
        "error.type": record.reason,
        "fal.endpoint": record.endpoint,
        "fal.request_id": record.request_id,
        "fal.seconds_to_head": record.seconds_to_head,
        "fal.client_left": record.client_left,
        "fal.truncated": record.truncated,
    }
    span = tracer.start_span(
        f"fal {record.kind or 'refused'}",
        kind=SpanKind.CLIENT,
        attributes={name: value for name, value in attributes.items() if value is not None},
        start_time=end - int(record.seconds * 1e9),
    )
    if record.truncated or record.status is None or record.status >= SERVER_ERROR:
        span.set_status(Status(StatusCode.ERROR, record.reason))
    span.end(end)


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request alike."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello from beside the spans\n"]


app = FalProxyMiddleware(hello, observer=observe)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
