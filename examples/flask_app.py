"""Put the proxy in front of a Flask app; `app` stays the Flask app.

    FAL_KEY=... python examples/flask_app.py

Leaves out: who may call. What Flask does around a request (sessions, before_request) does not see
the proxy's requests, so anyone who reaches this server can call fal, and you pay.
"""

import os

from flask import Flask

from wsgi_fal_proxy import FalProxyMiddleware

app = Flask(__name__)
app.wsgi_app = FalProxyMiddleware(app.wsgi_app)  # type: ignore[method-assign]


@app.get("/")
def hello() -> str:
    """Answer as Flask does."""
    return "Hello from Flask\n"


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")))
