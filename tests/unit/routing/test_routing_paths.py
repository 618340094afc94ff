from __future__ import annotations

import pytest

from supervisor.routing.paths import segments_of, volume_id_in_path


@pytest.mark.parametrize(
    ("path", "volume_id"),
    [
        ("/3,01637037d6", 3),
        ("/3,01637037d6.jpg", 3),
        ("/3/01637037d6", 3),
        ("/3/01637037d6/name.txt", 3),
        ("/3/01637037d6/a,b", 3),
        ("/3", 3),
        ("/007,01", 7),
        ("/4294967298,01", 2),
        ("/18446744073709551615,01", 0xFFFFFFFF),
        ("/0000000000000000000000000000000000003,01", 3),
        ("/18446744073709551616,01", None),
        ("/" + "9" * 5000 + ",01", None),
        ("/", None),
        ("/,01", None),
        ("/x,01", None),
        ("/-3,01", None),
        ("/+3,01", None),
        ("/3_0,01", None),
        ("/\u0663,01", None),
        ("/\u00b2,01", None),
        ("/stats/counter", None),
        ("", None),
    ],
)
def test_volume_id_in_path(path, volume_id):
    assert volume_id_in_path(path) == volume_id


def test_segments_are_decoded_once_and_slashes_in_them_stay():
    assert segments_of("/a%2Fb/%2541") == (b"", b"a/b", b"%41")
