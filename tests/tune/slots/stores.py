"""MLflow stores that are held up or full, and what is recorded in them."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tune.records.tracking import Tracker

SOON_S = 10.0
SETTINGS = {"a1": 8, "a2": 32, "learning_rate": 5e-3, "steps": 10}
SETTINGS |= {"targets": "qkvo", "init": "kaiming"}
IMAGES = (("a_sks_toy", Image.new("RGB", (32, 32))),)


class HeldTracker(Tracker):
    """A store whose reports wait for the gate of their (run, step), where they have one."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.gates: dict[tuple[str, int], threading.Event] = {}
        self.written: list[tuple[str, int]] = []

    def log_report(self, run_id: str, step: int, *report: Any) -> None:
        gate = self.gates.get((run_id, step))
        if gate is not None and not gate.wait(SOON_S):
            raise TimeoutError("nobody went on while this was written")
        super().log_report(run_id, step, *report)
        self.written.append((run_id, step))

    def hold(self, run_id: str, step: int) -> threading.Event:
        return self.gates.setdefault((run_id, step), threading.Event())


class FullTracker(Tracker):
    """A store without room for the first evaluation of trial 000."""

    def log_report(self, run_id: str, step: int, *report: Any) -> None:
        if step == 5 and self._client.get_run(run_id).data.tags["tune_trial_id"] == "000":
            raise OSError("no space left")
        super().log_report(run_id, step, *report)


def adapter_file(folder: Path, value: int) -> Path:
    path = folder / "adapter.safetensors"
    save_file({"A": np.full((2, 2), value)}, path, metadata={"krona": f'{{"steps": {value}}}'})
    return path
