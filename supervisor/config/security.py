"""What the configuration files say, as the typed snapshots that the server works with.

Sources: weed/server/volume_server.go (NewVolumeServer, Reload), weed/security/tls.go, weed/command/volume.go
(applyDiskIOProbeConfig, startClusterHttpService), weed/util/http/client/http_client.go.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from supervisor.cli.config import DiskProbeConfig, HttpsClientConfig, JwtKey, SecurityConfig, TlsFiles

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.cli.toml_config import ConfigTree

_WRITE_TOKEN_S = 10
_READ_TOKEN_S = 60
_SLOW_S = {"hdd": 0.5, "ssd": 0.1, "nvme": 0.05}


def security_from_tree(tree: ConfigTree, white_list_flag: tuple[str, ...], cwd: Path) -> SecurityConfig:
    """Never fails; what weed would ignore is a warning, in `tree` as well. Relative paths are taken from `cwd`."""
    grpc = _grpc_files(tree, cwd)
    _warn_of_unusable_grpc(tree, grpc)
    security = SecurityConfig(
        write_key=_jwt_key(tree, "jwt.signing", _WRITE_TOKEN_S),
        read_key=_jwt_key(tree, "jwt.signing.read", _READ_TOKEN_S),
        ui_access=tree.boolean("access.ui"),
        white_list=(*white_list_flag, *split_list(tree.text("guard.white_list"))),
        grpc=grpc,
        https=TlsFiles(
            cert=_path(tree, "https.volume.cert", cwd),
            key=_path(tree, "https.volume.key", cwd),
            ca=_path(tree, "https.volume.ca", cwd),
        ),
        https_client=HttpsClientConfig(
            enabled=tree.boolean("https.client.enabled"),
            cert=_path(tree, "https.client.cert", cwd),
            key=_path(tree, "https.client.key", cwd),
            ca=_path(tree, "https.client.ca", cwd),
            insecure_skip_verify=tree.boolean("https.client.insecure_skip_verify"),
        ),
        tls_min_version=tree.text("tls.min_version"),
        tls_max_version=tree.text("tls.max_version"),
        tls_cipher_suites=tree.text("tls.cipher_suites"),
        loaded_from=tree.loaded_from,
        file_data=tree.data,
    )
    return dataclasses.replace(security, warnings=tuple(tree.warnings))


def disk_probe_from_tree(tree: ConfigTree, disk_flag: str, directory_count: int) -> DiskProbeConfig:
    """volume.disk.io.*; the latency that counts as slow follows the text of -disk. Off with several directories."""
    prefix = "volume.disk.io."
    probe = DiskProbeConfig(
        enabled=tree.boolean(prefix + "probe"),
        interval_s=tree.duration_s(prefix + "interval", 60.0),
        timeout_s=tree.duration_s(prefix + "timeout", 2.0),
        slow_s=_slow_latency_s(tree, disk_flag),
        window_s=tree.duration_s(prefix + "window", 60.0),
        min_samples=tree.integer(prefix + "min.samples", 10),
        slow_percent=tree.number(prefix + "slow.percent", 20.0),
        error_percent=tree.number(prefix + "error.percent", 10.0),
        max_stat_failures=tree.integer(prefix + "max.stat.failures", 5),
        recovery_coefficient=tree.number(prefix + "recovery.coef", 0.5),
    )
    if probe.enabled and directory_count > 1:
        tree.warnings.append("the disk probe (volume.disk.io.probe) works for one -dir only and is off")
        return dataclasses.replace(probe, enabled=False)
    return probe


def split_list(text: str) -> tuple[str, ...]:
    """The entries between commas, without blanks around them and without empty ones."""
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _slow_latency_s(tree: ConfigTree, disk_flag: str) -> float:
    kind = disk_flag if disk_flag in _SLOW_S else "hdd"
    return tree.duration_s(f"volume.disk.io.slow.latency.{kind}", _SLOW_S[kind])


def _jwt_key(tree: ConfigTree, section: str, default_s: int) -> JwtKey:
    key = tree.text(f"{section}.key").encode()
    return JwtKey(key, tree.integer(f"{section}.expires_after_seconds", default_s))


def _grpc_files(tree: ConfigTree, cwd: Path) -> TlsFiles:
    return TlsFiles(
        cert=_path(tree, "grpc.volume.cert", cwd),
        key=_path(tree, "grpc.volume.key", cwd),
        ca=_path(tree, "grpc.ca", cwd),
        client_cert=_path(tree, "grpc.volume.client_cert", cwd),
        client_key=_path(tree, "grpc.volume.client_key", cwd),
        allowed_common_names=split_list(tree.text("grpc.volume.allowed_commonNames")),
        allowed_wildcard_domain=tree.text("grpc.allowed_wildcard_domain"),
    )


def _warn_of_unusable_grpc(tree: ConfigTree, grpc: TlsFiles) -> None:
    if (grpc.client_cert is None) != (grpc.client_key is None):
        tree.warnings.append(
            "grpc.volume.client_cert and client_key count only together; cert and key are used for both directions"
        )
    if grpc.cert is None or grpc.key is None:
        return
    if grpc.ca is None:
        tree.warnings.append("grpc.volume.cert and key are set but grpc.ca is not, so gRPC stays without TLS")
    elif grpc.cert.parent != grpc.key.parent:
        tree.warnings.append(
            f"grpc.volume.cert ({grpc.cert}) and key ({grpc.key}) are in different directories; a Go weed serves gRPC"
            " without TLS then"
        )


def _path(tree: ConfigTree, key: str, cwd: Path) -> Path | None:
    text = tree.text(key)
    return cwd / text if text else None
