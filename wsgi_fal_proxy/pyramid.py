"""For Pyramid's `config.include("wsgi_fal_proxy.pyramid")`: the relay as a route and its view.

The route is named `fal_proxy`. It is configured by the application's settings, in Python or in the
ini file's `[app:main]`, where they are text as in any ini file (see `wsgi_fal_proxy.paste`):

    pyramid.includes = wsgi_fal_proxy.pyramid
    fal_proxy.prefix = /api/fal/proxy
    fal_proxy.permission = make_pictures
    fal_proxy.read_timeout = 120
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_fal_proxy._core.proxy import FalProxy
from wsgi_fal_proxy._policy.authorize import Allow
from wsgi_fal_proxy._settings.ini import options_from_ini
from wsgi_fal_proxy._settings.options import DEFAULT_PREFIX, path_prefix

if TYPE_CHECKING:
    from pyramid.config import Configurator
    from pyramid.request import Request
    from pyramid.response import Response

    from wsgi_fal_proxy._fal.request import FalRequest

ROUTE_NAME: Final = "fal_proxy"
"""The name of the route, for `request.route_path`."""

_SETTINGS: Final = "fal_proxy."
_USER: Final = "wsgi_fal_proxy.pyramid.authenticated_userid"


def includeme(config: Configurator) -> None:
    """Add the relay to a Pyramid application, behind its security policy and its tweens.

    Args:
        config: The application's. Its settings `fal_proxy.*` are the options of
            `FalProxyMiddleware`: text is read as in an ini file, anything else is taken as it is.
            `fal_proxy.permission` is the permission that the view requires; without it, the
            application's default permission, if it has one. With it, and without your own
            `fal_proxy.authorize`, the identity is `request.authenticated_userid`.

    Raises:
        SettingsError: An option is unknown, or its value cannot be used.
    """
    settings = config.get_settings().items()
    given = {
        name.removeprefix(_SETTINGS): value
        for name, value in settings
        if name.startswith(_SETTINGS)
    }
    permission = given.pop("permission", None)
    text = {name: value for name, value in given.items() if isinstance(value, str)}
    options: dict[str, Any] = {**given, **options_from_ini(text)}
    options.pop("key_file", None)  # it has become the option `key`
    prefix = options.pop("prefix", DEFAULT_PREFIX)
    path_prefix(prefix)
    if permission is not None:
        options.setdefault("authorize", _permitted)
    proxy = FalProxy(**options)

    def relay(request: Request) -> Response:
        request.environ[_USER] = request.authenticated_userid
        return request.get_response(proxy)

    # The same paths as the middleware's: the prefix itself, and every path below it.
    config.add_route(ROUTE_NAME, prefix + "{below:(/.*)?}")
    # fal's client sends no CSRF token, and no form can send x-fal-target-url.
    config.add_view(relay, route_name=ROUTE_NAME, permission=permission, require_csrf=False)


def _permitted(request: FalRequest) -> Allow:
    """Allow: Pyramid has already checked the permission."""
    user = request.environ[_USER]
    return Allow(identity=None if user is None else str(user))
