"""The remembered holders of volumes, and how long they are remembered.

While the leader announces every change (`LocationFeed`), an answer is valid until the leader names its volume.
Otherwise nothing says that an answer is outdated, so it is valid for one second only. Source:
weed/operation/lookup_vid_cache.go, which keeps each answer for 10 minutes in any case.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from native_handlers.http.context import Location

TOLD_S = 600.0  # weed/operation/lookup.go
"""How long an answer is kept while the leader announces changes."""
UNTOLD_S = 1.0
"""How long an answer is kept otherwise. This still spares the master most questions of a busy writer."""
CACHE_SIZE = 100_000
"""The most volumes that are remembered; about 40 MB at worst."""


@dataclass(slots=True, eq=False)
class Question:
    """One running look-up. An announcement of the leader meanwhile makes its answer outdated."""

    volume_id: int
    is_told: bool
    is_outdated: bool = False


class LocationCache:
    """Holders by volume id. Thread-safe: handlers read on the event loop, the feed writes in its own thread."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()  # protects everything below
        self._is_told = False
        self._entries: OrderedDict[int, tuple[float, tuple[Location, ...]]] = OrderedDict()
        self._questions: dict[int, set[Question]] = {}

    @property
    def is_told(self) -> bool:
        """Whether the leader announces changes now."""
        with self._lock:
            return self._is_told

    @property
    def question_count(self) -> int:
        """How many look-ups run."""
        with self._lock:
            return sum(map(len, self._questions.values()))

    def get(self, volume_id: int) -> list[Location] | None:
        """The known holders of the volume; None where a master has to be asked."""
        with self._lock:
            known = self._entries.get(volume_id)
        return list(known[1]) if known is not None and self._clock_s() < known[0] else None

    def begin(self, volume_id: int) -> Question:
        """Call this before a master is asked. `end` must follow."""
        with self._lock:
            question = Question(volume_id, is_told=self._is_told)
            self._questions.setdefault(volume_id, set()).add(question)
            return question

    def end(self, question: Question, found: Collection[Location] | None) -> None:
        """Keeps what was `found`; None means no answer.

        An answer that may be older than an announcement is not kept.
        """
        with self._lock:
            others = self._questions[question.volume_id]
            others.discard(question)
            if not others:
                del self._questions[question.volume_id]
            if found is None or question.is_outdated:
                return
            until_s = self._clock_s() + (TOLD_S if question.is_told else UNTOLD_S)
            self._entries[question.volume_id] = (until_s, tuple(found))
            self._entries.move_to_end(question.volume_id)
            if len(self._entries) > CACHE_SIZE:
                self._entries.popitem(last=False)

    def forget(self, volume_ids: Collection[int]) -> None:
        """Forgets the volumes: they have other holders now."""
        with self._lock:
            # A server that joins names all its volumes, so the shorter of the two lists is walked.
            known = volume_ids if len(volume_ids) < len(self._entries) else set(volume_ids).intersection(self._entries)
            for volume_id in known:
                self._entries.pop(volume_id, None)
            for volume_id in set(volume_ids).intersection(self._questions):
                self._outdate(volume_id)

    def set_told(self, *, is_told: bool) -> None:
        """Notes that the leader begins or ends its announcements. A change forgets all that was learnt before."""
        with self._lock:
            if is_told == self._is_told:
                return
            self._is_told = is_told
            self._entries.clear()
            for volume_id in self._questions:
                self._outdate(volume_id)

    def _outdate(self, volume_id: int) -> None:
        for question in self._questions[volume_id]:
            question.is_outdated = True
