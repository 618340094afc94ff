"""Who may do what over HTTP: the white list for both engines, tokens for what is answered here.

The backend sees only us as its peer, so the white list is decided here for forwarded requests too. It has the keys,
so tokens of forwarded requests are left to it. Source: weed/security/guard.go, weed/server/volume_server_handlers.go.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_needle_id_cookie, parse_volume_id
from native_handlers.http.context import AuthKeys
from native_handlers.http.go_json import text_of_wire
from native_handlers.http.paths import parse_object_path, wire_path
from native_handlers.http.reply import empty_reply, json_error
from native_handlers.http.tokens import token_of
from supervisor.routing.registry import AccessKind
from supervisor.wire.jwt import BadToken, check_token
from supervisor.wire.whitelist import Whitelist

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.http.message import Request, Response
    from native_handlers.http.paths import ObjectPath
    from supervisor.cli.config import SecurityConfig
    from supervisor.routing.registry import Route

log = logging.getLogger(__name__)

_READ_OF_NO_VOLUME = "http.stats"
"""Upstream's object handler answers this route, and asks for a token before it finds that `stats` is no volume."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What one SecurityConfig comes to. Replaced whole, so nobody sees keys of one and a list of another."""

    whitelist: Whitelist
    keys: AuthKeys

    @classmethod
    def of(cls, security: SecurityConfig) -> _Snapshot:
        write, read = security.write_key, security.read_key
        whitelist = Whitelist.parse(security.white_list)
        for entry in whitelist.skipped:
            log.error("white list: %r is no network such as 10.0.0.0/8; it is left out", entry)
        if whitelist.skipped and whitelist.is_empty:
            log.error("white list: no entry is left, so every host may write")
        return cls(whitelist, AuthKeys(write.key, read.key, write.expires_after_s, read.expires_after_s))


class Guard:
    """Decides from the snapshot in force. Every method may be called from any thread."""

    def __init__(self, security: SecurityConfig, *, now_s: Callable[[], float] = time.time) -> None:
        self._snapshot = _Snapshot.of(security)
        self._now_s = now_s

    def update(self, security: SecurityConfig) -> None:
        """Puts another configuration in force, in one step."""
        self._snapshot = _Snapshot.of(security)

    def allows(self, host: str) -> bool:
        """Whether the white list lets the TCP peer `host` write."""
        return self._snapshot.whitelist.allows(host)

    def auth_keys(self) -> AuthKeys:
        """The signing keys in force."""
        return self._snapshot.keys

    def refuse_host(self, route: Route, request: Request) -> Response | None:
        """The refusal for a write by a peer that the white list lacks, 401 without a body; None lets it pass."""
        if route.access.kind is not AccessKind.VOLUME_WRITE or self.allows(request.peer_host):
            return None
        log.info("not in the white list: %s wanted to %s %s", request.peer_host, request.method, request.raw_path)
        return empty_reply(401)

    def refuse_token(self, route: Route, request: Request) -> Response | None:
        """The refusal for a request whose token does not allow it; None lets it pass.

        Reads need a token where there is a read key, writes and deletes where there is a write key. An id that upstream
        looks at before the token gets its 400 from here, for what is refused must reach no handler.
        """
        if route.access.kind is AccessKind.VOLUME_READ or route.name == _READ_OF_NO_VOLUME:
            key = self._snapshot.keys.read_key
        elif route.access.kind is AccessKind.VOLUME_WRITE:
            key = self._snapshot.keys.write_key
        else:
            return None
        if not key:
            return None
        path = parse_object_path(wire_path(request))
        try:
            check_token(token_of(request), key, f"{path.volume_id},{path.file_id}", self._now_s())
        except BadToken as error:
            reason = _what_is_wrong(route, request.method, path)
            if reason is not None:
                return json_error(request, 400, reason)
            log.info("wrong jwt from %s for %s: %s", request.peer_host, request.raw_path, error)
            return json_error(request, 401, "wrong jwt")
        return None


def _what_is_wrong(route: Route, method: str, path: ObjectPath) -> str | None:
    """What upstream says of a malformed id before it looks at a token; None where it looks at the token first.

    Source: weed/server/volume_server_handlers_write.go PostHandler, DeleteHandler.
    """
    if route.access.kind is not AccessKind.VOLUME_WRITE:
        return None
    try:
        if method == "DELETE":
            parse_needle_id_cookie(path.file_id)
        else:
            parse_volume_id(path.volume_id)
    except BadFileId as failure:
        return text_of_wire(str(failure))
    return None
