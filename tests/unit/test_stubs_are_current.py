"""The committed protobuf stubs are what proto/generate.py writes today."""

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "native_handlers" / "pb"


def pinned_grpcio_tools() -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pin,) = (line for line in extras["dev"] if line.startswith("grpcio-tools=="))
    return pin.partition("==")[2]


def test_stubs_are_current(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is a development dependency: pip install -e '.[dev]'")
    installed = importlib.metadata.version("grpcio-tools")
    if installed != pinned_grpcio_tools():
        pytest.skip(f"grpcio-tools {installed} is installed, the stubs are made with {pinned_grpcio_tools()}")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    fresh = generate.generate(tmp_path)
    assert {path.name for path in fresh} == {path.name for path in STUBS.glob("*_pb2.py*")}
    for path in fresh:
        assert path.read_text() == (STUBS / path.name).read_text(), f"run: python proto/generate.py ({path.name})"
