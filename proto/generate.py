"""Writes native_handlers/pb/*_pb2.py and *_pb2.pyi from the .proto files in this folder.

Run `python proto/generate.py [OUTPUT_DIR]`. It needs grpcio-tools at the version pinned in pyproject.toml.
`tests/unit/test_stubs_are_current.py` fails when the committed stubs differ from the files written here. Service stubs
are not generated: servers are generic, and clients come from `native_handlers.pb.methods`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROTO_DIR = Path(__file__).resolve().parent
DEFAULT_OUTPUT = PROTO_DIR.parent / "native_handlers" / "pb"
SIBLING_IMPORT = re.compile(r"^import (\w+_pb2) as (\w+)$", re.MULTILINE)


def generate(output: Path) -> list[Path]:
    """Writes the stubs to the directory `output`, and returns their paths. Their imports of each other are absolute.

    Raises SystemExit: protoc refused a .proto file, and has printed why.
    """
    import grpc_tools.protoc  # noqa: PLC0415  development tool, absent at run time

    protos = sorted(PROTO_DIR.glob("*.proto"))
    arguments = [f"-I{PROTO_DIR}", f"--python_out={output}", f"--pyi_out={output}", *map(str, protos)]
    if grpc_tools.protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("protoc refused the .proto files; its message is above")
    written = [output / f"{proto.stem}_pb2.{ending}" for proto in protos for ending in ("py", "pyi")]
    for path in written:
        path.write_text(SIBLING_IMPORT.sub(r"from native_handlers.pb import \1 as \2", path.read_text()))
    return written


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUTPUT)
