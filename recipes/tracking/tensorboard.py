"""TensorBoard event files of a run, which the recipe writes next to its events.

tensorboardX writes the files. It is small and needs neither TensorFlow nor the package tensorboard,
which is only needed to look at them.
"""

import os
import time
from typing import Any

from recipes.curves import curves_of
from recipes.rundir import RunDir

FOLDER = "tensorboard"


def write_tensorboard(run_dir: RunDir) -> None:
    """Write the curves of all later progress events to `tensorboard/` in the run directory.

    A file is created with the first curve. An error ends the writing, but not the run, and is reported
    as a warning.
    """
    run_dir.observers.append(_Writer(run_dir))


class _Writer:
    def __init__(self, run_dir: RunDir):
        self.run_dir = run_dir
        self.writer: Any = None
        self.failed = False

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        if event != "progress" or self.failed:
            return
        try:
            self._write(fields)
        except Exception as error:  # the files are only for people to look at
            self.failed = True
            text = f"TensorBoard files cannot be written: {type(error).__name__}: {error}"
            self.run_dir.message(text, level="warning")

    def _write(self, fields: dict[str, Any]) -> None:
        """Write the curves of a step to the disk. The writer has no thread, so none get lost."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self.writer is None:
            folder = self.run_dir.path / FOLDER
            folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
            self.writer = EventsWriter(str(folder / name))
        values = [
            Summary.Value(tag=name, simple_value=value) for name, value in curves_of(fields).items()
        ]
        step = int(fields.get("step") or 0)
        self.writer.write_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )
        self.writer.flush()
