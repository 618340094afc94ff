"""The window through which scans read .dat: the bytes are those of the file, and reads are few."""

from hypothesis import given
from hypothesis import strategies as st

from native_handlers.storage.volume.window import DatWindow

CONTENT = bytes(range(251)) * 4
WINDOW_BYTES = 64


class Recorded:
    """A file in memory that records its reads."""

    def __init__(self, content=CONTENT):
        self.content = content
        self.reads = []

    def __call__(self, length_bytes, offset_bytes):
        self.reads.append((offset_bytes, length_bytes))
        return self.content[offset_bytes : offset_bytes + length_bytes]


places = st.tuples(st.integers(0, 3 * WINDOW_BYTES), st.integers(0, len(CONTENT)))


@given(asked=st.lists(places), end=st.integers(0, len(CONTENT)), is_cut=st.booleans())
def test_it_gives_the_bytes_of_the_file_up_to_the_end(asked, end, is_cut):
    file = Recorded(CONTENT[: end // 2] if is_cut else CONTENT)
    window = DatWindow(file, end, WINDOW_BYTES)
    for length, offset in asked:
        if offset <= end:
            assert window.read(length, offset) == file.content[offset : min(offset + length, end)]


def test_what_lies_side_by_side_is_one_read():
    file = Recorded()
    window = DatWindow(file, len(CONTENT), WINDOW_BYTES)
    for offset in range(0, WINDOW_BYTES, 8):
        window.read(8, offset)
    assert file.reads == [(0, WINDOW_BYTES)]


def test_a_piece_larger_than_the_window_leaves_the_window_where_it_is():
    file = Recorded()
    window = DatWindow(file, len(CONTENT), WINDOW_BYTES)
    window.read(8, 0)
    window.read(2 * WINDOW_BYTES, 16)
    window.read(8, 8)
    assert file.reads == [(0, WINDOW_BYTES), (16, 2 * WINDOW_BYTES)]


def test_a_walk_moves_the_end_of_a_file_that_grows():
    file = Recorded()
    window = DatWindow(file, 16, WINDOW_BYTES)
    assert window.read(16, 8) == CONTENT[8:16]
    window.end_bytes = 24
    assert window.read(16, 8) == CONTENT[8:24]
