"""VolumeTierMoveDatToRemote and VolumeTierMoveDatFromRemote: move the data of a volume to a remote tier, or back.

Source: weed/server/volume_grpc_tier_upload.go, volume_grpc_tier_download.go.
"""

from __future__ import annotations

import logging
import queue
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

from native_handlers.format.vif import RemoteFile
from native_handlers.grpc.checks import check_maintenance, claimed, errors_as_upstream, store_of, volume_of
from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.model.errors import TierMoveFailed, TierMoveUnclear
from native_handlers.storage.model.file_kinds import receiving_path
from native_handlers.storage.remote.tiers import TierFailed, split_tier_name
from native_handlers.storage.volume.tiering import put_on_disk, state_to_upload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.remote.tiers import Progress, Tier, Tiers
    from native_handlers.storage.store import Store
    from native_handlers.storage.system.files import SharedFile
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.volume import Volume

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
READERS_LIMIT_S = 60.0
"""How long an object is kept for reads that began before its volume was served from disk again."""
_NAME = "volume %d not found"


class _CallEnded(Exception):
    """No client waits for the transfer any more."""


def volume_tier_move_dat_to_remote(
    node: GrpcNode, context: RpcContext, request: pb.VolumeTierMoveDatToRemoteRequest
) -> Iterator[pb.VolumeTierMoveDatToRemoteResponse]:
    """Uploads .dat, and serves the volume from the tier. About each second a message tells the progress.

    As in upstream, a volume that is in a tier already is unchanged. Wilful differences: the volume is synced first, and
    takes no writes and no commit of a vacuum during the upload; a volume that is being moved or copied here anew is
    refused; the uploaded object is deleted where the move fails; a client that goes ends the move.
    """
    check_maintenance(node)
    volume, name = _volume(node, request.volume_id, request.collection), request.destination_backend_name
    if volume.is_tiered:
        return
    tiers = _tiers(store_of(node))
    tier = tiers.find(name) if tiers else None
    if tier is None:
        raise RpcFailure(f"destination {name} not found, supported: {_list(tiers)}")
    kind, tier_id = split_tier_name(name)
    if any((file.backend_type, file.backend_id) == (kind, tier_id) for file in volume.info.files):
        raise RpcFailure(f"destination {name} already exists")
    with claimed(volume, f"is being moved to {name}", holds_writes=True):
        with errors_as_upstream():
            volume.sync()
            state, facts = state_to_upload(volume.handle)
        key = yield from _upload(context, tier, name, state.dat.path, facts.size_bytes)
        file = RemoteFile(kind, tier_id, key, 0, facts.size_bytes, facts.modified_at_s, ".dat")
        _take_over(volume, tier, state, file, keep_local=request.keep_local_dat_file)
        store_of(node).note_moved(volume.id)
    log.info("volume %d is served from %s as %s", volume.id, name, key)


def _upload(
    context: RpcContext, tier: Tier, name: str, path: Path, size_bytes: int
) -> Generator[pb.VolumeTierMoveDatToRemoteResponse, None, str]:
    """Uploads .dat. Returns the key of the object. Where the call ends before that, no object stays."""
    key = ""

    def upload(progress: Progress) -> None:
        nonlocal key
        key = tier.upload(path, size_bytes, progress)

    try:
        # The thread of the upload has ended when the block ends, so `key` names an object that is whole.
        with closing(_moving(context, upload, f"backend {name} copy file {path}")) as moving:
            for done_bytes, percentage in moving:
                yield pb.VolumeTierMoveDatToRemoteResponse(processed=done_bytes, processedPercentage=percentage)
    except BaseException:
        if key:
            _discard(tier, name, key)
        raise
    return key


def _discard(tier: Tier, name: str, key: str) -> None:
    """Deletes an object that no .vif names. A failure is logged. The volume takes no writes until this has ended."""
    try:
        tier.delete(key, is_hurried=True)
    except TierFailed as error:
        log.warning("the object %s of a move that failed stays in %s: %s", key, name, error)


def _take_over(volume: Volume, tier: Tier, uploaded: VolumeState, file: RemoteFile, *, keep_local: bool) -> None:
    try:
        with errors_as_upstream():
            volume.serve_from_tier(uploaded, file, keep_local=keep_local)
    except RpcFailure as failure:
        if isinstance(failure.__cause__, TierMoveUnclear):
            log.warning("the object %s of a move that failed stays in %s", file.key, file.backend_name)
            raise
        _discard(tier, file.backend_name, file.key)
        raise


def volume_tier_move_dat_from_remote(
    node: GrpcNode, context: RpcContext, request: pb.VolumeTierMoveDatFromRemoteRequest
) -> Iterator[pb.VolumeTierMoveDatFromRemoteResponse]:
    """Downloads .dat, and serves the volume from disk. The object is deleted unless the client wants it kept, when the
    reads that use the object have ended.

    Wilful differences: the download has a name of its own until it is complete and on disk, so that no part of it is
    taken for the volume's data; a volume that is being moved or copied here anew is refused; a client that goes ends
    the move. Where it goes while reads still use the object, the volume is on disk, and the object stays.
    """
    volume = _volume(node, request.volume_id, request.collection)
    if not volume.is_tiered:
        raise RpcFailure(f"volume {volume.id} is already on local disk")
    with claimed(volume, "is being moved to disk", holds_writes=False):
        tier, file, remote = yield from _to_disk(node, context, volume)
        store_of(node).note_moved(volume.id)
    if request.keep_remote_dat_file:
        return
    _wait_for_reads(context, volume.id, file, remote)
    key = _key_of(file)
    try:
        tier.delete(key)
    except TierFailed as error:
        raise RpcFailure(f"volume {volume.id} failed to delete remote file {key}: {error}") from error


def _key_of(file: RemoteFile) -> str:
    return file.key.removeprefix("/")


def _wait_for_reads(context: RpcContext, volume_id: int, file: RemoteFile, remote: SharedFile) -> None:
    """Waits until no read uses the object, for `READERS_LIMIT_S` at most.

    Raises RequestsBroken: the client went meanwhile. The object stays, and the log names it.
    """
    wakes = threading.Event()
    if not remote.call_when_closed(wakes.set):
        return
    if context.add_callback(wakes.set) and not wakes.wait(READERS_LIMIT_S):
        key = _key_of(file)
        log.warning("volume %d: %s goes under a read that began %d s ago at least", volume_id, key, READERS_LIMIT_S)
    elif remote.user_count:
        place = f"{_key_of(file)} stays in {file.backend_name}"
        log.warning("volume %d is on disk, and its object %s: the client went while it was read", volume_id, place)
        raise RequestsBroken


def _to_disk(
    node: GrpcNode, context: RpcContext, volume: Volume
) -> Generator[pb.VolumeTierMoveDatFromRemoteResponse, None, tuple[Tier, RemoteFile, SharedFile]]:
    """Downloads .dat and serves the volume from disk. Returns the tier, the object, and the open object."""
    if not volume.is_tiered:
        raise RpcFailure(f"volume {volume.id} is already on local disk")
    file = volume.info.files[0]
    tiers = _tiers(store_of(node))
    tier = tiers.find(file.backend_name) if tiers else None
    if tier is None:
        raise RpcFailure(f"remote storage {file.backend_name} not found from supported: {_list(tiers)}")
    path = volume.paths.file(".dat")
    files, arriving = volume.handle.files, receiving_path(path)
    key = _key_of(file)

    def download(progress: Progress) -> None:
        size_bytes = tier.download(key, arriving, progress)
        if size_bytes != file.file_size:
            raise TierFailed(f"{size_bytes} bytes came, {file.file_size} were uploaded")
        arrived = files.facts(arriving)
        if arrived is None or arrived.size_bytes != size_bytes:
            # The object is the only copy until this one counts.
            raise TierFailed(f"{arriving} has not the {size_bytes} bytes of the object")
        put_on_disk(files, arriving, file.modified_time)

    try:
        with closing(_moving(context, download, f"backend {file.backend_name} copy file {path}")) as moving:
            for done_bytes, percentage in moving:
                yield pb.VolumeTierMoveDatFromRemoteResponse(processed=done_bytes, processedPercentage=percentage)
        with errors_as_upstream():
            remote = volume.serve_from_disk(arriving)
    finally:
        try:
            files.unlink(arriving)
        except OSError as error:
            log.warning("%s is left to the next start, which removes it: %s", arriving, error)
    log.info("volume %d is served from disk; it was in %s as %s", volume.id, file.backend_name, key)
    return tier, file, remote


def _volume(node: GrpcNode, volume_id: int, collection: str) -> Volume:
    volume = volume_of(node, volume_id, _NAME)
    if volume.collection != collection:
        raise RpcFailure(f"existing collection:{volume.collection} unexpected input: {collection}")
    with errors_as_upstream():
        volume.check_in_service()
    return volume


def _tiers(store: Store) -> Tiers | None:
    return store.tiers.tiers if store.tiers is not None else None


def _list(tiers: Tiers | None) -> str:
    """The names in Go's form of a list."""
    return f"[{' '.join(tiers.names)}]" if tiers is not None else "[]"


def _moving(
    context: RpcContext, move: Callable[[Progress], None], doing: str
) -> Generator[tuple[int, float], None, None]:
    """Runs `move` in a thread. Yields the progress each second. The move ends when the client goes.

    Raises:
        RpcFailure: the move failed; the text begins with `doing`.
        RequestsBroken: the client went.
    """
    latest: tuple[int, float] = (0, 0.0)
    failure: list[Exception] = []
    has_ended: queue.SimpleQueue[None] = queue.SimpleQueue()
    is_wanted = threading.Event()
    is_wanted.set()

    def progress(done_bytes: int, percentage: float) -> None:
        nonlocal latest
        latest = done_bytes, percentage
        if not is_wanted.is_set():
            raise _CallEnded

    def run() -> None:
        try:
            move(progress)
        except Exception as error:  # noqa: BLE001  told to the call's thread
            failure.append(error)
        finally:
            has_ended.put(None)

    thread = threading.Thread(target=run, name="tier-move", daemon=True)
    thread.start()
    try:
        while not _is_over(has_ended):
            if not context.is_active():
                raise RequestsBroken
            yield latest
    finally:
        is_wanted.clear()
        thread.join()
    for error in failure:
        if isinstance(error, TierFailed | TierMoveFailed | OSError):
            raise RpcFailure(f"{doing}: {error}") from error
        raise error


def _is_over(has_ended: queue.SimpleQueue[Any]) -> bool:
    try:
        has_ended.get(timeout=REPORT_EVERY_S)
    except queue.Empty:
        return False
    return True
