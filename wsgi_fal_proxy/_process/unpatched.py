"""What gevent replaces in the standard library, as it was before.

A thread of gevent's is no thread, its locks are not for other threads, and its waiting is not the
kernel's.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, Final


def original(module: str, name: str) -> Any:
    """Give what a standard module had under this name before gevent replaced it, or None.

    A thread of gevent's is no thread, and its waiting is not the kernel's.
    """
    patched = sys.modules.get("gevent.monkey")
    with suppress(AttributeError):
        if patched is not None:
            return patched.get_original(module, name)
        return getattr(import_module(module), name)
    return None


# Taken once, whether this module is imported before gevent replaces them or after.
allocate_lock: Final = original("_thread", "allocate_lock")
# For what is also taken where an answer that nobody has closed is collected: that may be at any
# moment, on a thread that holds the lock already.
allocate_rlock: Final = original("_thread", "RLock")
start_new_thread: Final = original("_thread", "start_new_thread")
epoll: Final = original("select", "epoll")
poll: Final = original("select", "poll")
SimpleQueue: Final = original("queue", "SimpleQueue")
Empty: Final[type[Exception]] = original("queue", "Empty")


def is_patched() -> bool:
    """Whether gevent has replaced sockets: then each is for the thread alone that made it."""
    patched = sys.modules.get("gevent.monkey")
    return patched is not None and bool(patched.is_module_patched("socket"))
