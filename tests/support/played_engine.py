"""An engine of the authority whose behaviour the test sets."""

from __future__ import annotations

import threading

from supervisor.authority.errors import HolderFailed
from supervisor.authority.form import Mark, Shards, VolumeForm

LIMIT_S = 10.0


class PlayedEngine:
    """Has `volumes` open, some of them with `marks`, and `shards` of some.

    `failures` holds, by ("look", "open" or "close"), what to raise next, one by one.
    """

    def __init__(self, log, name, volumes=()):
        self.log, self.name, self.volumes, self.marks, self.shards = log, name, set(volumes), {}, {}
        self.failures = {"look": [], "open": [], "close": []}
        self.gate = threading.Event()
        self.gate.set()

    def form_of(self, volume_id):
        self._fail("look", volume_id)
        if volume_id not in self.volumes and volume_id not in self.shards:
            return None
        mark = self.marks.get(volume_id, Mark.WRITABLE)
        return VolumeForm(volume_id in self.volumes, mark, self.shards.get(volume_id, Shards()))

    def close_volume(self, volume_id, form):
        self._step("close", volume_id)
        if form.has_data:
            self.volumes.discard(volume_id)
            self.marks.pop(volume_id, None)
        if form.shards.ids:
            self.shards.pop(volume_id, None)

    def open_volume(self, volume_id, form):
        self._step("open", volume_id)
        if form.has_data:
            self.volumes.add(volume_id)
        if form.mark is not Mark.WRITABLE:
            self.marks[volume_id] = form.mark
        if form.shards.ids:
            self.shards[volume_id] = form.shards

    def _step(self, verb, volume_id):
        assert self.gate.wait(LIMIT_S)
        self.log.append(f"{self.name} {verb} {volume_id}")
        self._fail(verb, volume_id)

    def _fail(self, verb, volume_id):
        if self.failures[verb]:
            raise HolderFailed(volume_id, verb, "played", self.failures[verb].pop(0))
