"""Pushes the node's metrics to the push gateway that the master names.

Source: weed/stats/metrics.go (LoopPushingMetric). Wilful differences: the gateway is the one that the master names now,
not only the one at the start. A child's series are pushed under this node's address, because the child has none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import trio

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerFailed
from native_handlers.records import dataclass
from supervisor.control.text_format import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from native_handlers.http_model.volume_servers import VolumeServerHttp

log = logging.getLogger(__name__)

JOB = "volumeServer"
DEFAULT_INTERVAL_S = 15
PUSH_TIMEOUT_S = 10.0
_IN_PATH = "/%:@!$&'()*+,;=-._~[]"
"""The characters of the master's text that stand for themselves in the path of the request."""


class BadGateway(Exception):
    """The text that the master gives as the address of the push gateway is none."""


@dataclass(frozen=True, slots=True)
class PushTarget:
    """Where to push. Series are grouped by `instance`, this node's ip:port.

    `asked_for` returns the gateway's address and the seconds between two pushes, as the master said last.
    """

    asked_for: Callable[[], tuple[str, int]]
    instance: str

    def interval_s(self) -> float:
        """Seconds until the next push, or until the next check for a gateway."""
        _, interval_s = self.asked_for()
        return interval_s if interval_s > 0 else DEFAULT_INTERVAL_S

    def gateway(self) -> tuple[str, str] | None:
        """(host:port, path) for the PUT; None while no gateway is named, or the interval is 0.

        Raises BadGateway.
        """
        address, interval_s = self.asked_for()
        if not address or interval_s == 0:
            return None
        try:
            url = urlsplit(address if "://" in address else f"http://{address}")
            host = url.netloc if url.port is not None else f"{url.netloc.removesuffix(':')}:80"
        except ValueError as error:
            raise BadGateway(f"{address!r} is no address of a push gateway: {error}") from error
        base = quote(url.path.rstrip("/"), safe=_IN_PATH)
        return host, f"{base}/metrics/job/{JOB}/instance/{quote(self.instance, safe=':[]')}"


async def serve_push(target: PushTarget, exposition: Callable[[], Awaitable[bytes]], http: VolumeServerHttp) -> None:
    """Pushes at the master's interval until cancelled. A failure of the gateway, or an address that is none, is logged,
    and the push tried again.
    """
    while True:
        try:
            gateway = target.gateway()
        except BadGateway as error:
            log.warning("could not push metrics: %s", error)
        else:
            if gateway is not None:
                await _push(gateway, await exposition(), http)
        await trio.sleep(target.interval_s())


async def _push(gateway: tuple[str, str], text: bytes, http: VolumeServerHttp) -> None:
    host, path = gateway
    with trio.move_on_after(PUSH_TIMEOUT_S) as deadline:
        try:
            answer = await http.request("PUT", host, path, Headers([("Content-Type", CONTENT_TYPE)]), text)
            await answer.chunks.aclose()
        except VolumeServerFailed as error:
            log.warning("could not push metrics to %s: %s", host, error)
            return
        if answer.status not in {200, 202}:
            log.warning("could not push metrics to %s: it answered %d", host, answer.status)
    if deadline.cancelled_caught:
        log.warning("could not push metrics to %s: no answer within %g s", host, PUSH_TIMEOUT_S)
