import os
import threading
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families
from support.stores import NODE, place
from support.waiting import LIMIT_S, until

from native_handlers.format.errors import ChecksumMismatch
from native_handlers.format.needle import Needle
from native_handlers.http_model.volume_servers import VolumeServerFailureKind
from native_handlers.runtime.server_counts import ServerCounts
from native_handlers.storage.volume.damage import Damage, DamageKind
from native_handlers.storage.volume.volume import Volume
from supervisor.control import process_facts
from supervisor.control.metrics import (
    Gauge,
    HttpCountCollector,
    NodeExposition,
    Registry,
    StateCollector,
    SupervisorMetrics,
    serve_metrics,
)
from supervisor.control.process_facts import process_families
from supervisor.control.text_format import Family
from supervisor.control.volume_metrics import NodeNumbers, VolumeMetrics
from supervisor.routing.decision import Engine


def value_of(registry, name, labels=None):
    """What a scraper reads of one series."""
    text = "".join(family.render() for family in registry.collect())
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next(sample.value for sample in samples if (sample.name, sample.labels) == (name, labels or {}))


def test_rpcs_are_counted_by_route_engine_and_code():
    registry = Registry()
    metrics = SupervisorMetrics(registry)
    metrics.count_rpc("grpc.Ping", "native", "200", 0.01)
    metrics.count_rpc("grpc.Ping", "native", "200", 0.02)
    labels = {"route": "grpc.Ping", "engine": "native", "code": "200"}
    assert value_of(registry, "SeaweedFS_volumeSupervisor_rpcs_total", labels) == 2
    del labels["code"]
    assert value_of(registry, "SeaweedFS_volumeSupervisor_rpc_seconds_sum", labels) == pytest.approx(0.03)
    assert value_of(registry, "SeaweedFS_volumeSupervisor_rpc_seconds_bucket", labels | {"le": "+Inf"}) == 2


def test_http_requests_of_both_listeners_are_one_series():
    registry = Registry()
    admin = Counter({("http.read", Engine.NATIVE): 2, ("http.read", Engine.BACKEND): 1})
    registry.register(HttpCountCollector([admin, Counter({("http.read", Engine.NATIVE): 3})]))

    def value(engine):
        labels = {"route": "http.read", "engine": engine}
        return value_of(registry, "SeaweedFS_volumeSupervisor_http_requests_total", labels)

    assert (value("native"), value("backend")) == (5, 1)


def test_facts_are_read_at_each_scrape():
    registry, restarts = Registry(), []
    registry.register(StateCollector({"child_restarts": Gauge("Restarts.", (), lambda: {(): len(restarts)})}))
    name = "SeaweedFS_volumeSupervisor_child_restarts"
    assert value_of(registry, name) == 0
    restarts.append(1)
    assert value_of(registry, name) == 1


def test_a_gauge_is_written_anew_when_its_values_have_changed():
    states = {("http.read", "native"): 1}
    collector = StateCollector({"route_state": Gauge("States.", ("route", "state"), lambda: states)})
    (first,) = collector.collect()
    (second,) = collector.collect()
    assert second is first
    del states["http.read", "native"]
    states["http.read", "forward"] = 1
    (third,) = collector.collect()
    assert third.name == first.name == "SeaweedFS_volumeSupervisor_route_state"
    assert 'state="forward"} 1' in third.render()
    assert "native" not in third.render()
    states.clear()
    assert [family.render() for family in collector.collect()] == [""]


@pytest.fixture
def store(tmp_path, opened):
    return opened(place(tmp_path, max_volumes=7), volumes=(), **NODE)


def metrics_of(store, counts=None):
    numbers = NodeNumbers(
        started_at_s=12.0,
        version="4.44",
        commit="abc",
        size_limit="30GB",
        upload_limit_bytes=5,
        download_limit_bytes=6,
        upload_bytes_in_flight=lambda: 3,
        download_bytes_in_flight=lambda: 4,
        master_disconnections=lambda: {"10.0.0.1:9333": 2},
    )
    return VolumeMetrics(store, counts or ServerCounts(), numbers)


def samples_of(metrics):
    return {series: value for family in metrics.collect() for series, value in family.samples.items()}


def test_a_stores_gauges_have_upstreams_names(store):
    store.allocate_volume(5, collection="pics", replication="000", ttl="", preallocate_bytes=0, disk_type="", version=3)
    store.get_volume(5).write(Needle(cookie=1, needle_id=2, data=b"x" * 100))
    store.mark_readonly(store.get_volume(5))
    metrics = metrics_of(store)

    def value(series, **labels):
        pairs = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels))
        return samples_of(metrics).get(f"SeaweedFS_volumeServer_{series}" + (f"{{{pairs}}}" if pairs else ""))

    assert value("start_time_seconds") == 12
    assert value("volumes", collection="pics", type="volume") == 1
    assert value("read_only_volumes", collection="pics", type="IsReadOnly") == 1
    assert value("read_only_volumes", collection="pics", type="noWriteOrDelete") == 1
    assert value("read_only_volumes", collection="pics", type="noWriteCanDelete") == 0
    assert value("read_only_volumes", collection="pics", type="isDiskSpaceLow") == 0
    assert value("max_volumes") == 7
    assert value("total_disk_size", collection="pics", type="normal") > 100
    directory = str(store.locations[0].path)
    assert value("resource", name=directory, type="all") > value("resource", name=directory, type="avail") > 0
    assert value("disk_error_status", name=directory, type="error") == 0
    store.locations[0].health.problem = "statfs: timeout"
    assert value("disk_error_status", name=directory, type="error") == 1
    store.locations[0].health.problem = ""
    store.ec_work.generate(store.get_volume(5), "pics")
    assert value("volumes", collection="pics", type="ec_shards") is None
    for shard_id in range(3):
        store.ec.mount("pics", 5, shard_id)
    assert value("volumes", collection="pics", type="ec_shards") == 3
    assert value("total_disk_size", collection="pics", type="ec") == 3 << 20
    store.delete_volume(5, only_empty=False)
    assert value("volumes", collection="pics", type="volume") is None
    assert value("volumes", collection="pics", type="ec_shards") == 3
    store.delete_collection("pics")
    assert value("volumes", collection="pics", type="ec_shards") is None
    assert value("total_disk_size", collection="pics", type="ec") is None


def test_facts_of_the_node():
    samples = samples_of(metrics_of(None))
    prefix = "SeaweedFS_volumeServer_"
    assert samples[f"{prefix}concurrent_upload_limit"] == 5
    assert samples[f"{prefix}concurrent_download_limit"] == 6
    assert samples[f"{prefix}in_flight_upload_size"] == 3
    assert samples[f"{prefix}in_flight_download_size"] == 4
    assert samples[f'{prefix}master_disconnections{{address="10.0.0.1:9333"}}'] == 2
    (build,) = [series for series in samples if series.startswith("SeaweedFS_build_info")]
    assert all(part in build for part in ('commit="abc"', 'version="4.44"', 'sizelimit="30GB"', 'goos="linux"'))
    assert not any(series.startswith(f"{prefix}volumes") for series in samples)


def test_every_count_has_its_family():
    counts = ServerCounts()
    counts.count_request("GET", 200, 0.00015)
    counts.count_handler("errorGetNotFound")
    counts.count_read_failure()
    counts.count_read_invalid_needle()
    counts.count_write_failure()
    counts.count_upload_error(0)
    counts.observe_request("writeToReplicas", 1000.0)
    counts.observe_replication("write", 0, 0.5, None)
    counts.observe_replication("write", 2, 0.5, None)
    counts.observe_replication("delete", 1, 0.5, VolumeServerFailureKind.TIMEOUT)
    samples = samples_of(metrics_of(None, counts))
    with counts.in_flight("PUT"):
        busy = samples_of(metrics_of(None, counts))
    prefix = "SeaweedFS_volumeServer_"
    expected = {
        'request_total{code="200",type="GET"}': 1,
        'request_seconds_bucket{type="GET",le="0.0001"}': 0,
        'request_seconds_bucket{type="GET",le="0.0002"}': 1,
        'request_seconds_bucket{type="GET",le="838.8608"}': 1,
        'request_seconds_bucket{type="GET",le="+Inf"}': 1,
        'request_seconds_count{type="GET"}': 1,
        'request_seconds_bucket{type="writeToReplicas",le="838.8608"}': 0,
        'request_seconds_bucket{type="writeToReplicas",le="+Inf"}': 1,
        'request_seconds_sum{type="writeToReplicas"}': 1000,
        'handler_total{type="errorGetNotFound"}': 1,
        "file_read_failures": 1,
        "file_read_invalid_needles": 1,
        "file_write_failures": 1,
        'replication_targets_bucket{le="1"}': 2,
        "replication_targets_count": 3,
        "replication_targets_sum": 3,
        'replication_seconds_count{operation="write"}': 1,
        'replication_operations_total{operation="write",result="success"}': 1,
        'replication_operations_total{operation="delete",result="failure"}': 1,
        'replication_failures_total{operation="delete",reason="timeout"}': 1,
    }
    assert {name: samples.get(prefix + name) for name in expected} == expected
    assert samples['SeaweedFS_upload_error_total{code="0"}'] == 1
    assert busy[f'{prefix}in_flight_requests{{type="PUT"}}'] == 1


def test_scrubs_and_rebuilds_of_shards_are_counted():
    counts = ServerCounts()
    counts.observe_scrub("LOCAL", 1, 7.0)
    counts.observe_ec_scrub("LOCAL", 2, 3, 9.0)
    counts.observe_ec_rebuild(0.015, is_success=True)
    counts.observe_ec_rebuild(1.0, is_success=False)
    samples = samples_of(metrics_of(None, counts))
    prefix = "SeaweedFS_volumeServer_"
    expected = {
        'scrub_volume_failures{mode="LOCAL"}': 3,
        'scrub_shard_failures{mode="LOCAL"}': 3,
        'scrub_last_time_seconds{mode="LOCAL"}': 9,
        'ec_rebuild_total{result="success"}': 1,
        'ec_rebuild_total{result="failure"}': 1,
        'ec_rebuild_seconds_bucket{result="success",le="0.01"}': 0,
        'ec_rebuild_seconds_bucket{result="success",le="0.02"}': 1,
        'ec_rebuild_seconds_bucket{result="success",le="5242.88"}': 1,
        'ec_rebuild_seconds_sum{result="failure"}': 1,
    }
    assert {name: samples.get(prefix + name) for name in expected} == expected


def test_no_count_is_lost_between_threads():
    counts = ServerCounts()

    def count():
        for _ in range(2000):
            counts.count_request("GET", 200, 0.001)
            counts.begin("GET")
            counts.end("GET")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = counts.snapshot()
    assert now.request_total["GET", "200"] == sum(now.request_seconds["GET"].counts) == 16000
    assert now.in_flight_requests["GET"] == 0


def test_damage_and_want_of_room_have_gauges_of_our_own(store):
    """Upstream has none."""
    directory = str(store.locations[0].path)

    def values():
        samples = samples_of(metrics_of(store))
        prefix = "SeaweedFS_volumeSupervisor_"
        return samples[f"{prefix}damaged_volumes"], samples[f'{prefix}disk_short{{name="{directory}"}}']

    store.allocate_volume(5)
    written = store.get_volume(5).write(Needle(cookie=1, needle_id=2, data=b"x" * 100))
    assert values() == (0, 0)
    with (store.locations[0].path / "5.dat").open("r+b") as file:
        file.seek(written.offset + 50)
        file.write(b"y")
    with pytest.raises(ChecksumMismatch):
        store.get_volume(5).read(2, cookie=1)
    assert values() == (1, 0)
    store.locations[0].usage.is_low = True
    assert values() == (1, 1)


async def scrape(text, method=b"GET", path=b"/metrics"):
    """A request over a socket, as Prometheus makes one. Returns the whole answer."""
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve_metrics, text, "127.0.0.1", 0)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (method, path))
            answer = b"".join([piece async for piece in stream])
        nursery.cancel_scope.cancel()
    return answer


async def test_the_port_serves_one_family_for_both_engines():
    registry, counts = Registry(), ServerCounts()
    SupervisorMetrics(registry).count_rpc("grpc.Ping", "backend", "200", 0.1)
    counts.count_request("GET", 200, 0.1)

    async def child():
        return (
            b"# HELP SeaweedFS_volumeServer_request_total Counter.\n"
            b"# TYPE SeaweedFS_volumeServer_request_total counter\n"
            b'SeaweedFS_volumeServer_request_total{code="200",type="GET"} 3\n'
            b'SeaweedFS_volumeServer_request_total{code="404",type="GET"} 1\n'
            b"# TYPE SeaweedFS_volumeServer_start_time_seconds gauge\nSeaweedFS_volumeServer_start_time_seconds 99\n"
            b"# TYPE go_goroutines gauge\ngo_goroutines 38\n"
        )

    exposition = NodeExposition(registry, metrics_of(None, counts), child)
    head, _, body = (await scrape(exposition.text)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body.count(b"# TYPE SeaweedFS_volumeServer_request_total counter") == 1
    lines = body.decode().splitlines()
    assert 'SeaweedFS_volumeServer_request_total{code="200",type="GET"} 4' in lines
    assert 'SeaweedFS_volumeServer_request_total{code="404",type="GET"} 1' in lines
    assert "SeaweedFS_volumeServer_start_time_seconds 12" in lines
    assert "go_goroutines 38" in lines
    assert body.decode().endswith("".join(family.render() for family in registry.collect()))


def test_the_process_has_the_families_of_every_library(monkeypatch):
    """The numbers are compared with those of prometheus_client, which lists the descriptors."""
    collected = {metric.name: metric for metric in ProcessCollector(registry=CollectorRegistry()).collect()}
    ours = {family.name: family for family in process_families()}
    assert {name.removesuffix("_total") for name in ours} == set(collected)
    for name in ("process_max_fds", "process_start_time_seconds"):
        assert ours[name].samples[name] == pytest.approx(collected[name].samples[0].value)
    assert ours["process_cpu_seconds_total"].kind == "counter"
    assert all(value > 0 for family in ours.values() for value in family.samples.values())


@pytest.mark.parametrize("is_old_kernel", [False, True])
def test_open_descriptors_are_counted(monkeypatch, tmp_path, is_old_kernel):
    def count():
        return next(family.samples[family.name] for family in process_families() if family.name == "process_open_fds")

    if is_old_kernel:
        stat = os.stat
        monkeypatch.setattr(
            process_facts.os, "stat", lambda path: os.stat_result((0,) * 10) if "fd" in str(path) else stat(path)
        )
    before = count()
    with (tmp_path / "file").open("w"), (tmp_path / "other").open("w"):
        assert count() == before + 2


def test_damaged_volumes_are_counted_without_looking_at_all(store, monkeypatch):
    """A scrape of thousands of volumes touches only volumes with reported damage."""
    for volume_id in (5, 6):
        store.allocate_volume(volume_id)
    asked = []
    monkeypatch.setattr(Volume, "is_damaged", property(lambda volume: asked.append(volume.id) or True))
    store.locations[0].damage.report(Path("6"), Damage(6, 1, DamageKind.SIZE, "x"), is_first=True)
    assert (store.damaged_count, asked) == (1, [6])
    store.unmount_volume(6)
    assert store.damaged_count == 0


async def test_the_port_answers_as_upstreams():
    async def text():
        return b"some_metric 1\n"

    for method in (b"GET", b"POST"):
        head, _, body = (await scrape(text, method)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
        assert body == b"some_metric 1\n"
    head, _, body = (await scrape(text, b"HEAD")).partition(b"\r\n\r\n")
    assert (head.startswith(b"HTTP/1.1 200 "), body) == (True, b"")
    head, _, body = (await scrape(text, path=b"/metrics/")).partition(b"\r\n\r\n")
    assert (head.startswith(b"HTTP/1.1 404 "), body) == (True, b"404 page not found\n")


async def test_a_disk_that_hangs_keeps_no_other_task_from_its_turn():
    """The text is made in a thread; the event loop goes on meanwhile."""
    metrics, started, go_on = metrics_of(None), threading.Event(), threading.Event()
    collect = metrics.collect

    class Hanging:
        def collect(self):
            started.set()
            assert go_on.wait(LIMIT_S)
            return collect()

    exposition = NodeExposition(Registry(), Hanging())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exposition.text)
        await trio.testing.wait_all_tasks_blocked()
        assert started.wait(60)
        go_on.set()


async def test_many_scrapes_at_once_are_answered_with_one_text_that_is_new_to_all():
    """A stranger who scrapes without a pause delays a scraper by two texts at most."""
    made, go_on = [], threading.Event()

    class Slow:
        def collect(self):
            made.append(len(made))
            assert go_on.wait(LIMIT_S)
            family = Family("number", "gauge", "which text it is")
            family.add({}, made[-1])
            return [family]

    exposition = NodeExposition(Registry(), Slow())
    texts = []

    async def ask():
        texts.append(await exposition.text())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await until(lambda: made, "the thread to begin the text")
        for _ in range(50):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert [text.split()[-1] for text in texts] == [b"0", *[b"1"] * 50]


async def test_a_scrape_that_is_given_up_leaves_the_others_their_text():
    exposition = NodeExposition(Registry(), metrics_of(None))
    with trio.CancelScope() as scope:
        scope.cancel()
        await exposition.text()
    assert b"process_" in await exposition.text()


@pytest.mark.slow
async def test_connections_that_ask_nothing_do_not_keep_a_scraper_out():
    """Slow: hundreds of connections."""

    async def text():
        return b"some_metric 1\n"

    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        port = await nursery.start(serve_metrics, text, "127.0.0.1", 0)
        for _ in range(200):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
        stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with trio.fail_after(60):
            assert b"some_metric 1\n" in b"".join([piece async for piece in stream])
        nursery.cancel_scope.cancel()
