import pytest
import trio

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind, VolumeServerResponse
from supervisor.control.push import PushTarget, serve_push


def target(address="push:9091", interval_s=5):
    return PushTarget(lambda: (address, interval_s), "10.0.0.1:8080")


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("push:9091", ("push:9091", "/metrics/job/volumeServer/instance/10.0.0.1:8080")),
        ("http://push:9091/", ("push:9091", "/metrics/job/volumeServer/instance/10.0.0.1:8080")),
        ("http://push/base", ("push:80", "/base/metrics/job/volumeServer/instance/10.0.0.1:8080")),
        ("", None),
    ],
)
def test_the_gateway_that_the_master_names(address, gateway):
    assert target(address).gateway() == gateway


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
