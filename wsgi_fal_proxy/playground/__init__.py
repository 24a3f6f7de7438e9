"""The playground: a page that calls models with fal's own client, through the proxy."""

from wsgi_fal_proxy.playground.app import PATH, Playground

__all__ = ["PATH", "Playground"]
