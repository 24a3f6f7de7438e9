"""Put fal.ai in the front end of any WSGI app; the fal key and the bill stay on the server.

Wrap an application:

    from wsgi_fal_proxy import FalProxyMiddleware

    app = FalProxyMiddleware(app)

and point fal's client at it: `fal.config({ proxyUrl: "/api/fal/proxy" })`.
"""

from wsgi_fal_proxy._core.middleware import FalProxyMiddleware
from wsgi_fal_proxy._core.proxy import FalProxy
from wsgi_fal_proxy._fal.key import KeyFile
from wsgi_fal_proxy._fal.operations import STRICT_URLS
from wsgi_fal_proxy._fal.request import FalRequest
from wsgi_fal_proxy._policy.authorize import Allow, Refuse, allow_anyone
from wsgi_fal_proxy._policy.call_record import CallRecord
from wsgi_fal_proxy._version import __version__
from wsgi_fal_proxy.errors import FalProxyError, SettingsError

__all__ = [
    "STRICT_URLS",
    "Allow",
    "CallRecord",
    "FalProxy",
    "FalProxyError",
    "FalProxyMiddleware",
    "FalRequest",
    "KeyFile",
    "Refuse",
    "SettingsError",
    "__version__",
    "allow_anyone",
]
