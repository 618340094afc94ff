"""Turns the configuration files into the typed objects that the server uses.

Sources: weed/server/volume_server.go (NewVolumeServer, Reload), weed/security/tls.go, weed/command/volume.go
(applyDiskIOProbeConfig, startClusterHttpService), weed/util/http/client/http_client.go.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from supervisor.config.config import (
    Config,
    DiskProbeConfig,
    HttpsClientConfig,
    JwtKey,
    SecurityConfig,
    TierConfig,
    TlsFiles,
)
from supervisor.config.toml_config import ConfigSources, load_config_tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.config.toml_config import ConfigTree

_WRITE_TOKEN_S = 10
_READ_TOKEN_S = 60
_TIERS = "storage.backend"
_SLOW_S = {"hdd": 0.5, "ssd": 0.1, "nvme": 0.05}


def security_from_tree(tree: ConfigTree, white_list_flag: tuple[str, ...], cwd: Path) -> SecurityConfig:
    """The security configuration. Never fails: values that weed would ignore become warnings, also in `tree`.

    Relative paths start at `cwd`.
    """
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
    """volume.disk.io.*. -disk decides which latency counts as slow. With several directories the probe is off."""
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


def tiers_from_tree(tree: ConfigTree) -> tuple[TierConfig, ...]:
    """The remote tiers that are enabled. In the form of master.toml; upstream's volume server knows the master's only.

    Source: weed/storage/backend/backend.go (LoadConfiguration).
    """
    found = []
    for kind in tree.names(_TIERS):
        for tier_id in tree.names(f"{_TIERS}.{kind}"):
            table = f"{_TIERS}.{kind}.{tier_id}"
            if tree.boolean(f"{table}.enabled"):
                said = ((name, tree.text(f"{table}.{name}")) for name in tree.names(table) if name != "enabled")
                found.append(TierConfig(kind, tier_id, tuple(sorted(said))))
    return tuple(found)


def split_list(text: str) -> tuple[str, ...]:
    """The entries between commas, unchanged. No entries where there is no text.

    As in upstream, an empty entry counts: it names no client, and a list with nothing else admits no client. Without
    the empty entry such a list would be empty, and would admit every client.
    """
    return tuple(text.split(",")) if text else ()


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
        allowed_common_names=_common_names(tree),
        allowed_wildcard_domain=tree.text("grpc.allowed_wildcard_domain"),
    )


def _common_names(tree: ConfigTree) -> tuple[str, ...]:
    names = split_list(tree.text("grpc.volume.allowed_commonNames"))
    doubtful = [name for name in names if name != name.strip() or not name]
    if doubtful:
        shown = ", ".join(map(repr, doubtful))
        tree.warnings.append(f"grpc.volume.allowed_commonNames: {shown}: blanks and empty names are taken as they are")
    return names


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


def reload_security(config: Config, environ: Mapping[str, str], cwd: Path) -> SecurityConfig:
    """Reads the same files again, as a whole. A key that is gone from a file is gone from the result.

    Raises:
        BadConfigFile: a file cannot be parsed. The caller keeps the old configuration.
    """
    sources = ConfigSources(config.config_dir, config.security_file, environ, cwd)
    return security_from_tree(load_config_tree(sources, strict=True), config.white_list_flag, cwd)
