"""Tests of the generated modules of the protocol."""

from pathlib import Path

import pytest

from serving.protocol.generate import MODULES, ROOT, generate


@pytest.mark.parametrize("name", MODULES)
def test_the_generated_modules_are_current(name: str, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the extra dev installs grpcio-tools")
    generate(tmp_path)
    path = Path("serving/protocol") / name
    assert (tmp_path / path).read_text() == (ROOT / path).read_text(), (
        "run python -m serving.protocol.generate"
    )
