"""The fake fal's queue: requests that move forward, from a place in line to a result."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final
from uuid import uuid4

# What every request goes through, one step at a time: its status, its place in line where it
# waits, and how many of its log lines have been written by then.
_STEPS: Final = (
    ("IN_QUEUE", 2, 0),
    ("IN_QUEUE", 1, 0),
    ("IN_QUEUE", 0, 0),
    ("IN_PROGRESS", None, 1),
    ("IN_PROGRESS", None, 2),
    ("IN_PROGRESS", None, 3),
    ("COMPLETED", None, 3),
)
_LAST: Final = len(_STEPS) - 1
_LOGS: Final = ("loading the model", "step 1 of 2", "step 2 of 2")


@dataclass(slots=True)
class QueuedRequest:
    """One submitted request.

    It moves a step whenever its status is looked at, and by itself every `step_seconds`; so each
    step is seen by whoever looks often enough, and a request that nobody looks at ends too.

    Attributes:
        endpoint: What it was submitted to, such as `fal-ai/flux/dev`.
        app: The part of it by which it is looked up, such as `fal-ai/flux`.
        data: Its input.
        step_seconds: Seconds for a step; `math.inf` for steps only by being looked at.
    """

    endpoint: str
    app: str
    data: dict[str, Any]
    step_seconds: float = math.inf
    request_id: str = field(default_factory=lambda: str(uuid4()))
    cancelled: bool = False
    _submitted: float = field(default_factory=monotonic)
    _looks: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Where fal answers for this request; its status and its cancel are below."""
        return f"https://queue.fal.run/{self.app}/requests/{self.request_id}"

    @property
    def is_done(self) -> bool:
        """Whether there is a result, or never will be one."""
        return self.cancelled or self._step() == _LAST

    def _step(self) -> int:
        elapsed = monotonic() - self._submitted
        if elapsed >= _LAST * self.step_seconds:
            return _LAST
        return min(max(self._looks, int(elapsed / self.step_seconds)), _LAST)

    def links(self) -> dict[str, str]:
        """Give what every answer about a request begins with."""
        return {
            "request_id": self.request_id,
            "response_url": self.url,
            "status_url": f"{self.url}/status",
            "cancel_url": f"{self.url}/cancel",
        }

    def look(self) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Give the status without logs, and all log lines so far; then move a step."""
        with self._lock:
            step = _LAST if self.cancelled else self._step()
            self._looks = step + 1
        status, position, lines = _STEPS[step]
        answer: dict[str, Any] = {"status": status, **self.links()}
        if position is not None:
            answer["queue_position"] = position
        if self.cancelled:
            answer["error"] = "Request was cancelled"
        elif status == "COMPLETED":
            answer["metrics"] = {"inference_time": 0.01}
        return answer, [_log(message) for message in _LOGS[:lines]]

    def cancel(self) -> bool:
        """Cancel it, and tell whether there was still something to cancel."""
        with self._lock:
            if self.is_done:
                return False
            self.cancelled = True
            return True


def _log(message: str) -> dict[str, str]:
    now = datetime.now(UTC).isoformat()
    return {"message": message, "level": "INFO", "source": "USER", "timestamp": now}
