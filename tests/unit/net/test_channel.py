import pytest

from supervisor.cli.config import TlsFiles
from supervisor.net.channel import _client_material, name_in_certificate

COMMON_NAME_ONLY = {"subject": ((("countryName", "DE"),), (("commonName", "volume01"),))}


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (COMMON_NAME_ONLY, "volume01"),
        ({**COMMON_NAME_ONLY, "subjectAltName": (("DNS", "*.example.org"),)}, "any.example.org"),
        ({"subjectAltName": (("IP Address", "10.0.0.7"),)}, "10.0.0.7"),
        ({"subjectAltName": (("URI", "spiffe://x"),)}, None),
        ({}, None),
    ],
)
def test_name_in_certificate(certificate, name):
    assert name_in_certificate(certificate) == name


def files(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_text("x")
    return {name: tmp_path / name for name in names}


def test_client_material_needs_all_three(tmp_path):
    made = files(tmp_path, "ca", "cert", "key")
    assert _client_material(TlsFiles(**made)) == (made["ca"], made["cert"], made["key"])
    assert _client_material(TlsFiles(cert=made["cert"], key=made["key"])) is None


def test_client_pair_counts_only_whole(tmp_path):
    made = files(tmp_path, "ca", "cert", "key", "client_cert", "client_key")
    assert _client_material(TlsFiles(**made))[1:] == (made["client_cert"], made["client_key"])
    del made["client_key"]
    assert _client_material(TlsFiles(**made))[1:] == (made["cert"], made["key"])


def test_unreadable_file_turns_tls_off_with_a_warning(tmp_path, caplog):
    made = files(tmp_path, "ca", "cert", "key")
    made["key"].unlink()
    assert _client_material(TlsFiles(**made)) is None
    assert "key cannot be read" in caplog.text
