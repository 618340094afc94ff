"""File ids of a BatchDelete: the fast parser of usual ids agrees with the general parser."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_needle_id_cookie, parse_volume_id
from native_handlers.grpc.needles import parse_any_volume


@given(volume=st.text("0123456789+a", max_size=12), rest=st.text("0123456789abcdefAF_", max_size=28))
def test_volume_needle_and_cookie_are_those_of_the_parts(volume, rest):
    try:
        volume_id = parse_volume_id(volume)
    except BadFileId:
        volume_id = 0
    try:
        expected = (volume_id, *parse_needle_id_cookie(rest)) if volume else None
    except BadFileId:
        expected = None
    try:
        found = parse_any_volume(f"{volume},{rest}")
    except BadFileId:
        found = None
    assert found == expected
