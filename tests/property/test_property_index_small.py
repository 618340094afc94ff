"""The index of a few rows, built one by one, equals the index built from columns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.format.idx import encode_entry
from native_handlers.storage.directory.scan import collections_of, ids_with_data, volume_candidates
from native_handlers.storage.index import build as index_build
from native_handlers.storage.index.build import build_index
from native_handlers.storage.index.small import SMALL_BYTES, build_small_index

ROWS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([0, 1, 2, 900, 2**31]), st.sampled_from([-1, -9, 0, 5, 77])),
    min_size=1,
)
STEMS = st.builds(
    lambda collection, number: f"{collection}{number}",
    st.sampled_from(["", "a_", "1_", "_", "a_1_"]),
    st.sampled_from([1, 11, 21, "x", "01", 2**32 + 1]),
)
NAMES = st.lists(st.builds(lambda stem, extension: stem + extension, STEMS, st.sampled_from([".dat", ".idx", ".vif"])))


@given(ROWS, st.sampled_from([4, 5]), st.sampled_from([1, 2, 3]), st.binary(max_size=3))
def test_same_index_and_counters(rows, width, version, partial):
    data = b"".join(encode_entry(*row, width) for row in rows) + partial
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_build, "SMALL_BYTES", -1)
        from_columns = build_index(data, width, version)
    small = build_small_index(data, width, version)
    assert small.index.counters == from_columns.index.counters
    assert list(small.index.ascending()) == list(from_columns.index.ascending())
    assert (small.row_count, small.last_row) == (from_columns.row_count, from_columns.last_row)
    assert small.max_end_bytes == from_columns.max_end_bytes


def test_few_rows_need_no_columns(monkeypatch):
    monkeypatch.setattr(index_build, "split_columns", None)
    row = encode_entry(1, 1, 5, 4)
    assert build_index(row * (SMALL_BYTES // len(row)), 4, 3).index.get(1).size == 5
    assert not build_index(b"", 4, 3).row_count


@given(NAMES)
def test_one_volumes_collections_are_those_of_all(names):
    """Except where a file name is not the volume's usual one."""
    found = volume_candidates(names)
    showing = {name[:-4] for name in names if name.endswith((".idx", ".vif"))}
    for volume_id in (1, 11, 21, 2):
        rightly_named = [one for one in found.get(volume_id, []) if _stem(one, volume_id) in showing]
        assert set(rightly_named) <= set(collections_of(names, volume_id)) <= set(found.get(volume_id, []))
    with_data = ids_with_data(names)
    assert set(with_data) <= set(found)
    assert len(with_data) == len(set(with_data))
    both = [name[:-4] for name in names if name.endswith(".dat") and name[:-4] in showing]
    assert both or not with_data


def _stem(collection, volume_id):
    return f"{collection}_{volume_id}" if collection else str(volume_id)
