"""Pushes the node's metrics to the push gateway that the master names.

Source: weed/stats/metrics.go, LoopPushingMetric. Wilful differences: the gateway is the one that the master names now,
not only the one at the start; a child's series are pushed under this node's address, since it has none of its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import trio
from prometheus_client import CONTENT_TYPE_LATEST

from native_handlers.http.context import PeerFailed
from native_handlers.http.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from native_handlers.http.context import PeerHttp

log = logging.getLogger(__name__)

JOB = "volumeServer"
DEFAULT_INTERVAL_S = 15
PUSH_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class PushTarget:
    """Where to push, grouped by `instance`, this node's ip:port.

    `asked_for` gives the gateway's address and the seconds between two pushes, as the master said them last.
    """

    asked_for: Callable[[], tuple[str, int]]
    instance: str

    def interval_s(self) -> float:
        """Seconds to the next push, or to the next look whether there is a gateway by then."""
        _, interval_s = self.asked_for()
        return interval_s if interval_s > 0 else DEFAULT_INTERVAL_S

    def gateway(self) -> tuple[str, str] | None:
        """(host:port, path) to PUT to; None while no gateway is named, or an interval of 0 switches it off."""
        address, interval_s = self.asked_for()
        if not address or interval_s == 0:
            return None
        url = urlsplit(address if "://" in address else f"http://{address}")
        host = url.netloc if url.port is not None else f"{url.netloc}:80"
        return host, f"{url.path.rstrip('/')}/metrics/job/{JOB}/instance/{quote(self.instance, safe=':[]')}"


async def serve_push(target: PushTarget, exposition: Callable[[], Awaitable[bytes]], http: PeerHttp) -> None:
    """Pushes at the master's interval until cancelled. A gateway that fails is logged and tried again."""
    while True:
        gateway = target.gateway()
        if gateway is not None:
            await _push(gateway, await exposition(), http)
        await trio.sleep(target.interval_s())


async def _push(gateway: tuple[str, str], text: bytes, http: PeerHttp) -> None:
    host, path = gateway
    with trio.move_on_after(PUSH_TIMEOUT_S) as deadline:
        try:
            answer = await http.request("PUT", host, path, Headers([("Content-Type", CONTENT_TYPE_LATEST)]), text)
            await answer.chunks.aclose()
        except PeerFailed as error:
            log.warning("could not push metrics to %s: %s", host, error)
            return
        if answer.status not in {200, 202}:
            log.warning("could not push metrics to %s: it answered %d", host, answer.status)
    if deadline.cancelled_caught:
        log.warning("could not push metrics to %s: no answer within %g s", host, PUSH_TIMEOUT_S)
