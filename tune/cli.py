"""The `krona` command: typed options in, one of tune.commands run, an exit code out."""

import os
import sys
from collections.abc import Callable
from typing import Any

import tyro

from krona.errors import KronaError
from tune.commands.best import best
from tune.commands.doctor import doctor
from tune.commands.eval import evaluate
from tune.commands.export import export
from tune.commands.photos import photos
from tune.commands.plan import plan
from tune.commands.report import report
from tune.commands.sample import sample
from tune.commands.sweep import sweep
from tune.commands.train import train
from tune.commands.ui import ui

COMMANDS: dict[str, Callable[..., Any]] = {
    "sweep": sweep,
    "train": train,
    "sample": sample,
    "eval": evaluate,
    "best": best,
    "report": report,
    "plan": plan,
    "photos": photos,
    "export": export,
    "ui": ui,
    "doctor": doctor,
}
WRONG_INPUT = 2
INTERRUPTED = 130


def main() -> None:
    """Run `krona`: exit 0 when done, 2 for a wrong input, 130 after Ctrl-C."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="krona",
            description="Find the best Kronecker adapter for a subject.",
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except KronaError as error:
        print(f"krona: {error}", file=sys.stderr)
        raise SystemExit(WRONG_INPUT) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader, such as head, has left; so must what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
