"""The relay in front of an application: one path is the proxy's, all others pass through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from wsgi_fal_proxy._core.proxy import FalProxy
from wsgi_fal_proxy._settings.options import DEFAULT_PREFIX, Settings, path_prefix, refuse_unknown
from wsgi_fal_proxy.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_fal_proxy._settings.options import Options


class FalProxyMiddleware:
    """Wraps a WSGI application; answers under one prefix, and passes all else through untouched.

    Args:
        app: The application to wrap.
        prefix: The path at which the proxy answers, and below it at each "/": "/fal" takes
            "/fal", "/fal/" and "/fal/x" and leaves "/falx" to the application. Compared with
            `PATH_INFO`, so it does not include the path at which the whole is mounted
            (`SCRIPT_NAME`). Default "/api/fal/proxy".
        **options: Those of `FalProxy`.

    Raises:
        SettingsError: An option is unknown or cannot be used.
    """

    def __init__(
        self, app: WSGIApplication, *, prefix: str = DEFAULT_PREFIX, **options: Unpack[Options]
    ) -> None:
        if not callable(app):
            raise SettingsError("app", app, "it must be a WSGI application, which can be called")
        refuse_unknown(options, ["prefix", *Settings.names()])
        self._app = app
        self._prefix = path_prefix(prefix)
        self._below = self._prefix + "/"
        self.proxy: FalProxy = FalProxy(**options)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, or let the application do it (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        if path == self._prefix or path.startswith(self._below):
            return self.proxy(environ, start_response)
        return self._app(environ, start_response)
