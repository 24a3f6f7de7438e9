"""Coverage of threads that begin at the same time, where Python 3.11 makes that fail."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from wsgi_fal_proxy._downstream import watcher
from wsgi_fal_proxy._http import request_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def begin_tracing_one_thread_at_a_time() -> None:  # pragma: no cover - is what begins coverage
    """Have each new thread wait until no other one is about to be traced.

    To be called when coverage has begun. Python 3.11 calls audit hooks while it installs a trace
    function. If one is written in Python, as the tests' is, another thread may run meanwhile. When
    that installs its own, it gets a RuntimeError, and the test that runs fails: seen on a busy
    machine where 64 threads begin at once. Python 3.12 and later allow that.
    """
    trace = threading.gettrace()
    if trace is None or sys.version_info >= (3, 12):
        return
    lock, install = threading.RLock(), sys.settrace

    def settrace(function: Any) -> None:
        with lock:
            install(function)

    def begin(frame: FrameType, event: Any, argument: object) -> Any:
        with lock:
            return trace(frame, event, argument)

    sys.settrace = settrace
    threading.settrace(begin)
    # Another thread may hold it at a fork.
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]


def trace_bare_threads() -> None:  # pragma: no cover - is what begins coverage
    """Have the threads traced that the package starts without `threading`.

    To be called when coverage has begun.
    """
    if threading.gettrace() is None:
        return
    for module in (watcher, request_body):
        start: Any = module.start_new_thread
        module.start_new_thread = partial(_start_traced, start)  # type: ignore[attr-defined]


def _start_traced(  # pragma: no cover - as above
    start: Callable[..., int], function: Callable[..., object], args: tuple[Any, ...]
) -> int:
    return start(_run_traced, (function, args))


def _run_traced(  # pragma: no cover - as above
    function: Callable[..., object], args: tuple[Any, ...]
) -> None:
    sys.settrace(threading.gettrace())
    function(*args)
