import pytest

from recipes.rundir import RunDir, RunDirError


@pytest.mark.parametrize("content", [b"", b'{"kind": "dp', b"[]", b'{"kind": "\xff"}'])
def test_a_damaged_run_json_is_named(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunDirError, match=r"run\.json is not (valid JSON: .*|a JSON object)\.$"):
        RunDir(tmp_path).spec()
