"""Security configurations: tokens and the white list; and the check of a token."""

from __future__ import annotations

from supervisor.config.config import HttpsClientConfig, JwtKey, SecurityConfig, TlsFiles
from supervisor.wire.jwt import verified_token


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


def check_token(token, key, file_id, now_s):
    """Raises BadToken unless `token` is signed with `key`, and is for `file_id` at `now_s`."""
    verified_token(token, key).check_use(file_id, now_s)
