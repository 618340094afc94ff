"""Deletes of a needle that one holder cannot read: no copy of it lives on after the delete is acknowledged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.http_native import fetch, make_context
from support.moved_volumes import (
    FID,
    HELLO,
    OLD,
    SELF,
    Master,
    deleted,
    no_needle,
    put,
    servers,
    shorten_holder_wait,
    store_alone,
    unreachable,
)

from native_handlers.http.holders import HOLDER_HEADER, REQUIRED, YES
from native_handlers.storage.model.errors import Deleted, ReadFailed

REPLICA = f"{FID}?type=replicate"
FROM_HOLDER = {HOLDER_HEADER: REQUIRED}
OTHER_COOKIE = "/4,0212345679"
ALONE = "/3,0212345678"


async def delete(store, target=FID, headers=(), **others):
    """The answer, and the servers that were asked."""
    volume_servers = servers(**others)
    context = make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=volume_servers)
    answer = await fetch("http.delete", context, method="DELETE", target=target, headers=headers)
    return answer, volume_servers.asked


@pytest.fixture
async def stored(store, monkeypatch):
    """A store with the needle in volume 4, which has two copies."""
    shorten_holder_wait(monkeypatch)
    return await store_alone(store)


@pytest.fixture
def unreadable(stored, monkeypatch):
    """A store whose disk fails each read of the needle."""

    def fails(*_args, **_options):
        raise ReadFailed(Path("x"), 0, OSError(5, "EIO"))

    monkeypatch.setattr(stored.find_volume(4), "read", fails)
    return stored


@pytest.fixture
def damaged(stored, tmp_path):
    """A store with one wrong bit in the needle's payload."""
    _flip(tmp_path / "4.dat", 0)
    return stored


def _flip(dat, distance):
    """Flips a bit `distance` bytes after the beginning of the payload."""
    raw = bytearray(dat.read_bytes())
    raw[raw.index(HELLO) + distance] ^= 1
    with dat.open("r+b") as file:
        file.write(raw)


def is_live(store, volume_id=4):
    try:
        return store.find_volume(volume_id).read_cookie(2) == 0x12345678
    except Deleted:
        return False


# ---- a delete of another holder


@pytest.mark.parametrize("headers", [FROM_HOLDER, {}], ids=["ours", "upstreams"])
async def test_a_copy_that_cannot_be_read_fails_the_delete_of_another_holder(unreadable, headers):
    answer, asked = await delete(unreadable, REPLICA, headers)
    assert (answer.status, asked) == (500, [])
    assert json.loads(answer.body) == {"error": "Deletion Failed: read x at 0: EIO"}
    assert is_live(unreadable)


@pytest.mark.damage("that is what it is about")
async def test_a_damaged_copy_is_deleted_with_the_others(damaged):
    answer, asked = await delete(damaged, REPLICA, FROM_HOLDER)
    assert (answer.status, answer.headers.get(HOLDER_HEADER), asked) == (202, YES, [])
    assert not is_live(damaged)
    again, _ = await delete(damaged, REPLICA, FROM_HOLDER)
    assert (again.status, again.headers.get(HOLDER_HEADER)) == (404, YES)


@pytest.mark.damage("that is what it is about")
async def test_a_damaged_copy_stays_where_its_cookie_does_not_fit(damaged):
    answer, _ = await delete(damaged, f"{OTHER_COOKIE}?type=replicate", FROM_HOLDER)
    assert answer.status == 500
    assert is_live(damaged)


# ---- a delete of a client


@pytest.mark.damage("that is what it is about")
async def test_the_only_copy_that_cannot_be_read_is_not_there_for_a_client(store, tmp_path):
    context = make_context(store=store)
    assert (await put(context, ALONE)).status == 201
    _flip(tmp_path / "3.dat", 0)
    answer, asked = await delete(store, ALONE)
    assert (answer.status, json.loads(answer.body), asked) == (404, {"size": 0}, [])
    assert is_live(store, 3)


async def deletes_both(store):
    answer, asked = await delete(store, old=deleted)
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 44})
    assert set(asked) == {OLD.url}
    assert not is_live(store)


async def test_what_another_holder_can_read_is_deleted_at_both(unreadable):
    await deletes_both(unreadable)


@pytest.mark.damage("that is what it is about")
async def test_what_is_damaged_here_alone_is_deleted_at_both(damaged):
    await deletes_both(damaged)


async def test_what_cannot_be_read_here_stays_where_another_holder_does_not_delete_it(unreadable):
    answer, _ = await delete(unreadable, old=unreachable)
    assert answer.status == 500
    assert is_live(unreadable)


async def test_what_only_this_holder_may_have_fails_the_delete(unreadable):
    answer, _ = await delete(unreadable, old=no_needle)
    assert answer.status == 500
    assert is_live(unreadable)


@pytest.mark.damage("that is what it is about")
async def test_the_last_copy_is_deleted_though_it_is_damaged(damaged):
    answer, _ = await delete(damaged, old=no_needle)
    assert (answer.status, json.loads(answer.body)["size"] > 0) == (202, True)
    assert not is_live(damaged)


async def test_a_deletion_that_cannot_be_recorded_here_fails_the_delete(unreadable, monkeypatch):
    def is_full(*_args, **_options):
        raise OSError(28, "no space")

    monkeypatch.setattr(unreadable.find_volume(4), "delete", is_full)
    answer, asked = await delete(unreadable, old=deleted)
    assert (answer.status, set(asked)) == (500, {OLD.url})
