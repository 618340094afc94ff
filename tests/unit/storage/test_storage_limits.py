"""Sizes at their ends: offsets that wrapped around, full volumes, large records that lie, stopping."""

from __future__ import annotations

import os

import pytest

from native_handlers.format.crc import crc32c
from native_handlers.format.errors import Corrupt, SizeMismatch, Truncated
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.storage import append, errors
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.store import Store, StoreConfig, open_store

COOKIE = 0xC0FFEE
WRAP = 32 << 30


def opened(path) -> Store:
    return open_store(StoreConfig((LocationConfig(path, path, 8),)))


@pytest.fixture
def store(tmp_path):
    made = opened(tmp_path)
    made.allocate_volume(7)
    yield made
    made.close()


def write(store, needle_id, data, **how):
    return store.write_needle(7, Needle(needle_id=needle_id, cookie=COOKIE, data=data), **how)


@pytest.mark.parametrize("data", [b"wrapped", b"w" * (1 << 21)], ids=["small", "large"])
@pytest.mark.damage("nothing but a gap of 32 GiB in front, which would take minutes to examine")
def test_a_record_beyond_what_4_byte_offsets_reach_is_found_32_gib_further_on(tmp_path, data):
    store = opened(tmp_path)
    store.allocate_volume(7)
    write(store, 1, b"at the same place, of another size")
    store.close()
    record = encode_needle(Needle(needle_id=2, cookie=COOKIE, data=data, checksum=crc32c(data), append_at_ns=5), 3)
    size = int.from_bytes(record[12:16], "big")
    with (tmp_path / "7.dat").open("r+b") as dat:
        dat.seek(WRAP + 8)
        dat.write(record)
    with (tmp_path / "7.idx").open("wb") as idx:
        idx.write(encode_entry(2, 1, size, 4))
    store = opened(tmp_path)
    assert store.findings == []
    read = store.read_needle(7, 2, cookie=COOKIE)
    if read.payload is None:
        assert read.needle.data == data
    else:
        assert read.payload.read(0, 100) == data[:100]
    read.release()
    with pytest.raises(errors.AppendOffsetExceeded, match=rf"^Volume Size \d+ Exceeded {WRAP}$"):
        write(store, 3, b"x")
    store.close()


def test_content_beyond_the_limit_is_refused(store, monkeypatch):
    monkeypatch.setattr(append, "max_volume_size_bytes", lambda _: 400)
    write(store, 1, b"x" * 300)
    with pytest.raises(errors.SizeLimitExceeded, match=r"^volume size limit 400 exceeded! current size is 305$"):
        write(store, 2, b"x" * 60)
    assert store.delete_needle(7, 1, COOKIE) == 305


def test_a_payload_beyond_the_size_field_is_refused(store, monkeypatch):
    monkeypatch.setattr("native_handlers.storage.volume_writer._MAX_BODY_BYTES", 2**17 + 100)
    with pytest.raises(errors.NeedleTooLarge):
        write(store, 1, b"x" * 101)
    write(store, 1, b"x" * 100)


@pytest.mark.damage("records that lie")
class TestRecordsThatLie:
    @pytest.fixture(params=[100, 2 << 20], ids=["small", "large"])
    def place(self, request, store, tmp_path):
        """Returns a function that overwrites bytes within the record of needle 1."""
        offset = write(store, 1, b"x" * request.param).offset

        def overwrite(at: int, data: bytes) -> None:
            with (tmp_path / "7.dat").open("r+b") as dat:
                dat.seek(offset + at)
                dat.write(data)

        return overwrite

    def test_another_size(self, store, place):
        place(12, b"\0\0\0\7")
        with pytest.raises((SizeMismatch, Truncated)):
            store.read_needle(7, 1, cookie=None)

    def test_another_needle_is_read_all_the_same(self, store, place):
        """As upstream: the index decides which record a needle is, for WriteNeedleBlob may enter any."""
        place(4, b"\1")
        read = store.read_needle(7, 1, cookie=COOKIE)
        assert read.needle.needle_id == 1 << 56 | 1
        read.release()

    @pytest.mark.parametrize("length", [b"\x7f\xff\xff\xff", b"\0\0\0\0"])
    def test_another_payload_length(self, store, place, length):
        place(16, length)
        with pytest.raises(Corrupt):
            store.read_needle(7, 1, cookie=None)

    def test_a_file_that_ends_early(self, store, place, tmp_path):
        os.truncate(tmp_path / "7.dat", 40)
        with pytest.raises(Truncated):
            store.read_needle(7, 1, cookie=None)
        os.truncate(tmp_path / "7.dat", 26)
        with pytest.raises(Truncated):
            store.read_needle(7, 1, cookie=None)

    def test_it_is_replaced_by_the_same_payload(self, store, place):
        place(30, b"?")
        size = 100 if store.find_volume(7).size_bytes < 1000 else 2 << 20
        assert store.write_needle(7, Needle(needle_id=1, cookie=COOKIE, data=b"x" * size)).is_unchanged is False


def test_stopping_syncs_and_goes_on(store):
    store.set_stopping()
    assert store.is_stopping
    write(store, 1, b"x")
    store.sync()
    assert store.read_needle(7, 1, cookie=COOKIE).needle.data == b"x"
