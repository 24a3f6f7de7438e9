"""The fake fal: to try the proxy without a key, to develop a front end, and to test.

Code that serves requests does not import it.
"""

from wsgi_fal_proxy.testing.app import RecordedRequest
from wsgi_fal_proxy.testing.server import FakeFal, FakeFalPoolManager

__all__ = ["FakeFal", "FakeFalPoolManager", "RecordedRequest"]
