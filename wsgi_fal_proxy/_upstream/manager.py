"""The pool manager by whose rules the relay connects: the owner's, or one of ours.

Ours trusts what the system trusts, or what the owner names, and goes straight to fal or through
an egress proxy.
"""

from __future__ import annotations

import copy
import logging
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import urllib3

from wsgi_fal_proxy._process.variables import goes_directly, proxy_variables
from wsgi_fal_proxy._upstream.egress import (
    DIRECT,
    ENVIRONMENT,
    basic_login,
    split_login,
    usable_egress,
)
from wsgi_fal_proxy._upstream.trust import trust_problem, trusting_context
from wsgi_fal_proxy.errors import SettingsError, TrustUnusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3.connectionpool import HTTPConnectionPool

    from wsgi_fal_proxy._upstream.egress import Egress

    IsExcepted = Callable[[str], object]
    _Base = urllib3.PoolManager
else:
    _Base = object

_logger: Final = logging.getLogger("wsgi_fal_proxy")

# The two hosts that fal's clients call most.
_USUAL_HOSTS: Final = ("fal.run", "queue.fal.run")
_OF_THE_PROXY: Final = ("_proxy", "_proxy_headers", "_proxy_config", "_socks_options")
_DIRECT_SCHEME: Final = "https, not through the proxy"


class Route(NamedTuple):
    """How calls reach fal."""

    manager: urllib3.PoolManager
    """The relay connects by its rules."""
    description: str
    """One sentence for the log. Empty if the owner's manager decides."""
    trust_problem: str = ""
    """Why fal's certificate cannot be trusted, in a sentence. Empty if it can, or the owner's
    manager decides."""


def make_route(manager: object, egress_proxy: str | None) -> Route:
    """Check the owner's manager or make one, and log the route of calls to fal.

    Args:
        manager: The option `pool_manager`. None: one of ours is made.
        egress_proxy: The option `egress_proxy`.

    Raises:
        SettingsError: The manager cannot be used, or would let a proxy read the requests; or a
            variable in the environment names no proxy that can be used.
    """
    if manager is not None:
        route = _by_owner(manager)
    elif egress_proxy is None or egress_proxy == DIRECT:
        if egress_proxy is None and _egress_of(proxy_variables()) is not None:
            _warn_of_unused()
        route = Route(default_manager(), "Calls to fal go there directly, without an egress proxy.")
    elif egress_proxy == ENVIRONMENT:
        route = _by_environment(proxy_variables())
    else:
        egress = usable_egress("egress_proxy", egress_proxy)
        route = Route(
            egress_manager(egress, lambda _place: False),
            f"Calls to fal go through the egress proxy {egress.url} (the option egress_proxy).",
        )
    if route.description:
        _logger.info("%s", route.description)
    context = route.manager.connection_pool_kw.get("ssl_context")
    if manager is None and context is not None and (problem := trust_problem(context)):
        _logger.error("%s: %s", TrustUnusable.reason, problem)
        return route._replace(trust_problem=problem)
    return route


def default_manager() -> urllib3.PoolManager:
    """Make a manager that goes straight to fal."""
    return urllib3.PoolManager(ssl_context=trusting_context())


def egress_manager(egress: Egress, is_excepted: IsExcepted) -> urllib3.PoolManager:
    """Make a manager that goes through an egress proxy.

    Args:
        egress: The proxy.
        is_excepted: Takes `host:port` and tells whether connections to it go straight there.
    """
    context = trusting_context()
    made: Any
    if egress.is_socks:
        # It needs a package that only its users have.
        from urllib3.contrib.socks import SOCKSProxyManager  # noqa: PLC0415

        user, password = (part.decode() for part in egress.login or (b"", b""))
        made = _with_exceptions(SOCKSProxyManager)(
            egress.url, user or None, password or None, ssl_context=context
        )
    else:
        made = _with_exceptions(urllib3.ProxyManager)(
            egress.url,
            proxy_headers=basic_login(egress.login) if egress.login else None,
            proxy_ssl_context=context if egress.scheme == "https" else None,
            ssl_context=context,
        )
    made.is_excepted = is_excepted
    # Registered under a made-up scheme, so that `pool._own` derives a relay pool class from it as
    # well.
    made.pool_classes_by_scheme = {
        **made.pool_classes_by_scheme,
        _DIRECT_SCHEME: urllib3.HTTPSConnectionPool,
    }
    manager: urllib3.PoolManager = made
    return manager


class _Exceptions(_Base):
    """A manager that connects through a proxy, except to some hosts.

    Attributes:
        is_excepted: Takes `host:port`.
    """

    is_excepted: IsExcepted

    def _new_pool(
        self, scheme: str, host: str, port: int, request_context: dict[str, Any] | None = None
    ) -> HTTPConnectionPool:
        options = dict(self.connection_pool_kw if request_context is None else request_context)
        if self.is_excepted(f"{host}:{port}"):
            for name in _OF_THE_PROXY:
                options.pop(name, None)
            scheme = _DIRECT_SCHEME
        return super()._new_pool(scheme, host, port, options)


@cache
def _with_exceptions(base: Any) -> Any:
    return type("EgressManager", (_Exceptions, base), {})


def _by_environment(found: dict[str, str]) -> Route:
    egress = _egress_of(found)
    if egress is None:
        why = "NO_PROXY excepts it" if _find_proxy_variable(found) else "HTTPS_PROXY is not set"
        return Route(default_manager(), f"Calls to fal go there directly: {why}.")
    description = (
        f"Calls to fal go through the egress proxy {egress.url} ({_find_proxy_variable(found)}"
    )
    if found.get("no"):
        description += ", except to hosts that NO_PROXY names"
    return Route(egress_manager(egress, partial(goes_directly, found)), f"{description}).")


def _find_proxy_variable(found: dict[str, str]) -> str:
    """Return the variable that names the proxy for fal; empty if none does."""
    return next((f"{scheme.upper()}_PROXY" for scheme in ("https", "all") if scheme in found), "")


def _egress_of(found: dict[str, str]) -> Egress | None:
    """Return the proxy that variables name for fal's usual hosts. None if there is none.

    Raises:
        SettingsError: It cannot be used.
    """
    name = _find_proxy_variable(found)
    if not name or all(goes_directly(found, f"{host}:443") for host in _USUAL_HOSTS):
        return None
    return usable_egress(name, found[name.removesuffix("_PROXY").lower()].strip())


@cache
def _warn_of_unused() -> None:
    """Once in a process."""
    _logger.warning(
        "HTTPS_PROXY is set, but the fal proxy does not use it: calls to fal go there directly."
        ' To use it, set egress_proxy="environment"; to go directly without this warning, set'
        ' egress_proxy="none".'
    )


def _by_owner(manager: object) -> Route:
    """Check the option `pool_manager`."""
    option = "pool_manager"
    if not isinstance(manager, urllib3.PoolManager):
        why = "it must be a urllib3.PoolManager, or None for the default"
        raise SettingsError(option, manager, why)
    if manager.proxy_config is not None and manager.proxy_config.use_forwarding_for_https:
        # The proxy would read every request, the key included.
        why = "it must be a ProxyManager without use_forwarding_for_https"
        raise SettingsError(option, manager, why)
    proxy = manager.proxy
    if proxy is None:
        return Route(manager, "")
    place = f"{proxy.scheme}://{proxy.netloc}"
    description = f"Calls to fal go through the egress proxy {place} (the option pool_manager)."
    return Route(_with_login(manager), description)


def _with_login(manager: Any) -> urllib3.PoolManager:
    """Have a `ProxyManager` use the login in its URL, which urllib3 drops.

    The owner's manager is not changed.
    """
    own = manager
    names = {name.lower() for name in manager.proxy_headers}
    if manager.proxy.auth and "proxy-authorization" not in names:
        own = copy.copy(manager)
        own.proxy_headers = manager.proxy_headers | basic_login(split_login(manager.proxy.auth))
        own.connection_pool_kw = manager.connection_pool_kw | {"_proxy_headers": own.proxy_headers}
    checked: urllib3.PoolManager = own
    return checked
