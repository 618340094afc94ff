"""/status: disks and volumes of the node as JSON. Source: weed/server/volume_server_handlers_admin.go."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from native_handlers.http.reply import is_pretty, json_reply

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import Request, Response

_ENCODED_HERE = 64 * 1024
_FINDINGS_HERE = 16
"""Encoding so much takes a fraction of a millisecond; a longer answer is encoded in a thread."""


async def handle_status(context: HttpContext, request: Request) -> Response:
    """Any method gets the same answer. Lists without an entry are null.

    Addition to upstream's answer: ``Findings``, where there are any.
    """
    node = context.node
    volumes = await node.volume_list(is_pretty=is_pretty(request))
    disks = await node.disk_statuses()
    version = f"{context.settings.version} {context.settings.commit}"
    answer: dict[str, object] = {
        "DiskStatuses": list(disks) or None,
        "Version": version,
        "Volumes": volumes or None,
    }
    findings = await node.findings()
    if findings:
        answer["Findings"] = list(findings)
    if len(volumes.text) <= _ENCODED_HERE and len(findings) <= _FINDINGS_HERE:
        return json_reply(request, 200, answer)
    return await node.aside(partial(json_reply, request, 200, answer))
