"""numpy is loaded at its first use: small volumes do without, and the index works in the same way."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import numpy
import pytest
from support.source_tree import ROOT
from support.stores import open_at, place

from native_handlers.arrays import np
from native_handlers.format.needle import Needle
from native_handlers.storage.index.needle_map import Counters, NeedleIndex
from native_handlers.storage.index.small import SMALL_BYTES
from native_handlers.storage.index.sorted_segment import empty_base, merge, sorted_base

SMALL_COUNT = SMALL_BYTES // 16
"""So many needles a small volume has at most."""


def test_names_are_those_of_numpy():
    assert np.uint64 is numpy.uint64
    assert np.searchsorted is numpy.searchsorted
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = np.no_such_name


@pytest.mark.parametrize("width", [4, 5])
class TestEmptySegment:
    def test_it_finds_nothing_and_takes_nothing(self, width):
        base = empty_base(has_high=width == 5)
        assert (len(base), base.get(0), base.get(7), base.size_bytes) == (0, None, None, 0)
        assert base is empty_base(has_high=width == 5)

    def test_its_columns_have_the_types_of_others(self, width):
        full = sorted_base({7: 1 << 32 | 5}, has_high=width == 5)
        base = empty_base(has_high=width == 5)
        assert [column.dtype for column in base.columns] == [column.dtype for column in full.columns]
        assert not any(map(len, base.columns))
        assert (base.high is None) == (width == 4)
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = base.no_such_name

    def test_it_merges(self, width):
        full = sorted_base({7: 1 << 32 | 5, 2: 3 << 32 | 9}, has_high=width == 5)
        for merged in (merge(empty_base(has_high=width == 5), full), merge(full, empty_base(has_high=width == 5))):
            assert [merged.get(needle_id) for needle_id in (2, 7)] == [(3, 9), (1, 5)]

    def test_an_index_on_it_lists_what_was_put(self, width):
        index = NeedleIndex.of(empty_base(has_high=width == 5), Counters())
        index.put(9, 4, 10)
        index.put(3, 8, 20)
        assert list(index.ascending()) == [(3, (8, 20)), (9, (4, 10))]


def fill(path, count):
    with closing(open_at(place(path, max_volumes=4))) as store:
        for volume_id in (1, 2):
            store.allocate_volume(volume_id)
        for number in range(count):
            store.get_volume(1).write(Needle(needle_id=number + 1, cookie=1, data=b"content"))


OPENS = """
import pathlib, sys
from supervisor.assembly import store
store.load_storage_core()
from native_handlers.format.needle import Needle
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.store import StoreConfig
path = pathlib.Path(sys.argv[1])
opened = store.open_without_collection(StoreConfig((LocationConfig(path, path, 4),)))
assert opened.open_count == 2
print("numpy" in sys.modules)
assert opened.get_volume(1).read(1).needle.data == b"content"
opened.get_volume(2).write(Needle(needle_id=1, cookie=1, data=b"other"))
opened.volume_reports()
opened.close()
print("numpy" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("count", "loaded"), [(SMALL_COUNT, "False"), (SMALL_COUNT + 1, "True")])
def test_a_start_loads_it_for_larger_volumes_alone(tmp_path, count, loaded):
    """Slow: starts a program."""
    fill(tmp_path, count)
    command = [sys.executable, "-c", OPENS, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.split() == [loaded, loaded]


@pytest.mark.slow
def test_threads_that_need_it_first_at_the_same_time_get_it():
    """Slow: starts a program."""
    code = (
        "import threading\n"
        "from native_handlers.arrays import np\n"
        "gate, found = threading.Barrier(8), []\n"
        "def work():\n"
        "    gate.wait()\n"
        "    found.append(int(np.arange(3).sum()))\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(found == [3] * 8)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.split() == ["True"]
