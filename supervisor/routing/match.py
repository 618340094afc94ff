"""Which route a request is. Total for HTTP: every method and path on a listener names one. On the hot path: a
dictionary for the exact paths, a few substring tests, a dictionary for the methods.

Paths are taken as they are sent, in origin form (`/…`) and with their escapes: upstream's mux compares escaped
segments, so `/%73tatus` is `/status` and `/ui%2findex.html` is not `/ui/index.html`.

A path with `//`, `/./` or `/../` is answered 307 to its clean form by either engine, whatever its route. It never
matches an exact path here, and it is matched as it stands rather than cleaned, so that nothing is done to what a
cleaned path would name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.http.message import Listener
from supervisor.routing.paths import STATIC_ROOT, segments_of
from supervisor.routing.registry import REFLECTION_PATHS, ROUTES, ROUTES_BY_NAME, Protocol, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATIC_SEGMENT = segments_of(STATIC_ROOT)[1]
_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class _Mux:
    """One listener's routes. `stats` is None where /stats/… means nothing."""

    exact: Mapping[str, Route]
    exact_segments: Mapping[tuple[bytes, ...], Route]
    by_method: Mapping[str, Route]
    otherwise: Route
    static: Route
    stats: Route | None


def _mux(prefix: str, exact: dict[str, str], by_method: dict[str, str], otherwise: str, stats: str | None) -> _Mux:
    def route(suffix: str) -> Route:
        return ROUTES_BY_NAME[f"{prefix}.{suffix}"]

    return _Mux(
        exact={path: route(suffix) for path, suffix in exact.items()},
        exact_segments={segments_of(path): route(suffix) for path, suffix in exact.items()},
        by_method={method: route(suffix) for method, suffix in by_method.items()},
        otherwise=route(otherwise),
        static=route("static"),
        stats=route(stats) if stats else None,
    )


_ADMIN = _mux(
    "http",
    {
        "/status": "status",
        "/healthz": "healthz",
        "/readyz": "readyz",
        "/ui/index.html": "ui",
        "/favicon.ico": "favicon",
        STATIC_ROOT: "static",
    },
    {
        "GET": "read",
        "HEAD": "read",
        "POST": "write",
        "PUT": "write",
        "DELETE": "delete",
        "OPTIONS": "options",
    },
    otherwise="invalid",
    stats="stats",
)
_PUBLIC = _mux(
    "http.public",
    {"/favicon.ico": "favicon", STATIC_ROOT: "static"},
    {"GET": "read", "HEAD": "read", "OPTIONS": "options"},
    otherwise="other",
    stats=None,
)


def match_http(listener: Listener, method: str, path: str) -> Route:
    """The route of a request with `method` (case matters) for `path`, its raw path without the query.

    A target that is no path (`*`, an authority) gets its method's route.
    """
    mux = _ADMIN if listener is Listener.ADMIN else _PUBLIC
    route = mux.exact.get(path)
    if route is not None:
        return route
    if path.startswith("/s") or "%" in path:
        route = _match_segments(mux, method, path)
        if route is not None:
            return route
    return match_object(listener, method)


def match_object(listener: Listener, method: str) -> Route:
    """The route of `method` where the path is no fixed one: what answers for the status page where it is switched off.

    Source: weed/server/volume_server.go registers /ui/index.html only without a write key, or with access.ui.
    """
    mux = _ADMIN if listener is Listener.ADMIN else _PUBLIC
    return mux.by_method.get(method, mux.otherwise)


def _match_segments(mux: _Mux, method: str, path: str) -> Route | None:
    segments = segments_of(path)
    route = mux.exact_segments.get(segments)
    if route is not None or len(segments) < 3 or segments[0]:
        return route
    if segments[1] == _STATIC_SEGMENT:
        return mux.static
    return mux.stats if segments[1] == b"stats" and method in _READS else None


_GRPC_BY_PATH: Mapping[str, Route] = {
    **{route.answers: route for route in ROUTES if route.protocol is Protocol.GRPC},
    **dict.fromkeys(REFLECTION_PATHS, ROUTES_BY_NAME["grpc.reflection"]),
}


def match_grpc(path: str) -> Route | None:
    """The route of the RPC with this `:path`; None where the volume server has no such RPC."""
    return _GRPC_BY_PATH.get(path)
