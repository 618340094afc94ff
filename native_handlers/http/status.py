"""/status: disks and volumes of the node as JSON. Source: weed/server/volume_server_handlers_admin.go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.reply import json_reply

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http.message import Request, Response


async def handle_status(context: HttpContext, request: Request) -> Response:
    """Any method gets the same answer. Lists without an entry are null.

    Beyond upstream's: ``Findings``, where there are any.
    """
    volumes = sorted(await context.node.volumes(), key=lambda row: row["Id"])
    disks = await context.node.disk_statuses()
    version = f"{context.settings.version} {context.settings.commit}"
    answer: dict[str, object] = {"DiskStatuses": list(disks) or None, "Version": version, "Volumes": volumes or None}
    findings = await context.node.findings()
    if findings:
        answer["Findings"] = list(findings)
    return json_reply(request, 200, answer)
