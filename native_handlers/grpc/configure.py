"""RPCs that change the replica placement of a volume and the place of its index.

Source: weed/server/volume_grpc_admin.go (VolumeConfigure, VolumeConsolidateIndex).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadReplicaPlacement
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, store_of
from native_handlers.grpc.status_text import shortened
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.model.errors import ConfigureFailed, StorageError

if TYPE_CHECKING:
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode

log = logging.getLogger(__name__)


def volume_configure(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeConfigureRequest
) -> pb.VolumeConfigureResponse:
    """Changes the replica placement. A failure is told in the response. The volume is then open as before, or the text
    says that it could not be opened. Only for a disk that is out of service does the call itself fail.

    Wilful difference: a volume that could not be closed properly is opened again too; upstream leaves it closed.
    """
    check_maintenance(node)
    asked = _as_go_prints(request)
    volume = store_of(node).find_volume(request.volume_id)
    if volume is not None:
        with errors_as_upstream():
            volume.check_in_service()
    try:
        store_of(node).configure_volume(request.volume_id, request.replication)
    except BadReplicaPlacement as error:
        return pb.VolumeConfigureResponse(error=f"volume configure replication {asked}: {shortened(str(error))}")
    except ConfigureFailed as failure:
        step = f"{failure.step} " if failure.step else ""
        text = f"volume configure {step}{asked}: {failure.why}"
        if failure.restore_failure is not None:
            text += f". Also failed to restore mount: {failure.restore_failure}"
        log.error("%s", text)
        return pb.VolumeConfigureResponse(error=text)
    except StorageError as error:
        return pb.VolumeConfigureResponse(error=f"volume configure {asked}: {error}")
    return pb.VolumeConfigureResponse()


def volume_consolidate_index(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeConsolidateIndexRequest
) -> pb.VolumeConsolidateIndexResponse:
    """Moves an index that lies beside its data into -dir.idx. Does nothing where there is no such directory, or where
    the index is there already.
    """
    check_maintenance(node)
    with errors_as_upstream():
        store_of(node).consolidate_index(request.volume_id)
    return pb.VolumeConsolidateIndexResponse()


def _as_go_prints(request: pb.VolumeConfigureRequest) -> str:
    """The request in the form of Go's ``%v``, which upstream's texts contain; fields that are not set are left out,
    and a long text loses its end.

    Go puts one space or two between fields, depending on the build.
    """
    fields = []
    if request.volume_id:
        fields.append(f"volume_id:{request.volume_id}")
    if request.replication:
        fields.append(f"replication:{json.dumps(shortened(request.replication), ensure_ascii=False)}")
    return " ".join(fields)
