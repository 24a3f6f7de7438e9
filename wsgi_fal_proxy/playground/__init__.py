"""The playground: a page on which to try fal's own client through the proxy."""

from wsgi_fal_proxy.playground.app import PATH, Playground

__all__ = ["PATH", "Playground"]
