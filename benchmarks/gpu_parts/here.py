"""A part's name in; the report out with what it measured in this process."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from gpu_parts.report import Notes, Report
from gpu_parts.setup import LackingError, Setup, told


@dataclass(frozen=True)
class Part:
    """The module and function that measure, and how many seconds they may take at full size."""

    module: str
    function: str
    limit_s: float

    def run(self, setup: Setup, notes: Notes) -> None:
        """Measure. The module is imported here: some take long."""
        function: Callable[[Setup, Notes], None]
        function = getattr(import_module(f"gpu_parts.{self.module}"), self.function)
        function(setup, notes)


PARTS = {
    "tests": Part("whole", "tests", 70),
    "layer": Part("layers", "run", 55),
    "sd15": Part("bases", "sd15", 100),
    "sdxl": Part("bases", "sdxl", 155),
    "sample": Part("sampling", "run", 40),
    "sweep": Part("whole", "sweep", 60),
}


def measure(name: str, setup: Setup, report: Report) -> None:
    """Run a part and say how it ended; whatever goes wrong is its result."""
    try:
        PARTS[name].run(setup, report.notes(name))
        report.end(name, "done")
    except LackingError as lacking:
        report.end(name, "skipped", str(lacking))
    except Exception as error:
        traceback.print_exc()
        report.end(name, "failed", told(error))
