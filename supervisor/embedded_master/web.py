"""The HTTP side of an embedded master: paths, status codes and JSON as in `weed master`.

Source: weed/server/master_server_handlers.go, master_server_handlers_admin.go, raft_server_handlers.go.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.http_model.go_json import encode_json
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import REQUEST_ID_HEADER, Response
from native_handlers.http_model.query import NO_QUERY, Query, parse_query
from supervisor.embedded_master.config import AssignRefused
from supervisor.embedded_master.options import VolumeOptions
from supervisor.embedded_master.topology_info import status_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from native_handlers.http_model.message import Request
    from supervisor.embedded_master.assign import Assigner
    from supervisor.embedded_master.config import EmbeddedMasterConfig
    from supervisor.embedded_master.state_file import MasterState
    from supervisor.embedded_master.topology import Topology, VolumeNode

    Handler = Callable[[Request], Awaitable[Response]]

WHAT_IT_IS = "embedded master of weed-volume-py, for quickstart and tests; production uses weed master"
_HEADER = "X-Embedded-Master"
_MAX_FORM_BYTES = 64 << 10
_FORM_FIELDS = frozenset(
    {"collection", "replication", "ttl", "disk", "dataCenter", "rack", "dataNode", "count"}
    | {"fileId", "volumeId", "read"}
)
_READS = frozenset({"GET", "HEAD"})
_CALLS = _READS | {"POST", "PUT"}
_MAX_WAITING = 16  # requests at one time that may block on a growth or a disk write, or have long queries


class MasterWeb:
    """The handlers. Work that may block runs in a bounded number of threads."""

    def __init__(
        self, config: EmbeddedMasterConfig, state: MasterState, topology: Topology, assigner: Assigner, leader: str
    ) -> None:
        self._config = config
        self._state = state
        self._topology = topology
        self._assigner = assigner
        self._leader = leader
        self._limiter = trio.CapacityLimiter(_MAX_WAITING)

        self._routes: Mapping[str, tuple[Handler, frozenset[str]]] = {
            "/cluster/status": (self._cluster_status, _READS),
            "/healthz": (self._health, _READS),
            "/readyz": (self._health, _READS),
            "/dir/status": (self._dir_status, _READS),
            "/dir/assign": (self._assign, _CALLS),
            "/dir/lookup": (self._look_up, _CALLS),
            "/vol/grow": (self._grow, _CALLS),
        }

    async def handle(self, request: Request) -> Response:
        """The answer to any request."""
        if request.parsed.has_long_query:
            await trio.to_thread.run_sync(partial(getattr, request.parsed, "query"), limiter=self._limiter)
        is_file_id = "/" not in request.path[1:] and request.path != "/"
        handler, methods = self._routes.get(request.path) or (self._redirect if is_file_id else _not_found, _READS)
        response = await (handler(request) if request.method in methods else _method_not_allowed(request))
        own = ((_HEADER, WHAT_IT_IS), (REQUEST_ID_HEADER, request.request_id))
        response.headers = response.headers.plus(*own)
        if request.method == "HEAD":
            length = str(response.length_bytes)
            response.headers, response.body = response.headers.plus(("Content-Length", length)), b""
        return response

    async def _cluster_status(self, request: Request) -> Response:
        rows: dict[str, object] = {"IsLeader": True, "Leader": self._leader}
        if self._state.max_volume_id:
            rows["MaxVolumeId"] = self._state.max_volume_id
        return _json(request, rows)

    async def _health(self, _request: Request) -> Response:
        return Response(200)

    async def _dir_status(self, request: Request) -> Response:
        # In a thread: this walks over all volumes of all servers, and a volume server may share this event loop.
        return await trio.to_thread.run_sync(self._dir_status_answer, request, limiter=self._limiter)

    def _dir_status_answer(self, request: Request) -> Response:
        rows = {
            "Topology": status_rows(self._topology.nodes(), self._config.volume_size_limit_bytes),
            "TopologyId": self._state.topology_id,
            "Version": WHAT_IT_IS,
        }
        return _json(request, rows)

    async def _assign(self, request: Request) -> Response:
        form = await self._form(request)
        try:
            options = self._options(form)
            count = _number(form.get("count", "")) or 1
            assigned = await trio.to_thread.run_sync(
                partial(self._assigner.assign, options, count), limiter=self._limiter
            )
        except AssignRefused as refusal:
            return _json(request, {"error": str(refusal)}, 406)
        identity = assigned.nodes[0].identity
        rows = {
            "fid": str(assigned.fid),
            "url": identity.http,
            "publicUrl": identity.public_url,
            "count": assigned.count,
        }
        return _with_token(_json(request, rows), assigned.token)

    async def _look_up(self, request: Request) -> Response:
        form = await self._form(request)
        file_id = form.get("fileId", "")
        volume_text = (file_id if "," in file_id else form.get("volumeId", "")).partition(",")[0]
        nodes, error = self._holders(volume_text, form.get("collection", ""))
        rows: dict[str, object] = {"volumeOrFileId": volume_text, "error": error}
        if error:
            return _json(request, {name: value for name, value in rows.items() if value}, 404)
        rows = {"volumeOrFileId": volume_text, "locations": [_location_row(node) for node in nodes]}
        if not file_id:
            return _json(request, rows)
        is_read = form.get("read") == "yes"
        token = self._assigner.read_token(file_id) if is_read else self._assigner.write_token(file_id)
        return _with_token(_json(request, rows), token)

    async def _grow(self, request: Request) -> Response:
        form = await self._form(request)
        count = _number(form.get("count", ""))
        if count is None:
            return _json(request, {"error": f"can not parse parameter count {form.get('count', '')}"}, 406)
        try:
            options = self._options(form)
            self._refuse_too_many(options, count)
            made = await trio.to_thread.run_sync(partial(self._assigner.grow, options, count), limiter=self._limiter)
        except AssignRefused as refusal:
            return _json(request, {"error": str(refusal)}, 406)
        return _json(request, {"count": made * options.replication.copy_count})

    async def _redirect(self, request: Request) -> Response:
        volume_text = request.path[1:].partition(",")[0]
        nodes, error = self._holders(volume_text, "")
        if error:
            return _json(request, {"error": f"volume id {volume_text} not found: {error}"}, 404)
        target = f"http://{random.choice(nodes).identity.public_url}{request.target}"
        return Response(308, Headers([("Location", target)]))

    async def _form(self, request: Request) -> Mapping[str, str]:
        """The first value of each field that is used. Fields of a form body come before those of the query."""
        body, form = b"", NO_QUERY
        if (request.headers.get("Content-Type") or "").startswith("application/x-www-form-urlencoded"):
            while chunk := await request.body.receive_some():
                body += chunk
                if len(body) > _MAX_FORM_BYTES:
                    body = b""
                    break
        if body:
            form = await trio.to_thread.run_sync(parse_query, body.decode("latin-1"), limiter=self._limiter)
        fields = Query((*form.pairs, *request.parsed.query.pairs))
        return {name: fields.get(name).encode("latin-1").decode("utf-8", "replace") for name in _FORM_FIELDS}

    def _holders(self, volume_text: str, collection: str) -> tuple[list[VolumeNode], str]:
        number = _number(volume_text)
        if number is None:
            return [], f"Unknown volume id {volume_text}"
        nodes = self._topology.holders(number, collection)
        return nodes, "" if nodes else f"volume id {volume_text} not found"

    def _options(self, form: Mapping[str, str]) -> VolumeOptions:
        return VolumeOptions.parse(
            form.get("collection", ""),
            form.get("replication", ""),
            form.get("ttl", ""),
            form.get("disk", ""),
            form.get("dataCenter", ""),
            form.get("rack", ""),
            form.get("dataNode", ""),
            self._config.default_replication,
        )

    def _refuse_too_many(self, options: VolumeOptions, count: int) -> None:
        free = self._assigner.free_slots(options)
        wanted = count * options.replication.copy_count
        if free < wanted:
            raise AssignRefused(f"only {free} volumes left, not enough for {wanted}")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None


def _location_row(node: VolumeNode) -> Mapping[str, object]:
    return {
        "url": node.identity.http,
        "publicUrl": node.identity.public_url,
        "dataCenter": node.identity.data_center,
        "grpcPort": node.identity.grpc_port,
    }


def _json(request: Request, rows: Mapping[str, object], status: int = 200) -> Response:
    body = encode_json(rows, is_pretty=bool(request.parsed.query.get("pretty")))
    headers = Headers([("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")])
    return Response(status, headers, body)


def _text(status: int, text: str) -> Response:
    return Response(status, Headers([("Content-Type", "text/plain; charset=utf-8")]), text.encode())


async def _not_found(_request: Request) -> Response:
    return _text(404, "404 page not found\n")


async def _method_not_allowed(_request: Request) -> Response:
    return _text(405, "Method Not Allowed\n")


def _with_token(response: Response, token: str) -> Response:
    if token:
        response.headers = response.headers.plus(("Authorization", f"Bearer {token}"))
    return response
