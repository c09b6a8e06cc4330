"""A recipe without torch that counts to N, and fails on request.

Its result depends on the order of all steps, so that a resumed run that skips or repeats one gives
another result.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from recipes.rundir import ENDED, RESTART, STOPPED, RunDir
from recipes.training import checkpoints

stopping = False


def stop(*_: object) -> None:
    global stopping
    stopping = True


def newest(run_dir: RunDir) -> tuple[int, str]:
    result = sorted(run_dir.checkpoints.glob("count-*.json"), key=lambda p: int(p.stem[6:]))
    if not result:
        return 0, ""
    state = json.loads(result[-1].read_text())
    return state["step"], state["digest"]


def save(run_dir: RunDir, step: int, digest: str) -> None:
    path = run_dir.checkpoints / f"count-{step}.json"
    with checkpoints.sealed(path) as draft:
        draft.write_text(json.dumps({"step": step, "digest": digest}))


def start_grandchild(run_dir: RunDir) -> None:
    """Start a process in its own session, as torchrun does, which killing our group does not end."""
    code = "import sys,time\nwhile True: open(sys.argv[1], 'a').write('x'); time.sleep(0.02)"
    file = str(run_dir.path / "grandchild.txt")
    process = subprocess.Popen([sys.executable, "-c", code, file], start_new_session=True)
    (run_dir.path / "grandchild.pid").write_text(str(process.pid))


def misbehave(run_dir: RunDir, config: dict, step: int) -> int | None:
    if step != config["at"]:
        return None
    match config["trouble"]:
        case "error":
            run_dir.message("The data is empty; choose another snapshot.", level="error")
            return 1
        case "silent":
            return 3
        case "traceback":
            raise RuntimeError("it broke here")
        case "memory":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "no output":
            return 0
        case "again" if not (run_dir.path / "less").exists():
            (run_dir.path / "less").touch()
            return RESTART
        case "stopped behind a launcher":
            # A launcher exits with 1, regardless of its processes' status.
            if not (run_dir.path / "less").exists():
                (run_dir.path / "less").touch()
                (run_dir.path / f"{ENDED}7-1").write_text(str(STOPPED))
            return 1
    return None


def count(run_dir: RunDir, config: dict) -> int:
    step, digest = newest(run_dir)
    print(f"counting from {step}", flush=True)
    while step < config["total"]:
        step += 1
        digest = hashlib.sha256(f"{digest}{step}".encode()).hexdigest()
        time.sleep(config["delay"])
        run_dir.emit(
            "progress", step=step, total=config["total"], loss=1 / step, metrics={"accuracy": 0.5}
        )
        status = misbehave(run_dir, config, step)
        if status is not None:
            return status
        if stopping:
            save(run_dir, step, digest)
            return STOPPED
        if step % config["checkpoint_every"] == 0:
            save(run_dir, step, digest)
    with run_dir.publish() as draft:
        (draft / "count.json").write_text(json.dumps({"digest": digest}))
        (draft / "parts").mkdir()
        (draft / "parts" / "one.txt").write_text("one")
    run_dir.emit("result", result={"digest": digest})
    return 0


def main(path: Path) -> int:
    run_dir = RunDir(path)
    config = run_dir.spec()["config"]
    ignore = config["trouble"] == "deaf"
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore else stop)
    if config["trouble"] == "grandchild":
        start_grandchild(run_dir)
    (run_dir.path / "recipe.pid").write_text(str(os.getpid()))
    (run_dir.path / "environment.json").write_text(json.dumps(dict(os.environ)))
    return count(run_dir, config)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
