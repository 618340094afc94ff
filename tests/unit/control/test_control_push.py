import pytest
import trio

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind, VolumeServerResponse
from supervisor.control.push import BadGateway, PushTarget, serve_push
from supervisor.net.http_client import HttpPool
from supervisor.net.http_volume_servers import VolumeServerClient


def target(address="push:9091", interval_s=5):
    return PushTarget(lambda: (address, interval_s), "10.0.0.1:8080")


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("push:9091", ("push:9091", "/metrics/job/volumeServer/instance/10.0.0.1:8080")),
        ("http://push:9091/", ("push:9091", "/metrics/job/volumeServer/instance/10.0.0.1:8080")),
        ("http://push/base", ("push:80", "/base/metrics/job/volumeServer/instance/10.0.0.1:8080")),
        ("push:", ("push:80", "/metrics/job/volumeServer/instance/10.0.0.1:8080")),
        ("push:1/a b\u00f6%41", ("push:1", "/a%20b%C3%B6%41/metrics/job/volumeServer/instance/10.0.0.1:8080")),
        ("", None),
    ],
)
def test_the_gateway_that_the_master_names(address, gateway):
    assert target(address).gateway() == gateway


BAD_GATEWAYS = ["gateway:http", "gw:99999", "http://[::1", "http://gw:-1/", "gw:9091:9091x", "http://gw\u2100/"]


@pytest.mark.parametrize("address", BAD_GATEWAYS)
def test_a_text_that_is_no_address(address):
    with pytest.raises(BadGateway, match="is no address of a push gateway"):
        target(address).gateway()


@pytest.mark.parametrize(
    "address",
    [*BAD_GATEWAYS, ":1", "a..b:1", f"{'x' * 70}:1", "127.0.0.1:1/a b\u2603"],
)
async def test_no_text_of_a_master_ends_it(address, caplog):
    """Over real connections. Nothing listens on port 1, and no resolver is asked for the other names."""
    asked, has_gone_on = [], trio.Event()

    def asked_for():
        asked.append(address)
        if len(asked) == 3:  # for the push, for the pause, and for the next push
            has_gone_on.set()
        return address, 0.001

    async def exposition():
        return b"a 1\n"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            serve_push, PushTarget(asked_for, "10.0.0.1:8080"), exposition, VolumeServerClient(HttpPool())
        )
        with trio.fail_after(30):
            await has_gone_on.wait()
        nursery.cancel_scope.cancel()
    assert "could not push metrics" in caplog.text


async def test_a_later_address_is_used(autojump_clock, caplog):
    gateway = Gateway(200)
    current = ["gateway:http"]

    def asked_for():
        return current[0], 5

    async def text():
        return b"a 1\n"

    with trio.move_on_after(7):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_push, PushTarget(asked_for, "10.0.0.1:8080"), text, gateway)
            await trio.sleep(1)
            current[0] = "push:9091"
    assert [host for _, _, host, *_ in gateway.pushed] == ["push:9091"]
    assert "'gateway:http' is no address of a push gateway" in caplog.text


def test_an_interval_of_zero_switches_it_off():
    assert target(interval_s=0).gateway() is None


class Gateway:
    """A VolumeServerHttp that keeps what is pushed, and fails or hangs when told to."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.pushed = []

    async def request(self, method, url_host_port, target, headers, body):
        self.pushed.append((trio.current_time(), method, url_host_port, target, body))
        answer = self.answers.pop(0)
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        return VolumeServerResponse(answer, Headers(), NoChunks())


class NoChunks:
    async def aclose(self):
        pass


async def test_it_pushes_at_the_interval_whatever_the_gateway_does(autojump_clock, caplog):
    refused = VolumeServerFailed("push:9091", VolumeServerFailureKind.CONNECTION_REFUSED, "connection refused")
    gateway = Gateway(200, refused, 500, None, 202)

    async def text():
        return b"a 1\n"

    began = trio.current_time()
    with trio.move_on_after(31):
        await serve_push(target(), text, gateway)
    times = [at - began for at, *_ in gateway.pushed]
    assert times == pytest.approx([0, 5, 10, 15, 30])  # the hung one takes its ten seconds
    path = "/metrics/job/volumeServer/instance/10.0.0.1:8080"
    assert {tuple(what) for _, *what in gateway.pushed} == {("PUT", "push:9091", path, b"a 1\n")}
    for why in ("connection refused", "it answered 500", "no answer within 10 s"):
        assert why in caplog.text
