"""The facts about this server that HTTP answers depend on."""

from __future__ import annotations

from native_handlers.http_model.read_mode import ReadMode
from native_handlers.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The facts about this server that answers depend on.

    Args:
        version: size limit and version as the Server header shows them, "30GB 4.44" or "8000GB 4.44".
        commit: what /status appends to the version; upstream's release builds have a commit id here.
        self_url: the advertised ip:port, by which look-ups name this server.
        volume_server_scheme: "https" where this server reaches others by HTTPS (https.client.enabled).
        has_ui: false where a write key is configured and access.ui is not set; /ui/index.html then is no page.
    """

    version: str
    self_url: str
    file_size_limit_bytes: int
    commit: str = ""
    read_mode: ReadMode = ReadMode.PROXY
    fix_jpg_orientation: bool = False
    has_ui: bool = True
    volume_server_scheme: str = "http"
