"""Functions of the standard library as they were before gevent replaced them.

gevent's threads are greenlets of one thread, its locks do not work between threads, and it waits in
its own loop and not in the kernel.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, Final


def original(module: str, name: str) -> Any:
    """Return an attribute of a standard module as it was before gevent replaced it.

    Returns:
        The attribute. None if the module has none of this name on this system.
    """
    patched = sys.modules.get("gevent.monkey")
    with suppress(AttributeError):
        if patched is not None:
            return patched.get_original(module, name)
        return getattr(import_module(module), name)
    return None


# These work whether this module is imported before or after gevent replaces the originals.
allocate_lock: Final = original("_thread", "allocate_lock")
start_new_thread: Final = original("_thread", "start_new_thread")
epoll: Final = original("select", "epoll")
poll: Final = original("select", "poll")
SimpleQueue: Final = original("queue", "SimpleQueue")
Empty: Final[type[Exception]] = original("queue", "Empty")


def gevent_owns_sockets() -> bool:
    """Whether gevent has replaced sockets: then only the thread that made one may use it."""
    patched = sys.modules.get("gevent.monkey")
    return patched is not None and bool(patched.is_module_patched("socket"))
