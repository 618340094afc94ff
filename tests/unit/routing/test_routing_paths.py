from __future__ import annotations

from supervisor.routing.match import segments_of


def test_segments_are_decoded_once_and_slashes_in_them_stay():
    assert segments_of("/a%2Fb/%2541") == (b"", b"a/b", b"%41")
