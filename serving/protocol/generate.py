"""Generate the Python modules of the protocol from `models.proto`.

    python -m serving.protocol.generate

This needs grpcio-tools, which the extra `dev` installs.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = "serving/protocol/models.proto"
MODULES = ("models_pb2.py", "models_pb2.pyi", "models_pb2_grpc.py")


def generate(out: Path) -> None:
    """Write the modules below `out`, in the folder serving/protocol. Raises RuntimeError."""
    from grpc_tools import protoc

    flags = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"--proto_path={ROOT}", *flags, PROTO]):
        raise RuntimeError(f"protoc could not read {PROTO}; see its message above.")


if __name__ == "__main__":
    generate(ROOT)
    sys.exit(0)
