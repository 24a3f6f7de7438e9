"""The owner's rules, in the contract's order: which target, which caller, how much."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Final

from wsgi_fal_proxy._policy.authorize import allow_anyone, identity_of

if TYPE_CHECKING:
    from wsgi_fal_proxy._fal.request import FalRequest
    from wsgi_fal_proxy._http.request_body import RequestBody
    from wsgi_fal_proxy._policy.allowlist import Allowlist
    from wsgi_fal_proxy._policy.authorize import Authorize
    from wsgi_fal_proxy._policy.limits.limiter import Limiter
    from wsgi_fal_proxy._policy.limits.store import Refund

_logger: Final = logging.getLogger("wsgi_fal_proxy")


class Policy:
    """What stands between an acceptable request and the owner's money.

    Args:
        authorize: The option. None: nobody has said who may call.
        allowlist: What may be called and run. None: everything that is fal's.
        limiter: What may be spent. None: no limit.

    Attributes:
        is_open: Whether there is nothing to check and nobody to ask.
        narrows_headers: Whether only those `x-fal-*` headers go up that cannot choose what is run.
    """

    def __init__(
        self,
        authorize: Authorize | None = None,
        allowlist: Allowlist | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        # An owner who lets anyone call need not be asked each time.
        self._authorize = None if authorize is allow_anyone else authorize
        self._allowlist = allowlist
        self._limiter = limiter
        self.narrows_headers: bool = allowlist is not None and allowlist.closes_endpoints
        self.is_open: bool = self._authorize is None and allowlist is None and limiter is None
        if authorize is None and not self.narrows_headers and limiter is None:
            _warn_that_anyone_may_call()

    def check(self, request: FalRequest) -> None:
        """Decide by the target alone.

        Raises:
            Refusal: The allowlists do not name it.
        """
        if self._allowlist is not None:
            self._allowlist.check_target(request)

    def identify(self, request: FalRequest) -> str | None:
        """Ask the option `authorize`. Give the caller's identity, None if it has no name.

        Raises:
            Refusal: The caller may not make this call.
        """
        return None if self._authorize is None else identity_of(self._authorize, request)

    def check_body(self, request: FalRequest, body: RequestBody) -> None:
        """Decide by what the body names, if that is what is run.

        Raises:
            Refusal: The allowlists do not name it.
        """
        if self._allowlist is not None:
            self._allowlist.check_body(request, body)

    def take(self, request: FalRequest, identity: str | None) -> Refund | None:
        """Take what the request costs from the limits. Give what refunds it.

        Raises:
            Refusal: Too little is left, or the count is not available.
        """
        if self._limiter is None:
            return None
        return self._limiter.take(request.environ, identity, request.operation)


@cache
def _warn_that_anyone_may_call() -> None:
    """Log it once in a process. `allowed_urls` alone bounds no money."""
    _logger.warning(
        "Whoever reaches the fal proxy can call fal with your key, as often as they like, and fal"
        " bills you: set authorize, allowed_endpoints or limits, or authorize=allow_anyone if that"
        " is meant, as where a check of yours is in front; stand-alone, set"
        " FAL_PROXY_ALLOWED_ENDPOINTS or FAL_PROXY_LIMITS (see the README, 'Who may call')."
    )
