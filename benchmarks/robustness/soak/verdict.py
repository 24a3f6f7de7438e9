"""Compares what the clients saw with what arrived at the upstream and what the limits counted."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.common.results import Result
from benchmarks.robustness.soak.fates import TOTAL_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from benchmarks.common.upstream import Upstream
    from benchmarks.robustness.soak.clients import Attempt

_LATE_SECONDS: Final = 1.0
_SAME_SECONDS: Final = 0.1
_MAY_HAVE_ARRIVED: Final = 500
_TIMED: Final = frozenset({"read", "half_close", "stall_in_body"})
_UNBILLED: Final = frozenset({429, 502, 503})
_SHOWN: Final = 5


@dataclass
class Findings:
    """What went wrong, each kind with the calls in question.

    Attributes:
        twice: Paid calls that arrived twice though the client had sent them once.
        repeated: Paid calls that arrived again because a client repeated them after an answer of
            the proxy's own.
        late: Calls that took longer than their deadline and a second, here or at the upstream.
        counted: Calls that were counted though nothing of them arrived.
        doubtful: Counted, and fal closed or reset the connection when their head had arrived, or
            within 0.1 s of the call's end. The proxy cannot know whether fal acts on them.
        uncounted: Calls that arrived and may be billed, but were not counted.
        crossed: Answers to another call.
        cut: Parts of an answer that a client took for the whole.
        internal: Answers with the reason `internal_error`.
    """

    twice: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    internal: list[str] = field(default_factory=list)

    def results(self, begin: str) -> Iterator[Result]:
        """Make results of them. `begin` begins each figure."""
        for figure, ids, target in (
            ("paid calls twice by the proxy's doing", self.twice, "0"),
            ("paid calls twice by an answer of the proxy's own", self.repeated, "0"),
            ("calls over their deadline + 1 s", self.late, "0"),
            ("calls counted that never arrived", self.counted, "0"),
            ("calls counted that fal cut off", self.doubtful, "(in doubt)"),
            ("billable calls not counted", self.uncounted, "0"),
            ("crossed answers", self.crossed, "0"),
            ("cuts taken as complete", self.cut, "0"),
            ("errors of the proxy's own", self.internal, "0"),
        ):
            shown = f" ({', '.join(ids[:_SHOWN])})" if ids and target == "0" else ""
            yield Result(
                f"{begin}: {figure}",
                f"{len(ids)}{shown}",
                target,
                None if target != "0" else not ids,
            )


class Reports(NamedTuple):
    """The ids in the upstream's reports, and the times of `gone` in seconds, in order."""

    arrived: Collection[str]
    cut: Collection[str]
    unbilled: Collection[str]
    gone: Sequence[float]


def judge(attempts: Iterable[Attempt], upstream: Upstream, counted: Mapping[str, int]) -> Findings:
    """Compare all sides.

    Args:
        attempts: What the clients saw.
        upstream: It has reported what arrived.
        counted: The count of the limits for each `caller`.
    """
    attempts = list(attempts)
    found = Findings()
    arrived, cut = upstream.reported("arrived"), upstream.reported("cut")
    unbilled = upstream.reported("unbilled")
    gone = sorted(time / 1e9 for _, time in upstream.reported("gone").values())
    reports = Reports(arrived, cut, unbilled, gone)
    kinds = {one.id: one.kind for one in attempts}
    found.twice += [id_ for id_, (count, _) in arrived.items() if count > 1]
    found.crossed += [f"{id_} at fal" for id_ in upstream.reported("crossed")]
    found.late += [
        f"{id_} {kinds.get(id_)} at fal {held / 1e9:.2f} s"
        for id_, (_, held) in upstream.reported("held").items()
        if held / 1e9 > TOTAL_TIMEOUT + _LATE_SECONDS
    ]
    by_name: defaultdict[str, list[Attempt]] = defaultdict(list)
    by_address: defaultdict[str, list[Attempt]] = defaultdict(list)
    for one in attempts:
        if one.kind in _TIMED and one.seconds > TOTAL_TIMEOUT + _LATE_SECONDS:
            found.late.append(f"{one.id} {one.kind} {one.status} {one.seconds:.2f} s")
        if one.reason == "internal_error":
            found.internal.append(one.id)
        if one.spends:
            by_name[one.name].append(one)
            by_address[one.address].append(one)
    for name, repeats in by_name.items():
        came = [one for one in repeats if one.id in arrived]
        if any(one.reason is not None for one in came[:-1]):
            found.repeated.append(name)
    for address, calls in by_address.items():
        count = counted.get(caller(address), 0)
        _judge_count(found, calls, count, reports)
    return found


def _judge_count(
    found: Findings,
    calls: Collection[Attempt],
    count: int,
    reports: Reports,
) -> None:
    """Compare the calls from one address with what the limits have counted for it."""
    arrived, cut, unbilled, _ = reports
    here = [one for one in calls if one.id in arrived]
    absent = [one for one in calls if one.id not in arrived]
    doubtful = [one for one in absent if one.id in cut or _ends_with_any(one, reports.gone)]
    billable = [one for one in here if one.id not in unbilled]
    # If the client got such an answer, the charge was refunded.
    refunded = [
        one for one in here if one.id in unbilled and one.reason is None and one.status in _UNBILLED
    ]
    surplus = count - (len(here) - len(refunded))
    if surplus > len(doubtful):
        found.counted += [_told(one) for one in absent if one not in doubtful]
    elif surplus > 0:
        found.doubtful += [_told(one) for one in doubtful[:surplus]]
    if count < len(billable):
        found.uncounted += [_told(one) for one in billable[count:]]


def _ends_with_any(one: Attempt, gone: Sequence[float]) -> bool:
    """Whether a call may have been sent when fal ended a connection."""
    # Any other answer says that it was not sent.
    if one.status >= 0 and one.status != _MAY_HAVE_ARRIVED:
        return False
    end = one.begun + one.seconds
    next_ = bisect_left(gone, end - _SAME_SECONDS)
    return next_ < len(gone) and gone[next_] <= end + _SAME_SECONDS


def caller(address: str) -> str:
    """Return the name under which the limits count an address."""
    return sha256(f"address {address}".encode()).hexdigest()[:32]


def _told(one: Attempt) -> str:
    return f"{one.id} {one.kind} {one.reason or one.status}"


def summary(attempts: Iterable[Attempt]) -> str:
    """Tell how often each answer came."""
    answers = Counter(
        f"{one.status} {one.reason}" if one.reason else str(one.status) for one in attempts
    )
    named = {"-1": "left", "-2": "broken"}
    return ", ".join(f"{named.get(answer, answer)}: {n}" for answer, n in answers.most_common())
