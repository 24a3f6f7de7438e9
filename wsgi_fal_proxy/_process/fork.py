"""What a forked child must not inherit: locks that other threads held, counts, connections."""

from __future__ import annotations

import os
from typing import Final, Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Holds something that belongs to one process."""

    def reset_after_fork(self) -> None:
        """Replace what belongs to the parent. Runs in the child, on its only thread.

        Another thread of the parent may have held any lock at the fork, so this takes none.
        """


_registered: Final[WeakSet[Forkable]] = WeakSet()


def reset_in_children(forkable: Forkable) -> None:
    """Have `forkable.reset_after_fork` called in each child that is forked from now on."""
    _registered.add(forkable)


class _Process:
    """Tells a process from its parent.

    Attributes:
        generation: One more in each child than in its parent.
    """

    def __init__(self) -> None:
        self.generation = 0
        reset_in_children(self)

    def reset_after_fork(self) -> None:  # pragma: no cover - as `_reset_all`
        self.generation += 1


process: Final = _Process()


def _reset_all() -> None:  # pragma: no cover - runs in the child; tests see its effects
    for forkable in list(_registered):
        forkable.reset_after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_reset_all)
