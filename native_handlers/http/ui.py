"""/ui/index.html: one page about this server, without scripts and without resources of other hosts.

The section titles are upstream's, for people and tools that look for them; the page is our own. See docs/policy/ui.md.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from native_handlers.http.ui_parts import Column, definitions, disk_meter, human_size, human_uptime, section, table
from native_handlers.http_model.headers import HeaderMap
from native_handlers.http_model.message import Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http.context import (
        DiskStatusRow,
        EcVolumeRow,
        HttpContext,
        NodeDetails,
        TtlStatus,
        VolumeStatus,
    )
    from native_handlers.http.settings import HttpSettings
    from native_handlers.http_model.message import Request

_TTL_UNITS = ("", "m", "h", "d", "w", "M", "y")
_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
_LINKS = (("Status", "/status"), ("Health", "/healthz"))


async def handle_ui(context: HttpContext, request: Request) -> Response:
    """The page, for any method. The router decides whether the page is shown (`HttpSettings.has_ui`)."""
    node = context.node
    details = await node.details()
    volumes = await node.volumes()
    disks = await node.disk_statuses()
    is_healthy = node.is_heartbeating and not node.is_stopping
    build = partial(_build, context.settings, details, disks, volumes, is_healthy=is_healthy)
    headers = HeaderMap([("Content-Security-Policy", _POLICY), ("Content-Type", "text/html; charset=utf-8")])
    return Response(200, headers, await node.aside(build))


def _build(
    settings: HttpSettings,
    details: NodeDetails,
    disks: Sequence[DiskStatusRow],
    volumes: Sequence[VolumeStatus],
    *,
    is_healthy: bool,
) -> bytes:
    """Builds the page. Call it in a thread: the time grows with the volumes."""
    by_id = sorted(volumes, key=lambda row: row["Id"])
    page = "".join(
        (
            _head(settings, details, is_healthy=is_healthy),
            '<main id="main"><div class="top">',
            _disks(disks),
            _system(settings, details),
            "</div>",
            _volumes([row for row in by_id if not row["RemoteStorageName"]]),
            _remote_volumes([row for row in by_id if row["RemoteStorageName"]], details),
            _ec_volumes(details.ec_volumes),
            f"</main><footer>Server time {_date_time(time.time())}. Reload for newer numbers.</footer></body></html>\n",
        )
    )
    return page.encode("utf-8", "replace")


def _head(settings: HttpSettings, details: NodeDetails, *, is_healthy: bool) -> str:
    links = (*_LINKS, *details.links)
    anchors = "".join(f'<a href="{escape(target)}">{escape(label)}</a>' for label, target in links)
    badge = '<span class="badge good">serving</span>' if is_healthy else '<span class="badge warn">leaving</span>'
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>SeaweedFS {escape(settings.version)}</title>"
        '<link rel="icon" href="/favicon.ico"><link rel="stylesheet" href="/seaweedfsstatic/volume.css"></head><body>'
        '<a class="skip" href="#main">Skip to content</a><header>'
        '<img src="/seaweedfsstatic/seaweed50x50.png" width="50" height="50" alt="">'
        f"<h1>SeaweedFS volume server<small>{escape(settings.self_url)}</small></h1>{badge}"
        f'<nav aria-label="Pages">{anchors}</nav></header>'
    )


def _disks(disks: Sequence[DiskStatusRow]) -> str:
    columns = (
        Column("Path"),
        Column("Disk"),
        Column("Total", is_number=True),
        Column("Free", is_number=True),
        Column("Usage"),
    )
    rows = [
        (
            escape(row.get("dir", "")),
            escape(row.get("disk_type", "") or "hdd"),
            human_size(row.get("all", 0)),
            human_size(row.get("free", 0)),
            disk_meter(row.get("used", 0), row.get("all", 0)),
        )
        for row in disks
    ]
    return section("Disk Stats", table("Disk Stats", columns, rows, "No disk is configured."))


def _system(settings: HttpSettings, details: NodeDetails) -> str:
    facts = [
        ("Version", f"{settings.version} {settings.commit}".strip()),
        ("Started", _date_time(details.started_at_s)),
        ("Up Time", human_uptime(time.time() - details.started_at_s)),
        ("Masters", ", ".join(details.masters) or "none"),
        ("Reads of volumes elsewhere", settings.read_mode.value),
        *details.facts,
    ]
    return section("System Stats", definitions(facts))


def _volumes(volumes: Sequence[VolumeStatus]) -> str:
    columns = (
        Column("Id", is_number=True),
        Column("Collection"),
        Column("Disk"),
        Column("Data Size", is_number=True),
        Column("Files", is_number=True),
        Column("Trash", is_number=True),
        Column("TTL"),
        Column("Replicas"),
        Column("State"),
        Column("Version", is_number=True),
    )
    rows = [
        (
            str(row["Id"]),
            escape(row["Collection"]) or "default",
            escape(row["DiskType"]) or "hdd",
            human_size(row["Size"]),
            str(row["FileCount"]),
            f"{row['DeleteCount']} / {human_size(row['DeletedByteCount'])}",
            _ttl(row["Ttl"]) or "none",
            "".join(str(row["ReplicaPlacement"].get(key, 0)) for key in ("dc", "rack", "node")),
            "read-only" if row["ReadOnly"] else "writable",
            str(row["Version"]),
        )
        for row in volumes
    ]
    return section("Volumes", table("Volumes", columns, rows, "No volume is here yet."))


def _remote_volumes(volumes: Sequence[VolumeStatus], details: NodeDetails) -> str:
    if not volumes:
        return ""
    columns = (
        Column("Id", is_number=True),
        Column("Collection"),
        Column("Size", is_number=True),
        Column("Files", is_number=True),
        Column("Trash", is_number=True),
        Column("Remote"),
        Column("Key"),
    )
    rows = [
        (
            str(row["Id"]),
            escape(row["Collection"]) or "default",
            human_size(row["Size"]),
            str(row["FileCount"]),
            f"{row['DeleteCount']} / {human_size(row['DeletedByteCount'])}",
            escape(row["RemoteStorageName"]),
            escape(details.remote_keys.get(row["Id"], "")),
        )
        for row in volumes
    ]
    return section("Remote Volumes", table("Remote Volumes", columns, rows, ""))


def _ec_volumes(volumes: Sequence[EcVolumeRow]) -> str:
    if not volumes:
        return ""
    columns = (
        Column("Id", is_number=True),
        Column("Collection"),
        Column("Total Size", is_number=True),
        Column("Shard Details"),
        Column("CreatedAt"),
    )
    rows = [
        (
            str(row.volume_id),
            escape(row.collection) or "default",
            human_size(row.size_bytes),
            "<span>"
            + "".join(f'<span class="shard">{i}: {human_size(size)}</span>' for i, size in row.shards)
            + "</span>",
            _date_time(row.created_at_s),
        )
        for row in volumes
    ]
    return section("Erasure Coding Shards", table("Erasure Coding Shards", columns, rows, ""))


def _ttl(ttl: TtlStatus) -> str:
    unit = ttl["Unit"]
    return f"{ttl['Count']}{_TTL_UNITS[unit]}" if ttl["Count"] and 0 < unit < len(_TTL_UNITS) else ""


def _date_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
