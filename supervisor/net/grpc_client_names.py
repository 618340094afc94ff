"""Which client certificates, among those that the CA has signed, may open a gRPC connection.

Source: weed/security/tls.go (Authenticator). Wilful difference: with only a wildcard domain configured, or with an
empty entry among the names, upstream also accepts certificates without a common name, because its list holds the empty
name. This module refuses such certificates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ClientNames:
    """grpc.volume.allowed_commonNames and grpc.allowed_wildcard_domain. With neither set, every name is allowed."""

    allowed: tuple[str, ...] = ()
    wildcard_domain: str = ""

    def allows(self, common_name: str | None) -> bool:
        if not self.allowed and not self.wildcard_domain:
            return True
        if not common_name:
            return False
        return common_name in self.allowed or (
            bool(self.wildcard_domain) and common_name.endswith(self.wildcard_domain)
        )


def common_name_of(certificate: Mapping[str, object] | None) -> str | None:
    """The subject's common name in the dict of `SSLObject.getpeercert()`; the last one if there are several.

    None when there is no certificate, or the certificate has no common name.
    """
    name = None
    subject = (certificate or {}).get("subject", ())
    assert isinstance(subject, tuple)
    for relative_name in subject:
        for key, value in relative_name:
            if key == "commonName":
                name = str(value)
    return name
