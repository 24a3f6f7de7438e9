"""The owner's rules for one request: which target, which caller, how much."""

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
    """Decides whether the proxy relays a request to fal.

    The caller asks it in the order of its methods: first `check_target`, last `charge`. If
    `has_no_rules`, each method allows everything. A caller that then skips them only saves time.

    Args:
        authorize: The option. None: it is not set, and everyone may call.
        allowlist: The URLs that may be called and the endpoints that may be run. None: all of
            fal's.
        limiter: Charges the limits. None: there is no limit.

    Attributes:
        has_no_rules: Whether everyone may call everything without limit.
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
        self.has_no_rules: bool = self._authorize is None and allowlist is None and limiter is None
        if authorize is None and not self.narrows_headers and limiter is None:
            _warn_that_anyone_may_call()

    def check_target(self, request: FalRequest) -> None:
        """Check the target against the allowlists.

        Raises:
            Refusal: No pattern matches it.
        """
        if self._allowlist is not None:
            self._allowlist.check_target(request)

    def identify(self, request: FalRequest) -> str | None:
        """Call the option `authorize`. Return the caller's identity, None if it names none.

        Raises:
            Refusal: The caller may not make this call.
        """
        return None if self._authorize is None else identity_of(self._authorize, request)

    def check_body(self, request: FalRequest, body: RequestBody) -> None:
        """Check the endpoints that the body names, if they are what the request runs.

        Raises:
            Refusal: No pattern matches one, or the body cannot be read in one certain way.
        """
        if self._allowlist is not None:
            self._allowlist.check_body(request, body)

    def charge(self, request: FalRequest, identity: str | None) -> Refund | None:
        """Charge the limits for the request. Return the refund, None if nothing was charged.

        Raises:
            LimitExceeded: A limit has no room for the request.
            LimitsUnavailable: The store failed, and calls that cannot be counted are refused.
        """
        if self._limiter is None:
            return None
        return self._limiter.charge(request.environ, identity, request.operation)


@cache
def _warn_that_anyone_may_call() -> None:
    """Warn once in a process. `allowed_urls` alone does not prevent that: it bounds no money."""
    _logger.warning(
        "Anyone who can reach the fal proxy can spend your money at fal. Set authorize,"
        " allowed_endpoints or limits (stand-alone: FAL_PROXY_ALLOWED_ENDPOINTS or"
        " FAL_PROXY_LIMITS). If your own code already checks callers, set authorize=allow_anyone."
        " See the README, 'Who may call'."
    )
