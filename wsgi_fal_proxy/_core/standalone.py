"""The stand-alone proxy: the relay under its prefix, `/healthz`, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Unpack

from wsgi_fal_proxy._core.error_response import error_response, json_answer
from wsgi_fal_proxy._core.middleware import FalProxyMiddleware
from wsgi_fal_proxy._downstream.connection import input_stopper
from wsgi_fal_proxy._http.request_body import RequestBody
from wsgi_fal_proxy._settings.options import DEFAULT_PREFIX
from wsgi_fal_proxy._upstream.egress import ENVIRONMENT
from wsgi_fal_proxy.errors import FalProxyError, NotFound, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from wsgi_fal_proxy._settings.options import Options

HEALTH_PATH: Final = "/healthz"


class StandaloneProxy(FalProxyMiddleware):
    """The stand-alone proxy, a WSGI application.

    `/healthz` answers 200 when a request would find a usable key and trusted certificates, and 500
    with the reason when it would not. It does not check fal.

    Calls leave as `HTTPS_PROXY` and `NO_PROXY` say, unless an option says otherwise.

    Args:
        prefix: As for `FalProxyMiddleware`.
        **options: Those of `FalProxy`.
    """

    def __init__(self, *, prefix: str = DEFAULT_PREFIX, **options: Unpack[Options]) -> None:
        if prefix == HEALTH_PATH:
            raise SettingsError(
                "prefix", prefix, "it must be another path: /healthz is the health check"
            )
        self._not_found_detail = f"There is nothing here; the fal proxy answers at {prefix}."
        if options.get("pool_manager") is None:
            options.setdefault("egress_proxy", ENVIRONMENT)
        super().__init__(self._health_or_not_found, prefix=prefix, **options)

    def check_key(self, environ: WSGIEnvironment) -> None:
        """See `FalProxy.check_key`."""
        self.proxy.check_key(environ)

    def _health_or_not_found(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        RequestBody(environ, max_bytes=0).discard(input_stopper(environ))
        try:
            if environ.get("PATH_INFO") != HEALTH_PATH:
                raise NotFound(self._not_found_detail)
            self.check_key(environ)
            self.proxy.check_trust()
        except FalProxyError as error:
            return error_response(error, environ, start_response)
        return json_answer("200 OK", {"status": "ok"}, [], environ, start_response)
