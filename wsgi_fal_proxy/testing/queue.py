"""The fake fal's queue: requests that move forward, from a place in line to a result."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final
from uuid import uuid4

# What every request goes through, one step at a time: each place in line, the loading of its
# model, the steps of its work, and its end.
_PLACES: Final = (2, 1, 0)


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
        work_steps: Steps that its work takes, after it has waited and its model is loaded.
    """

    endpoint: str
    app: str
    data: dict[str, Any]
    step_seconds: float = math.inf
    work_steps: int = 2
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
        return self.cancelled or self._step() == self._last

    @property
    def _last(self) -> int:
        return len(_PLACES) + 1 + self.work_steps

    def _step(self) -> int:
        elapsed = monotonic() - self._submitted
        if elapsed >= self._last * self.step_seconds:
            return self._last
        return min(max(self._looks, int(elapsed / self.step_seconds)), self._last)

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
        answer: dict[str, Any]
        with self._lock:
            step = self._last if self.cancelled else self._step()
            self._looks = step + 1
        if step < len(_PLACES):
            answer = {"status": "IN_QUEUE", **self.links(), "queue_position": _PLACES[step]}
        elif step < self._last:
            answer = {"status": "IN_PROGRESS", **self.links()}
        else:
            answer = {"status": "COMPLETED", **self.links()}
            if self.cancelled:
                answer["error"] = "Request was cancelled"
            else:
                answer["metrics"] = {"inference_time": 0.01}
        return answer, self._logs(step)

    def _logs(self, step: int) -> list[dict[str, str]]:
        work = [f"step {number} of {self.work_steps}" for number in range(1, self.work_steps + 1)]
        written = max(0, step + 1 - len(_PLACES))
        return [_log(message) for message in ["loading the model", *work][:written]]

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
