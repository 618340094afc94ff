"""Volumes that were copied to this server and lack the writes that came meanwhile."""

from __future__ import annotations

import threading

from support.waiting import LIMIT_S

from native_handlers.storage.settling import Settling


def test_a_volume_settles_inside_and_has_settled_after():
    settling = Settling()
    with settling.settle(7), settling.settle(8):
        assert 7 in settling
        assert not settling.wait(7, 0)
        assert settling.wait(9, 0)
    assert 7 not in settling
    assert settling.wait(7, 0)


def test_who_waits_goes_on_when_it_has_settled():
    settling, results = Settling(), []
    with settling.settle(7):
        waiting = threading.Thread(target=lambda: results.append(settling.wait(7, LIMIT_S)))
        waiting.start()
        assert not results
    waiting.join(LIMIT_S)
    assert results == [True]
