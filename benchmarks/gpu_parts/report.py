"""What parts measure, in; one JSON file out, written anew at every measure, and what it holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from record import is_met, surroundings

Status = Literal["running", "done", "skipped", "failed", "timed out"]
Value = float | str
# What is not run again: a part that ran out of time would do so once more.
SETTLED: tuple[Status, ...] = ("done", "timed out")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a part is to reach: at most `limit`, or at least."""

    part: str
    name: str
    limit: float
    is_least: bool = False

    def is_met(self, value: float) -> bool:
        return is_met(value, self.limit, is_least=self.is_least)


OF_NONE, OF_LORA = "step, krona / no adapter", "step, krona / LoRA 8"
OF_PEFT = "what PEFT LoKr adds to a step / what krona adds"
PACK_OF_8, OFF_PLAN = "steps of 8 packed, times as fast", "memory, measured off planned"
GOALS = (
    Goal(part="sdxl", name=OF_NONE, limit=1.10),
    *(
        goal
        for part, least_of_8 in (("sd15", 1.7), ("sdxl", 1.35))
        for goal in (
            Goal(part=part, name=OF_LORA, limit=1.05),
            Goal(part=part, name=OF_PEFT, limit=2.0, is_least=True),
            Goal(part=part, name=PACK_OF_8, limit=least_of_8, is_least=True),
            Goal(part=part, name=OFF_PLAN, limit=0.10),
        )
    ),
)


class Report:
    """The file of one device's results. A part's process and the one that started it take turns.

    Attributes:
        about: date, hardware, versions.
        parts: part → status, message, seconds, rows (table, line, values), goals, remarks.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}}
        self.device = device
        self.about = surroundings(device)
        self.parts: dict[str, dict[str, Any]] = known["parts"]

    def begin(self, part: str) -> None:
        """Forget what the part measured before."""
        empty = {"rows": [], "goals": {}, "remarks": []}
        self.parts[part] = {"status": "running", "message": "", "seconds": 0.0} | empty
        self._write()

    def end(self, part: str, status: Status, message: str = "") -> None:
        self.parts[part] |= {"status": status, "message": message}
        self._write()

    def took(self, part: str, seconds: float) -> None:
        self.parts[part]["seconds"] = seconds
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        text = json.dumps(self.about | {"parts": self.parts}, indent=1)
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(self.path)

    def notes(self, part: str) -> "Notes":
        """Where a part writes."""
        return Notes(self, part)


class Notes:
    """Where one part writes what it measures; nothing that it wrote is lost if it dies."""

    def __init__(self, report: Report, part: str) -> None:
        self._report = report
        self._part = part

    def add(self, table: str, line: str, values: Mapping[str, Value]) -> None:
        """A line of a table, by column; a text where there is no number says why."""
        row = {"table": table, "line": line, "values": dict(values)}
        self._report.parts[self._part]["rows"].append(row)
        self._report._write()
        print(f"{table} | {line} | {row['values']}", flush=True)

    def reach(self, goal: str, value: float) -> None:
        """What a goal's value is."""
        self._report.parts[self._part]["goals"][goal] = value
        self._report._write()

    def remark(self, text: str) -> None:
        """A sentence for the reader."""
        self._report.parts[self._part]["remarks"].append(text)
        self._report._write()
