"""The fake fal: for playing without a key, for developing a front end, and for tests.

Not imported by anything that serves requests.
"""

from wsgi_fal_proxy.testing.app import RecordedRequest
from wsgi_fal_proxy.testing.server import FakeFal, FakeFalPoolManager

__all__ = ["FakeFal", "FakeFalPoolManager", "RecordedRequest"]
