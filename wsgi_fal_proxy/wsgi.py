"""The stand-alone proxy for any WSGI server: `gunicorn wsgi_fal_proxy.wsgi`.

The environment configures it when this module is imported: see the README.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, NoReturn

from wsgi_fal_proxy._core.standalone import StandaloneProxy
from wsgi_fal_proxy._settings.environment import options_from_environment
from wsgi_fal_proxy.errors import SettingsError

# gunicorn's APP_LOAD_ERROR. gunicorn stops at this status. At most others, it would start new
# workers for ever.
_APP_LOAD_ERROR: Final = 4


def _refuse_to_start(error: SettingsError) -> NoReturn:
    sys.stderr.write(f"wsgi-fal-proxy: {error}\n")
    raise SystemExit(_APP_LOAD_ERROR) from error


def _application() -> StandaloneProxy:
    try:
        proxy = StandaloneProxy(**options_from_environment())
    except SettingsError as error:
        _refuse_to_start(error)
    # Most servers show no logger's line of this level.
    if not logging.getLogger("wsgi_fal_proxy").isEnabledFor(logging.INFO):
        sys.stderr.write(f"wsgi-fal-proxy: {proxy.proxy.route_description}\n")
    return proxy


application: StandaloneProxy = _application()
