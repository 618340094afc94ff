"""The fast path of small writes and deletes: whole in one piece of bytes, for a volume that is here alone.

The request is recognised (`write_request`), the needle is made as the ordinary way makes it (`make_upload`), and the
changes of one turn of the event loop are appended together (`write_batch`). With `fsync=true` a thread syncs them, and
the task of the connection waits for that (`sync_batch`). Every request that is declined, or that
meets an error, is left to the ordinary way, before anything is done for it. Both ways give the same answer, files and
counts; tests hold that.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from time import perf_counter
from typing import TYPE_CHECKING

from native_handlers.content.images_edit import is_jpeg_upload
from native_handlers.format.needle import Needle
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.upload import make_upload
from native_handlers.http.upload_body import upload_body
from native_handlers.http.write import LOCALLY
from native_handlers.http_model.errors import BadUpload
from native_handlers.http_model.go_json import encode_json, text_of_wire
from native_handlers.http_model.headers import CommonHeaders
from native_handlers.http_model.message import REQUEST_ID_HEADER, PendingAnswer
from native_handlers.runtime.content_threads import finish_within
from native_handlers.storage.volume.write import SmallChange
from supervisor.fast_path.head_fields import file_id_of, target_of
from supervisor.fast_path.write_request import ChangeMatcher
from supervisor.gateway.route_policy import access_log, log_answer
from supervisor.net.http_send import http_date, new_request_id
from supervisor.routing.decision import Engine
from supervisor.routing.match import match_object
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.http.context import HttpContext
    from native_handlers.http.upload import Upload
    from native_handlers.http.upload_body import SentFile
    from native_handlers.http_model.message import Listener
    from supervisor.fast_path.sync_batch import SyncBatch
    from supervisor.fast_path.write_batch import DiskBatches, TurnBatch
    from supervisor.fast_path.write_request import Change
    from supervisor.gateway.http import HttpGateway
    from supervisor.gateway.throttle import InflightBytes
    from supervisor.net.http_connection import Client

_STEPS = 8
"""Steps of a job on the event loop: each decompresses at most 64 KiB, or compresses or sums up the whole."""


class FastPathWrites:
    """Answers small writes and deletes of one listener.

    Args:
        gateway: the ordinary way. Its counts include the answers of this class.
        batches: collects the changes of all listeners.
    """

    def __init__(self, listener: Listener, context: HttpContext, gateway: HttpGateway, batches: DiskBatches) -> None:
        self.listener = listener
        self._routes = {method: match_object(listener, method) for method in ("POST", "PUT", "DELETE")}
        self._context = context
        self._gateway = gateway
        self._policy = gateway.policy
        self._batches = batches
        self._matcher = ChangeMatcher()

    @property
    def has_routes(self) -> bool:
        """Whether a route of the listener writes: the public one has none."""
        return any(route.access.kind is AccessKind.VOLUME_WRITE for route in self._routes.values())

    def answer(self, client: Client, data: bytes) -> PendingAnswer | None:
        """The answer to come, if `data` is exactly one small write or delete that can be made at once; else None.

        Never waits. No act of a client or a disk makes it raise.
        """
        started_at_s = perf_counter()
        change = self._matcher.parse(data)
        if change is None:
            return None
        route = self._routes[change.method]
        is_change = route.access.kind is AccessKind.VOLUME_WRITE and route.common_headers is not CommonHeaders.NONE
        terms = self._policy.fast_terms(route) if is_change else None
        if terms is None:
            return None
        if terms.is_guarded and not self._policy.admits(route, client.host, change.token, file_id_of(data)):
            return None
        is_replica, inflight = change.form.get("type") == "replicate", terms.inflight
        if change.file is None:
            inflight = None
        if inflight is not None and inflight.must_wait() and not is_replica:
            return None
        volume = self._context.find_writer(change.volume_id)
        if volume is None:
            return None
        is_synced = change.file is not None and change.form.is_true("fsync")
        batches = self._batches.synced if is_synced else self._batches
        if not batches.is_free(volume):
            return None
        if volume.copy_count != 1 and not is_replica:
            return None
        upload, small = None, None
        if change.file is None:
            small = self._deletion(change)
        else:
            upload = self._upload(change, change.file)
            small = None if upload is None else SmallChange(upload.needle)
        leave = None if small is None else self._gateway.enter_at_once(route, change.volume_id)
        if small is None or leave is None:
            return None
        if inflight is not None:
            inflight.add(change.body_bytes)
            leave = partial(_leave_upload, leave, inflight, change.body_bytes)
        batch = batches.add(volume, small, leave)
        return _PendingChange(self, client, data, batch, small, upload, change.method, started_at_s)

    def note_answer(  # noqa: PLR0913, PLR0917  a part of `_PendingChange`
        self, client: Client, data: bytes, method: str, status: int, started_at_s: float, *, is_write: bool
    ) -> None:
        """Counts an answer, and writes its line to the access log, as the ordinary way does."""
        route, duration_s = self._routes[method], perf_counter() - started_at_s
        self._gateway.counts[route.name, Engine.NATIVE] += 1
        self._context.metrics.count_small_change(method, status, duration_s, is_write=is_write)
        if access_log.isEnabledFor(logging.DEBUG):
            client_name = client.host, client.port
            log_answer(client_name, method, target_of(data), status, route, Engine.NATIVE, duration_s)

    @contextmanager
    def in_flight(self, method: str) -> Iterator[None]:
        """Counts a request as in flight within the block."""
        steps = (method,) if method == "DELETE" else (method, LOCALLY)
        with ExitStack() as stack:
            for step in steps:
                stack.enter_context(self._context.metrics.in_flight(step))
            yield

    @property
    def version(self) -> str:
        """As in `HttpSettings`."""
        return self._context.settings.version

    def _upload(self, change: Change, file: SentFile) -> Upload | None:
        settings = self._context.settings
        limit_bytes = settings.file_size_limit_bytes
        if len(file.data) > limit_bytes:
            return None
        body = upload_body(file, change.form)
        if settings.fix_jpg_orientation and is_jpeg_upload(body.name, body.mime):
            return None
        try:
            job = make_upload(body, change.form, change.headers, now_s=int(time.time()), clear_limit_bytes=limit_bytes)
            upload = finish_within(job, _STEPS)
        except BadUpload:
            return None
        if upload is not None:
            upload.needle.needle_id, upload.needle.cookie = change.needle_id, change.cookie
        return upload

    def _deletion(self, change: Change) -> SmallChange | None:
        ec, volumes = self._context.ec_volumes, self._context.open_volumes
        if ec is not None and ec.find(change.volume_id) is not None:
            return None
        volume = None if volumes is None else volumes.find_volume(change.volume_id)
        if volume is None:
            return None
        try:
            needle = volume.try_read_cached(change.needle_id, change.cookie)
        except STORE_FAILURES:
            return None
        if needle is None:
            return None
        deletion = Needle(needle_id=change.needle_id, cookie=change.cookie, checksum=needle.checksum)
        return SmallChange(deletion, is_deletion=True)


def _leave_upload(leave: Callable[[], None], inflight: InflightBytes, length_bytes: int) -> None:
    inflight.remove(length_bytes)
    leave()


class _PendingChange(PendingAnswer):
    """The answer to one request whose change is in a batch."""

    __slots__ = ("_batch", "_change", "_client", "_method", "_started_at_s", "_upload", "_writes")

    def __init__(  # noqa: PLR0913, PLR0917  made by FastPathWrites alone
        self,
        writes: FastPathWrites,
        client: Client,
        data: bytes,
        batch: TurnBatch | SyncBatch,
        change: SmallChange,
        upload: Upload | None,
        method: str,
        started_at_s: float,
    ) -> None:
        self.data = data
        self._writes = writes
        self._client = client
        self._batch = batch
        self._change = change
        self._upload = upload
        self._method = method
        self._started_at_s = started_at_s

    def try_finish(self) -> bool:
        return self._batch.try_finish()

    async def wait(self) -> None:
        with self._writes.in_flight(self._method):
            await self._batch.wait()

    def outcome(self) -> bytes | None:
        result, upload = self._change.result, self._upload
        if result is None:
            return None
        if upload is None:
            if result.is_unchanged:
                return None  # another request has deleted the needle meanwhile
            status, answer = 202, _deleted_answer(result.size_bytes, self._writes.version)
        else:
            status = 204 if result.is_unchanged else 201
            answer = _stored_answer(upload, self._writes.version, is_unchanged=result.is_unchanged)
        client, is_write = self._client, upload is not None
        self._writes.note_answer(client, self.data, self._method, status, self._started_at_s, is_write=is_write)
        return answer


# ---- The answers, in wire form: the bytes that the ordinary way sends.

_JSON = "Content-Type: application/json\r\n"


def _stored_answer(upload: Upload, version: str, *, is_unchanged: bool) -> bytes:
    """The answer to an upload that was stored: 201 with its facts, or 204 where the same content was there."""
    needle, tag = upload.needle, f"{upload.needle.checksum:08x}"
    facts = f"Content-Md5: {upload.content_md5}\r\n", f'Etag: "{tag}"\r\n'
    if is_unchanged:
        return _whole("204 No Content", facts[0], facts[1], "", version, b"")
    fields = [_member("name", needle.name)] if needle.name else []
    if size := upload.clear_size_bytes & 0xFFFFFFFF:
        fields.append(f'"size":{size}'.encode())
    fields.append(f'"eTag":"{tag}"'.encode())
    if needle.mime:
        fields.append(_member("mime", needle.mime))
    if upload.content_md5:
        fields.append(_member("contentMd5", upload.content_md5.encode("latin-1")))
    return _whole("201 Created", facts[0], facts[1], _JSON, version, b"{%b}" % b",".join(fields))


def _deleted_answer(size: int, version: str) -> bytes:
    """The answer to a delete of a needle with a body of `size` bytes."""
    return _whole("202 Accepted", "", "", _JSON, version, b'{"size":%d}' % size)


def _whole(status: str, md5: str, tag: str, content_type: str, version: str, body: bytes) -> bytes:  # noqa: PLR0913, PLR0917
    options = "X-Content-Type-Options: nosniff\r\n" if body else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = (
        f"HTTP/1.1 {status}\r\n{md5}{content_type}{tag}Server: SeaweedFS Volume {version}\r\n"
        f"{REQUEST_ID_HEADER}: {new_request_id()}\r\n{options}Date: {http_date()}\r\n{length}\r\n"
    )
    return head.encode("latin-1") + body


@lru_cache(maxsize=512)
def _member(name: str, value: bytes) -> bytes:
    """A member of a JSON object. Clients send the same few types, and mostly other names."""
    return encode_json({name: text_of_wire(value.decode("latin-1"))})[1:-1]
