from collections import Counter

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest

from native_handlers.format.needle import Needle
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.store import StoreConfig, open_store
from supervisor.control.metrics import Gauge, HttpCountCollector, StateCollector, SupervisorMetrics
from supervisor.control.metrics_app import metrics_app, serve_metrics
from supervisor.control.volume_metrics import StoreCollector
from supervisor.routing.decision import Engine


def test_rpcs_are_counted_by_route_engine_and_code():
    registry = CollectorRegistry()
    metrics = SupervisorMetrics(registry)
    metrics.count_rpc("grpc.Ping", "native", "200", 0.01)
    metrics.count_rpc("grpc.Ping", "native", "200", 0.02)
    labels = {"route": "grpc.Ping", "engine": "native", "code": "200"}
    assert registry.get_sample_value("SeaweedFS_volumeSupervisor_rpcs_total", labels) == 2
    del labels["code"]
    assert registry.get_sample_value("SeaweedFS_volumeSupervisor_rpc_seconds_sum", labels) == pytest.approx(0.03)


def test_http_requests_of_both_listeners_are_one_series():
    registry = CollectorRegistry()
    admin = Counter({("http.read", Engine.NATIVE): 2, ("http.read", Engine.BACKEND): 1})
    registry.register(HttpCountCollector([admin, Counter({("http.read", Engine.NATIVE): 3})]))

    def value(engine):
        labels = {"route": "http.read", "engine": engine}
        return registry.get_sample_value("SeaweedFS_volumeSupervisor_http_requests_total", labels)

    assert (value("native"), value("backend")) == (5, 1)


def test_facts_are_read_at_each_scrape():
    registry, restarts = CollectorRegistry(), []
    registry.register(StateCollector({"child_restarts": Gauge("Restarts.", (), lambda: {(): len(restarts)})}))
    name = "SeaweedFS_volumeSupervisor_child_restarts"
    assert registry.get_sample_value(name) == 0
    restarts.append(1)
    assert registry.get_sample_value(name) == 1


@pytest.fixture
def store(tmp_path):
    config = StoreConfig(
        locations=(LocationConfig(path=tmp_path, idx_path=tmp_path, max_volumes=7),),
        offset_width_bytes=4,
        file_size_limit_bytes=1 << 20,
        ip="127.0.0.1",
        port=1,
        grpc_port=2,
        public_url="127.0.0.1:1",
        id="127.0.0.1:1",
        data_center="",
        rack="",
    )
    opened = open_store(config)
    yield opened
    opened.close()


def test_a_stores_gauges_have_upstreams_names(store):
    store.allocate_volume(5, collection="pics", replication="000", ttl="", preallocate_bytes=0, disk_type="", version=3)
    store.write_needle(5, Needle(cookie=1, needle_id=2, data=b"x" * 100))
    store.mark_readonly(5)
    registry = CollectorRegistry()
    registry.register(StoreCollector(store, started_at_s=12.0))

    def value(series, **labels):
        return registry.get_sample_value(f"SeaweedFS_volumeServer_{series}", labels)

    assert value("start_time_seconds") == 12
    assert value("volumes", collection="pics", type="volume") == 1
    assert value("read_only_volumes", collection="pics", type="IsReadOnly") == 1
    assert value("max_volumes") == 7
    assert value("total_disk_size", collection="pics", type="normal") > 100
    directory = str(store.locations[0].path)
    assert value("resource", name=directory, type="all") > value("resource", name=directory, type="avail") > 0
    assert value("disk_error_status", name=directory, type="error") == 0
    store.locations[0].watch.problem = "statfs: timeout"
    assert value("disk_error_status", name=directory, type="error") == 1
    store.locations[0].watch.problem = ""
    store.delete_volume(5, only_empty=False)
    assert value("volumes", collection="pics", type="volume") is None


async def scrape(app):
    """GET /metrics over a socket, as Prometheus does."""
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(serve_metrics, app, "127.0.0.1", 0)
        host, _, port = url.removeprefix("http://").rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join([piece async for piece in stream])
        nursery.cancel_scope.cancel()
    return answer


async def test_the_port_serves_the_childs_text_before_our_own():
    registry = CollectorRegistry()
    SupervisorMetrics(registry).count_rpc("grpc.Ping", "backend", "200", 0.1)

    async def child():
        return b"SeaweedFS_volumeServer_volumes 3"

    answer = await scrape(metrics_app(registry, child))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body.startswith(b"SeaweedFS_volumeServer_volumes 3\n# HELP")
    assert body.endswith(generate_latest(registry))


async def test_without_a_child_there_is_our_own_text_alone():
    registry = CollectorRegistry()
    _, _, body = (await scrape(metrics_app(registry, None))).partition(b"\r\n\r\n")
    assert body == generate_latest(registry)
