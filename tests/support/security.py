"""Security configurations: tokens and the white list."""

from __future__ import annotations

from supervisor.config.config import HttpsClientConfig, JwtKey, SecurityConfig, TlsFiles


def security(*, write=b"", read=b"", white_list=()):
    return SecurityConfig(
        write_key=JwtKey(write, 10),
        read_key=JwtKey(read, 60),
        ui_access=False,
        white_list=tuple(white_list),
        grpc=TlsFiles(),
        https=TlsFiles(),
        https_client=HttpsClientConfig(),
    )
