"""Finds the route of a request. For HTTP there is always one: every method and path on a listener names a route.

This is on the hot path: a dictionary for the exact paths, a few substring tests, a dictionary for the methods.

Paths are taken as they are sent, in origin form (`/…`) and with their escapes: upstream's mux compares escaped
segments, so `/%73tatus` is `/status`, and `/ui%2findex.html` is not `/ui/index.html`.

Both engines answer a path with `//`, `/./` or `/../` with a 307 to its clean form, whatever its route. Such a path
never matches an exact path here. It is matched as it stands and not cleaned, so that no request acts on the file that
the clean path would name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http_model.message import Listener
from native_handlers.http_model.percent import unescape
from native_handlers.records import dataclass
from supervisor.routing.registry import REFLECTION, REFLECTION_PATHS, ROUTES, Protocol, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

# ---- The path of an HTTP request as upstream's mux compares it. native_handlers/http_model/target.py reads the ids in
# a path.
#
# Source: Go net/http ServeMux (matching by escaped segments).


_MOST_SEGMENTS = 1 + max(path.count("/") for route in ROUTES for path in route.paths)
"""The most segments of a fixed path."""


def segments_of(raw_path: str) -> tuple[bytes, ...]:
    """The segments between slashes, each decoded once. Go compares these with a pattern's segments.

    Segments that no fixed path has are left together in the last one.
    """
    segments = raw_path.encode("utf-8", "surrogateescape").split(b"/", _MOST_SEGMENTS)
    return tuple(unescape(segment) for segment in segments)


@dataclass(frozen=True, slots=True)
class _Mux:
    """One listener's routes.

    `roots` are the paths of one segment that stand for all below them; `below` has the route of each, by that segment.
    """

    exact: Mapping[str, Route]
    exact_segments: Mapping[tuple[bytes, ...], Route]
    below: Mapping[bytes, Route]
    roots: tuple[str, ...]
    by_method: Mapping[str, Route]
    otherwise: Route


def _mux(listener: Listener) -> _Mux:
    routes = [route for route in ROUTES if route.listener is listener]
    fixed = [(path, route) for route in routes for path in route.paths]
    exact = {path: route for path, route in fixed if not path.endswith("/")}
    below = {path: route for path, route in fixed if path.endswith("/")}
    objects = [route for route in routes if not route.paths]
    [otherwise] = [route for route in objects if not route.methods]
    return _Mux(
        exact=exact,
        exact_segments={segments_of(path): route for path, route in exact.items()},
        below={segments_of(path)[1]: route for path, route in below.items()},
        roots=tuple(below),
        by_method={method: route for route in objects for method in route.methods},
        otherwise=otherwise,
    )


_ADMIN_LISTENER = Listener.ADMIN  # a look-up in an enum is a call in Python 3.11
_ADMIN = _mux(Listener.ADMIN)
_PUBLIC = _mux(Listener.PUBLIC)


def match_http(listener: Listener, method: str, path: str) -> Route:
    """The route of a request with `method` (case matters) for `path`, its raw path without the query.

    A target that is no path (`*`, an authority) has the route of its method.
    """
    mux = _ADMIN if listener is Listener.ADMIN else _PUBLIC
    route = mux.exact.get(path)
    if route is not None:
        return route
    if path.startswith(mux.roots) or "%" in path:
        route = _match_segments(mux, method, path)
        if route is not None:
            return route
    return match_object(listener, method)


def match_object(listener: Listener, method: str) -> Route:
    """The route of `method` where the path is no fixed one. It also answers for the status page while that is off.

    Source: weed/server/volume_server.go registers /ui/index.html only without a write key, or with access.ui.
    """
    mux = _ADMIN if listener is _ADMIN_LISTENER else _PUBLIC
    return mux.by_method.get(method, mux.otherwise)


def _match_segments(mux: _Mux, method: str, path: str) -> Route | None:
    segments = segments_of(path)
    route = mux.exact_segments.get(segments)
    if route is not None or len(segments) < 3 or segments[0]:
        return route
    below = mux.below.get(segments[1])
    return below if below is not None and (not below.methods or method in below.methods) else None


_GRPC_BY_PATH: Mapping[str, Route] = {
    **{route.answers: route for route in ROUTES if route.protocol is Protocol.GRPC},
    **dict.fromkeys(REFLECTION_PATHS, REFLECTION),
}


def match_grpc(path: str) -> Route | None:
    """The route of the RPC with this `:path`; None where the volume server has no such RPC."""
    return _GRPC_BY_PATH.get(path)
