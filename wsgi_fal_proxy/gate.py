"""Whose money: the checks on who may call what, and how much, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_fal_proxy.authorize import FalRequest, identity_of
from wsgi_fal_proxy.limiting import Limiter
from wsgi_fal_proxy.operations import operation

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi_fal_proxy.limiting import GiveBack
    from wsgi_fal_proxy.settings import Settings
    from wsgi_fal_proxy.target import Target


class Gate:
    """What stands between an acceptable request and the owner's money.

    Args:
        settings: Of which `authorize` and the limits count here.
    """

    def __init__(self, settings: Settings) -> None:
        self._authorize = settings.authorize
        self._limiter = Limiter(settings) if settings.limits else None

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to check, and nobody to ask."""
        return self._authorize is None and self._limiter is None

    def admit(self, environ: WSGIEnvironment, method: str, target: Target) -> str | None:
        """Give who the caller is, None for one that is not known by name.

        Raises:
            Refusal: The request is not to be relayed.
        """
        if self._authorize is None:
            return None
        request = FalRequest(environ, method, target, operation(method, target))
        return identity_of(self._authorize, request)

    def take(
        self, environ: WSGIEnvironment, method: str, target: Target, identity: str | None
    ) -> GiveBack | None:
        """Take from the limits what an admitted request costs; give what gives it back.

        Raises:
            Refusal: There is not so much left, or it cannot be told.
        """
        if self._limiter is None:
            return None
        return self._limiter.take(environ, identity, operation(method, target))
