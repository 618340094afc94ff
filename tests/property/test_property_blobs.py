"""Arbitrary records and offsets of a client: an answer, or a clear refusal that changes nothing."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.stores import open_at

from native_handlers.format import crc
from native_handlers.format.errors import FormatError
from native_handlers.format.needle import Needle, encode_needle, parse_needle
from native_handlers.format.ttl import Ttl
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.errors import BlobRefused, StorageError

versions = st.sampled_from([1, 2, 3])
needles = st.builds(
    Needle,
    needle_id=st.integers(1, 2**64 - 1),
    cookie=st.integers(0, 2**32 - 1),
    data=st.binary(max_size=200),
    flags=st.integers(0, 255),
    name=st.binary(max_size=20),
    mime=st.binary(max_size=20),
    last_modified_s=st.integers(0, 2**40 - 1),
    ttl=st.builds(Ttl, st.integers(0, 255), st.integers(0, 6)),
    pairs=st.binary(max_size=30),
    append_at_ns=st.integers(0, 2**64 - 1),
)


@contextlib.contextmanager
def a_volume(version):
    with tempfile.TemporaryDirectory(prefix="blobs-") as name:
        directory = Path(name)
        with contextlib.closing(open_at(directory)) as store:
            volume = store.allocate_volume(7, version=version)
            volume.write(Needle(needle_id=1, cookie=5, data=b"there before"))
            yield volume, directory
        assert check_directory(directory).is_healthy


def record_of(needle, version):
    needle.checksum = crc.crc32c(needle.data)
    return encode_needle(needle, version)


@given(needle=needles, version=versions)
def test_a_record_is_stored_and_read_back_as_it_is(needle, version):
    blob = record_of(needle, version)
    with a_volume(version) as (volume, _):
        result = volume.write_blob(needle.needle_id, blob, needle.size)
        stored = volume.read_blob(result.offset, needle.size)
        assert volume.write_blob(needle.needle_id, stored, needle.size).is_unchanged
        meta = volume.read_meta(result.offset, needle.size)
    expected, found = parse_needle(blob, version), parse_needle(stored, version)
    found.append_at_ns = expected.append_at_ns
    assert found == expected
    if needle.size:
        assert (meta.cookie, meta.ttl, meta.last_modified_s) == (found.cookie, found.ttl, found.last_modified_s)


@given(needle=needles, version=versions, data=st.data())
def test_a_damaged_record_is_refused_or_says_the_same(needle, version, data):
    """The checksum covers the payload only: other damage can make another needle."""
    blob = bytearray(record_of(needle, version))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] ^= data.draw(st.integers(1, 255))
    size = data.draw(st.sampled_from([needle.size, int.from_bytes(blob[12:16], "big", signed=True)]))
    with a_volume(version) as (volume, directory):
        before = (directory / "7.dat").read_bytes(), (directory / "7.idx").read_bytes()
        own_id = int.from_bytes(blob[4:12], "big")
        try:
            volume.write_blob(own_id, bytes(blob), size)
        except BlobRefused:
            assert ((directory / "7.dat").read_bytes(), (directory / "7.idx").read_bytes()) == before
        else:
            with contextlib.closing(volume.live_needles(lambda: True)) as walk:
                assert own_id in {found.needle_id for found in walk}


@given(
    offset=st.one_of(st.integers(-16, 400), st.integers(-(2**63), 2**63 - 1)),
    size=st.one_of(st.integers(-40, 400), st.integers(-(2**31), 2**31 - 1)),
    version=versions,
)
def test_any_place_gives_bytes_of_the_file_or_a_refusal(offset, size, version):
    with a_volume(version) as (volume, directory):
        volume.write(Needle(needle_id=2, cookie=5, data=b"x" * 90))
        dat = (directory / "7.dat").read_bytes()
        with contextlib.suppress(StorageError):
            blob = volume.read_blob(offset, size)
            assert blob == dat[offset : offset + len(blob)]
        with contextlib.suppress(StorageError, FormatError):
            assert not volume.read_meta(offset, size).data
