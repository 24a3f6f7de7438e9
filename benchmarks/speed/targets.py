"""The targets of the speed benchmark."""

from __future__ import annotations

from typing import Final

from benchmarks.speed import answers, events, imports
from benchmarks.speed.measured import Target
from benchmarks.speed.proxies import EXPRESS, FASTAPI, FLASK, GEVENT, GRANIAN, GTHREAD, HONO
from benchmarks.speed.scale import HUNDRED, HUNDRED_FASTER, HUNDRED_SLOWER, THOUSAND

SMALL_CPU: Final = answers.SMALL_CPU.format(answers.CONNECTIONS)
_SMALL_RATE: Final = answers.SMALL_RATE.format(answers.CONNECTIONS)

TARGETS: Final = (
    Target(SMALL_CPU, GTHREAD, EXPRESS, 0.45),
    Target(SMALL_CPU, GTHREAD, HONO, 0.60),
    Target(SMALL_CPU, GTHREAD, FLASK, 0.27),
    Target(SMALL_CPU, GTHREAD, FASTAPI, 0.15),
    Target(SMALL_CPU, GRANIAN, EXPRESS, 0.22),
    Target(_SMALL_RATE, GTHREAD, EXPRESS, 2.0, at_least=True),
    Target(_SMALL_RATE, GRANIAN, EXPRESS, 2.0, at_least=True),
    Target(answers.LARGE_CPU, GTHREAD, EXPRESS, 0.65),
    Target(HUNDRED_SLOWER.figure(events.CPU), GTHREAD, EXPRESS, 0.65),
    Target(HUNDRED.figure(events.CPU), GTHREAD, EXPRESS, 0.65),
    Target(HUNDRED_FASTER.figure(events.DELAY), GTHREAD, EXPRESS, 0.33),
    Target(HUNDRED_FASTER.figure(events.DELAY), GEVENT, EXPRESS, 0.33),
    Target(answers.IDLE, GTHREAD, EXPRESS, 0.5),
    Target(THOUSAND.figure(events.MEMORY), GEVENT, EXPRESS, 0.6),
    Target(answers.OPENED, GTHREAD, None, 0),
    Target(answers.OPENED, GEVENT, None, 0),
    Target(answers.OPENED, GRANIAN, None, 0),
    Target(imports.IMPORT_AFTER_WERKZEUG, imports.PACKAGE, None, 10),
)
