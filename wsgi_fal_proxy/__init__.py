"""Put fal.ai in the front end of any WSGI app; the fal key and the bill stay on the server.

Wrap an application:

    from wsgi_fal_proxy import FalProxyMiddleware

    app = FalProxyMiddleware(app)

and point fal's client at it: `fal.config({ proxyUrl: "/api/fal/proxy" })`.
"""

from wsgi_fal_proxy.authorize import Allow, FalRequest, Refuse, allow_anyone
from wsgi_fal_proxy.credentials import KeyFile
from wsgi_fal_proxy.errors import FalProxyError
from wsgi_fal_proxy.middleware import FalProxyMiddleware
from wsgi_fal_proxy.observer import CallRecord
from wsgi_fal_proxy.operations import STRICT_URLS
from wsgi_fal_proxy.relay import FalProxy
from wsgi_fal_proxy.settings import SettingsError
from wsgi_fal_proxy.version import __version__

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
