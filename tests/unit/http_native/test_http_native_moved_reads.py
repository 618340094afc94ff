"""Volumes move during reads: what is held anywhere is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.http_native import SETTINGS, fetch, make_context, manifest_of
from support.moved_volumes import (
    FID,
    HELLO,
    NEW,
    OLD,
    SELF,
    Master,
    body,
    go_not_found,
    put,
    servers,
    shorten_holder_wait,
    store_alone,
    unreachable,
    volume_gone,
)

from native_handlers.http.ec_volumes import StoreEcVolumes
from native_handlers.http.holders import HOLDER_HEADER, NO, REQUIRED, YES
from native_handlers.http_model.read_mode import ReadMode
from native_handlers.storage.erasure_coding.remote import ShardUnreachable
from native_handlers.storage.model.errors import ReadFailed, VolumeClosed


@pytest.fixture(autouse=True)
def _short_holder_wait(monkeypatch):
    shorten_holder_wait(monkeypatch)


@pytest.fixture
async def stored(store):
    return await store_alone(store)


def reading(master, volume_servers, mode=ReadMode.PROXY):
    return make_context(settings=replace(SETTINGS, read_mode=mode), lookup=master, volume_servers=volume_servers)


@pytest.mark.parametrize("denial", [volume_gone, go_not_found, unreachable])
async def test_a_read_goes_on_with_the_server_to_which_the_volume_moved(denial):
    master, volume_servers = Master([OLD], [[NEW]]), servers(old=denial, new=body)
    answer = await fetch("http.read", reading(master, volume_servers), target="/9,0212345678")
    assert (answer.status, answer.body) == (200, HELLO)
    assert volume_servers.asked == [OLD.url, NEW.url]


async def test_a_read_of_what_this_server_held_asks_the_master():
    master, volume_servers = Master([SELF], [[NEW]]), servers(new=body)
    assert (await fetch("http.read", reading(master, volume_servers), target="/9,0212345678")).body == HELLO


async def test_a_holders_404_is_the_answer():
    master, volume_servers = Master([OLD]), servers(old=go_not_found)
    assert (await fetch("http.read", reading(master, volume_servers), target="/9,0212345678")).status == 404
    assert (volume_servers.asked, master.refreshes) == ([OLD.url], 1)


async def test_a_404_of_a_holder_that_says_so_costs_no_look_up():
    master = Master([OLD])
    context = reading(master, servers(old=lambda _: (404, [(HOLDER_HEADER, YES)], b"")))
    answer = await fetch("http.read", context, target="/9,0212345678")
    assert (answer.status, answer.headers.get(HOLDER_HEADER), master.refreshes) == (404, None, 0)


@pytest.mark.parametrize("target", ["/4,0312345678", "/4,0212345679"], ids=["absent", "other-cookie"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_holder_says_that_it_lacks_the_needle_and_not_the_volume(stored, target, method):
    context, target = make_context(store=stored), f"{target}?proxied=true"
    answer = await fetch("http.read", context, method=method, target=target, headers={HOLDER_HEADER: REQUIRED})
    assert (answer.status, answer.headers.get(HOLDER_HEADER)) == (404, YES)
    answer = await fetch("http.read", context, method=method, target=target)
    assert (answer.status, answer.headers.get(HOLDER_HEADER)) == (404, None)


async def test_a_volume_that_all_deny_is_404():
    volume_servers = servers(old=volume_gone, new=volume_gone)
    answer = await fetch("http.read", reading(Master([OLD], [[NEW]]), volume_servers), target="/9,0212345678")
    assert (answer.status, answer.headers.get(HOLDER_HEADER)) == (404, None)
    assert volume_servers.asked == [OLD.url, NEW.url]


async def test_a_redirect_for_what_this_server_held_goes_where_it_is_now():
    context = reading(Master([SELF], [[NEW]]), servers(), ReadMode.REDIRECT)
    answer = await fetch("http.read", context, target="/9,0212345678")
    assert answer.headers.get("Location") == f"http://{NEW.url}/9,0212345678?proxied=true"


async def test_a_volume_that_goes_during_a_read_is_read_where_it_is_then(stored, monkeypatch):
    master, volume_servers = Master([SELF, OLD], [[OLD, NEW]]), servers(old=body, new=body)
    volume = stored.get_volume(4)
    read = volume.read

    def goes(*more, **options):
        stored.unmount_volume(4)
        return read(*more, **options)

    monkeypatch.setattr(volume, "read", goes)
    context = make_context(store=stored, lookup=master, volume_servers=volume_servers)
    assert (await fetch("http.read", context, target=FID)).body == HELLO
    assert len(volume_servers.asked) == 1


@pytest.fixture
async def of_manifest(stored):
    """The target of a manifest in volume 6, whose one chunk is the needle of FID."""
    stored.allocate_volume(6)
    target = "/6,0112345678"
    manifest = manifest_of((FID[1:], 0, len(HELLO)), size=len(HELLO))
    assert (await put(make_context(store=stored), f"{target}?cm=true", manifest)).status == 201
    return target


async def test_a_chunk_whose_volume_goes_during_a_read_is_read_where_it_is_then(stored, of_manifest, monkeypatch):
    volume_servers, volume = servers(old=body), stored.get_volume(4)
    read = volume.read

    def goes(*more, **options):
        stored.unmount_volume(4)
        return read(*more, **options)

    monkeypatch.setattr(volume, "read", goes)
    context = make_context(store=stored, lookup=Master([OLD]), volume_servers=volume_servers)
    assert (await fetch("http.read", context, target=of_manifest)).body == HELLO
    assert volume_servers.asked == [OLD.url]


async def test_a_chunk_that_is_nowhere_breaks_the_answer_off(stored, of_manifest):
    stored.unmount_volume(4)
    answer = await fetch("http.read", make_context(store=stored), target=of_manifest)
    assert answer.status == 500 or answer.breaks_off


@pytest.fixture
def forms(stored):
    """What it takes to code and decode volume 4 of the store, and its native context."""
    return Forms(stored), make_context(store=stored, ec_volumes=StoreEcVolumes(stored))


class Forms:
    def __init__(self, store):
        self.store = store

    def open_shards(self):
        for shard in range(14):
            self.store.ec.mount("", 4, shard)

    def code(self):
        self.store.ec_work.generate(self.store.get_volume(4), "")
        self.open_shards()

    def go_to_shards(self):
        self.store.delete_volume(4, only_empty=False)

    def decode(self):
        self.store.ec_work.decode("", 4, was_open=False)
        self.store.mount_volume(4)
        self.store.ec.unload(4)


async def test_a_volume_that_goes_in_favour_of_its_shards_during_a_read_is_read_from_them(forms, monkeypatch):
    forms, context = forms
    forms.code()
    volume = forms.store.get_volume(4)
    read = volume.read

    def goes(*more, **options):
        forms.go_to_shards()
        return read(*more, **options)

    monkeypatch.setattr(volume, "read", goes)
    assert (await fetch("http.read", context, target=FID)).body == HELLO


async def test_a_chunk_whose_volume_is_coded_during_a_read_is_read_from_the_shards(forms, of_manifest, monkeypatch):
    forms, context = forms
    forms.code()
    volume = forms.store.get_volume(4)
    read = volume.read

    def goes(*more, **options):
        forms.go_to_shards()
        return read(*more, **options)

    monkeypatch.setattr(volume, "read", goes)
    assert (await fetch("http.read", context, target=of_manifest)).body == HELLO


async def test_a_chunk_whose_shards_go_during_a_read_is_read_from_the_volume(forms, of_manifest, monkeypatch):
    forms, context = forms
    forms.code()
    forms.go_to_shards()

    def goes(*_more, **_options):
        forms.decode()
        raise VolumeClosed(4)

    monkeypatch.setattr(forms.store.ec_reader, "read_needle", goes)
    assert (await fetch("http.read", context, target=of_manifest)).body == HELLO


async def test_a_volume_that_is_closed_and_not_yet_forgotten_is_read_from_its_shards(forms, monkeypatch):
    forms, context = forms
    forms.code()
    volume = forms.store.get_volume(4)
    forms.go_to_shards()
    monkeypatch.setitem(forms.store.locations[0].volumes, 4, volume)
    assert (await fetch("http.read", context, target=FID)).body == HELLO
    monkeypatch.undo()


@pytest.mark.parametrize("failure", [VolumeClosed(4), ShardUnreachable("too few")])
async def test_shards_that_go_in_favour_of_the_volume_during_a_read_leave_it_to_the_volume(forms, monkeypatch, failure):
    forms, context = forms
    forms.code()
    forms.go_to_shards()

    def goes(*_more, **_options):
        forms.decode()
        raise failure

    monkeypatch.setattr(forms.store.ec_reader, "read_needle", goes)
    assert (await fetch("http.read", context, target=FID)).body == HELLO


async def test_a_server_that_was_asked_as_a_holder_says_that_it_is_none():
    for mode in ReadMode:
        context = reading(Master([OLD]), servers(), mode)
        fields = {HOLDER_HEADER: REQUIRED}
        answer = await fetch("http.read", context, target="/9,0212345678?proxied=true", headers=fields)
        assert (answer.status, answer.headers.get(HOLDER_HEADER)) == (404, NO)
        answer = await fetch("http.read", context, target="/9,0212345678?proxied=true")
        assert (answer.status, answer.headers.get(HOLDER_HEADER)) == (404, None)


@pytest.mark.slow
async def test_shards_that_go_during_a_read_leave_it_to_the_server_that_has_the_volume(stored, monkeypatch):
    """As at the end of ec.decode: each server closes its shards, and other shards are gone already.
    Slow: codes a volume.
    """
    forms, volume_servers = Forms(stored), servers(old=body)
    forms.code()
    forms.go_to_shards()

    def goes(volume_id, *_more, **_options):
        stored.ec.unload(volume_id)
        raise ReadFailed(Path("7.ec00"), 0, OSError(f"volume {volume_id}: too few shards"))

    monkeypatch.setattr(stored.ec_reader, "read_needle", goes)
    lookup = Master([SELF], [[OLD]])
    context = make_context(
        store=stored, ec_volumes=StoreEcVolumes(stored), lookup=lookup, volume_servers=volume_servers
    )
    assert (await fetch("http.read", context, target=FID)).body == HELLO
    assert volume_servers.asked == [OLD.url]
