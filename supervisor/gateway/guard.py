"""Access rules over HTTP: the white list for both engines, and tokens for requests that are answered here.

The backend sees only this process as its client, so the white list is checked here for forwarded requests too. The
backend has the keys, so it checks the tokens of forwarded requests. Source: weed/security/guard.go,
weed/server/volume_server_handlers.go.
"""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadFileId
from native_handlers.http.reply import empty_reply, json_error
from native_handlers.http.tokens import token_of
from native_handlers.http_model.go_json import text_of_wire
from native_handlers.records import dataclass
from supervisor.routing.registry import Gate, PathId, TokenKey
from supervisor.wire.jwt import BadToken, verified_token
from supervisor.wire.whitelist import Whitelist

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from native_handlers.http_model.message import Request, Response
    from native_handlers.http_model.target import RequestTarget
    from supervisor.config.config import SecurityConfig
    from supervisor.routing.registry import Route
    from supervisor.wire.jwt import VerifiedToken

log = logging.getLogger(__name__)

MAX_KNOWN_TOKENS = 4096
"""Verified tokens that are remembered for one key. The least recently used one is forgotten for a new one."""
MAX_KNOWN_TOKEN_CHARS = 1024
"""A longer token is verified each time."""
_MAX_KNOWN_HOSTS = 1024


@dataclass(frozen=True, slots=True)
class AuthKeys:
    """The signing keys in force. An empty key means that no token is needed."""

    write_key: bytes = b""
    read_key: bytes = b""

    def of(self, token: TokenKey) -> bytes:
        """The key that `token` names; empty for NONE."""
        if token is TokenKey.NONE:
            return b""
        return self.read_key if token is TokenKey.READ else self.write_key


class TokenVerifier:
    """Verifies tokens of one key. Remembers tokens that were verified, and none that was refused. Any thread may call
    any method.

    The time and the file id are checked at each use. So a token that is remembered is worth no more than it says.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._remembered = lru_cache(maxsize=MAX_KNOWN_TOKENS)(self._verify)

    @property
    def known_tokens(self) -> int:
        """How many tokens are remembered."""
        return self._remembered.cache_info().currsize

    def verified(self, token: str) -> VerifiedToken:
        """The claims of `token`. Raises BadToken as `verified_token`."""
        return self._remembered(token) if len(token) <= MAX_KNOWN_TOKEN_CHARS else self._verify(token)

    def _verify(self, token: str) -> VerifiedToken:
        return verified_token(token, self._key)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The rules of one SecurityConfig, and the tokens that were verified by them.

    It is replaced whole, so no reader sees the keys of one and the list of another, and other keys begin without any
    token remembered.
    """

    keys: AuthKeys
    is_open_to_all: bool
    allows: Callable[[str], bool]
    verifiers: Mapping[TokenKey, TokenVerifier]

    @classmethod
    def of(cls, security: SecurityConfig) -> _Snapshot:
        whitelist = Whitelist.parse(security.white_list)
        for entry in whitelist.hosts:
            if entry != entry.strip() or not entry:
                log.error("white list: %r is no host; blanks and empty entries are taken as they are", entry)
        for entry in whitelist.skipped:
            log.error("white list: %r is no network such as 10.0.0.0/8; it is left out", entry)
        if whitelist.skipped and whitelist.is_empty:
            log.error("white list: no entry is left, so every host may write")
        keys = AuthKeys(security.write_key.key, security.read_key.key)
        allows = lru_cache(maxsize=_MAX_KNOWN_HOSTS)(whitelist.allows)
        verifiers = {token: TokenVerifier(keys.of(token)) for token in TokenKey if keys.of(token)}
        return cls(keys, whitelist.is_empty, allows, verifiers)


class Guard:
    """Applies the rules in force. Any thread may call any method.

    Attributes:
        rules: the rules in force. They are replaced as a whole, so other rules are another object.
    """

    def __init__(self, security: SecurityConfig, *, now_s: Callable[[], float] = time.time) -> None:
        self.rules = _Snapshot.of(security)
        self._now_s = now_s

    def update(self, security: SecurityConfig) -> None:
        """Puts another configuration in force, in one step."""
        self.rules = _Snapshot.of(security)

    def allows(self, host: str) -> bool:
        """Whether the white list lets the client with the TCP address `host` write."""
        return self.rules.allows(host)

    def names(self, host: str) -> bool:
        """Whether there is a white list and it contains the TCP address `host`."""
        rules = self.rules
        return not rules.is_open_to_all and rules.allows(host)

    def checks(self, route: Route) -> bool:
        """Whether a request of the route may be refused: by the white list, or for its token."""
        return self._checks_host(route) or bool(self.rules.keys.of(route.token))

    def _checks_host(self, route: Route) -> bool:
        return not self.rules.is_open_to_all and route.gate is Gate.WHITE_LIST

    def admits(self, route: Route, host: str) -> bool:
        """Whether the white list lets a client with the TCP address `host` use the route."""
        return not self._checks_host(route) or self.allows(host)

    def admits_token(self, route: Route, token: str, file_id: str) -> bool:
        """Whether `token` allows a request of the route for the file `file_id`, as `RequestTarget.token_file_id`. True
        where the route needs no token.
        """
        verifier = self.rules.verifiers.get(route.token)
        if verifier is None:
            return True
        try:
            verifier.verified(token).check_use(file_id, self._now_s())
        except BadToken:
            return False
        return True

    def refuse_host(self, route: Route, request: Request) -> Response | None:
        """401 without a body, for a write by a client that is not in the white list. None lets the request pass."""
        if self.admits(route, request.client_host):
            return None
        log.info("not in the white list: %s wanted to %s %s", request.client_host, request.method, request.raw_path)
        return empty_reply(401)

    def refuse_token(self, route: Route, request: Request) -> Response | None:
        """The refusal for a request whose token does not allow it. None lets the request pass.

        Reads need a token where there is a read key; writes and deletes need one where there is a write key. Upstream
        parses some ids before it checks the token. For such an id the refusal is upstream's 400, because a refused
        request reaches no handler.
        """
        verifier = self.rules.verifiers.get(route.token)
        if verifier is None:
            return None
        target = request.parsed
        try:
            verifier.verified(token_of(request)).check_use(target.token_file_id, self._now_s())
        except BadToken as error:
            reason = _what_is_wrong(route, target)
            if reason is not None:
                return json_error(request, 400, reason)
            return _wrong_jwt(request, str(error))
        return self.refuse_upload_of_another(route, request)

    def refuse_upload_of_another(self, route: Route, request: Request) -> Response | None:
        """The refusal for an upload that writes another file than its token is for. None lets the request pass.

        The check of a token, here and in the backend, reads the file id from another place of the path than the upload
        does. Upstream lets such an upload pass, so a token for one file writes any file of the volume.
        """
        if not route.is_upload:
            return None
        if not self.rules.keys.write_key or not request.parsed.uploads_another:
            return None
        return _wrong_jwt(request, f"a token for {request.parsed.token_file_id!r} does not cover what it writes")

    def readable(self, request: Request) -> str | None:
        """See `TokenScope`."""
        return self._scope(request, TokenKey.READ)

    def changeable(self, request: Request) -> str | None:
        """See `TokenScope`."""
        return self._scope(request, TokenKey.WRITE)

    def _scope(self, request: Request, token: TokenKey) -> str | None:
        verifier = self.rules.verifiers.get(token)
        if verifier is None:
            return None
        try:
            verified = verifier.verified(token_of(request))
            verified.check_time(self._now_s())
        except BadToken:
            return ""
        return verified.file_id


def _wrong_jwt(request: Request, why: str) -> Response:
    log.info("wrong jwt from %s for %s: %s", request.client_host, request.raw_path, why)
    return json_error(request, 401, "wrong jwt")


def _what_is_wrong(route: Route, target: RequestTarget) -> str | None:
    """Upstream's text for a malformed id that is parsed before the token; None where the token comes first."""
    try:
        if route.parsed_before_token is PathId.FILE:
            target.require_needle()
        elif route.parsed_before_token is PathId.VOLUME:
            target.require_volume_id()
    except BadFileId as failure:
        return text_of_wire(str(failure))
    return None
