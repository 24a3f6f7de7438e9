"""For PasteDeploy's ini files, as Pyramid uses them.

As a filter in front of an application, or as an application by itself:

    [filter:fal]                        [app:fal]
    use = egg:wsgi-fal-proxy            use = egg:wsgi-fal-proxy
    prefix = /api/fal/proxy             read_timeout = 120

The options are those of `FalProxy` (and `prefix` for the filter) that text can express: seconds and
bytes as numbers, `none` for no limit, `true` or `false`, lists with commas or one item to a line,
costs as `fal-ai/veo3/**=20`. `key_file` names a file that holds the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsgi_fal_proxy._core.middleware import FalProxyMiddleware
from wsgi_fal_proxy._core.proxy import FalProxy
from wsgi_fal_proxy._settings.ini import options_from_ini

if TYPE_CHECKING:
    from collections.abc import Mapping
    from wsgiref.types import WSGIApplication


def filter_app_factory(
    app: WSGIApplication, global_conf: Mapping[str, Any], **local_conf: str
) -> FalProxyMiddleware:
    """Wrap an application (the entry point `paste.filter_app_factory`).

    Raises:
        SettingsError: An option is unknown, or its value cannot be used.
    """
    return FalProxyMiddleware(app, **options_from_ini(local_conf))


def app_factory(global_conf: Mapping[str, Any], **local_conf: str) -> FalProxy:
    """Make the relay alone (the entry point `paste.app_factory`).

    Raises:
        SettingsError: An option is unknown, or its value cannot be used.
    """
    return FalProxy(**options_from_ini(local_conf))
