"""A hang-up while both engines have volumes: which engine is asked about which volumes."""

from contextlib import nullcontext

import trio
from support.played_engine import PlayedEngine

from supervisor.authority.authority import Authority
from supervisor.authority.form import PLAIN
from supervisor.authority.new_volumes import open_new_volumes
from supervisor.routing.decision import Engine


class PlayedStore:
    def volume_ids_on_disk(self):
        return [1, 2, 3, 4]

    def find_volume(self, volume_id):
        return object() if volume_id == 2 else None


async def test_the_backend_is_asked_only_about_what_nobody_reports():
    """With many volumes one call for each would take minutes."""
    log, looked = [], []
    backend = PlayedEngine(log, "backend", {1, 4})
    form_of = backend.form_of
    backend.form_of = lambda volume_id: looked.append(volume_id) or form_of(volume_id)
    authority = Authority(
        {Engine.NATIVE: PlayedEngine(log, "native", {2}), Engine.BACKEND: backend},
        lambda _: nullcontext(),
        lambda: True,
    )
    try:
        opened = await trio.to_thread.run_sync(
            lambda: open_new_volumes(PlayedStore(), authority, backend, lambda volume_id: volume_id == 1)
        )
    finally:
        authority.close()
    assert opened == [3]
    assert looked == [3, 4]
    assert log == ["backend open 3"]
    assert backend.form_of(3) == PLAIN
