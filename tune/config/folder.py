"""The folder of a sweep: settings and Optuna's study, from which a stopped sweep continues."""

import os
import platform
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from krona.base.source import lasting
from krona.errors import KronaError, nearest
from krona.storage.atomic import write_atomically
from tune.config.sweep import SweepConfig, from_json, to_json

SETTINGS = "sweep.json"
ANEW = (  # what --resume may say otherwise than before
    "slots",
    "gpus_per_slot",
    "cpus_per_slot",
    "min_gpus",
    "pack",
    "max_concurrent",
    "finalists",
    "final_images",
    "confirm",
    "address",
    "tracking_uri",
)


@dataclass(frozen=True, kw_only=True)
class SweepFolder:
    """Where a sweep's files lie; `path` is absolute and ends in the sweep's name."""

    path: Path

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.path.name

    @property
    def study(self) -> Path:
        """Optuna's database."""
        return self.path / "optuna.db"

    @property
    def trials(self) -> Path:
        """One folder per trial: its adapter and its training state."""
        return self.path / "trials"

    @property
    def ray(self) -> Path:
        """What Ray writes; nothing reads it again."""
        return self.path / "ray"

    @property
    def is_kept(self) -> bool:
        """Whether there is a sweep to resume here."""
        return (self.path / SETTINGS).exists()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only process that runs this sweep, until it ends in whatever way.

        A disk that has no locks has none of this.
        Raises: KronaError that names the process which does already.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        runner, lock = self.path / "runner", FileLock(self.path / "running.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            who = runner.read_text() if runner.exists() else "another process"
            raise KronaError(
                f"sweep '{self.name}' is run by {who}; wait for it, stop it with Ctrl-C, or give "
                "another --name"
            ) from error
        except (OSError, NotImplementedError):
            pass
        try:
            runner.write_text(f"process {os.getpid()} on {platform.node()}")
            yield
        finally:
            lock.release()

    @property
    def resume_command(self) -> str:
        """What continues the sweep."""
        storage = self.path.parent
        elsewhere = () if storage == SweepConfig.storage.resolve() else ("--storage", str(storage))
        return shlex.join(("krona", "sweep", "--resume", "--name", self.name, *elsewhere))

    def keep(self, config: SweepConfig) -> None:
        """Store the settings, once they have proved to fit: from here on it can be resumed."""
        self.trials.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / SETTINGS, to_json(config).encode())


def open_folder(config: SweepConfig) -> tuple[SweepFolder, SweepConfig]:
    """Name a new sweep's folder, or find the one to resume with the settings it began with.

    Raises: KronaError for a name that is taken, or where there is nothing to resume.
    """
    storage = config.storage.resolve()
    if config.resume:
        folder = SweepFolder(path=storage / (config.name or _newest(storage, config)))
        return folder, _resumed(folder, config)
    subject = config.experiment.subject_name
    folder = SweepFolder(
        path=storage / (config.name or f"{subject}-{time.strftime('%y%m%d-%H%M%S')}")
    )
    if folder.is_kept:
        raise KronaError(f"sweep '{folder.name}' exists; --resume continues it, or name another")
    return folder, _absolute(config)


def _resumed(folder: SweepFolder, config: SweepConfig) -> SweepConfig:
    """The stored settings; `config` may say anew how they are run, and more trials extend."""
    if not folder.is_kept:
        names = [path.parent.name for path in folder.path.parent.glob(f"*/{SETTINGS}")]
        raise KronaError(f"no sweep '{folder.name}' to resume; {nearest(folder.name, names)}")
    stored = _read(folder.path / SETTINGS)
    asked = {name: getattr(config, name) for name in ANEW}
    return replace(
        stored,
        resume=True,
        name=folder.name,
        trials=max(stored.num_trials, config.trials or 0),
        storage=config.storage,
        **{name: value for name, value in asked.items() if value is not None},
    )


def ignored_options(asked: SweepConfig, used: SweepConfig) -> list[str]:
    """The options of `asked` that differ from their defaults and are not what is `used`."""
    given, absolute, default, kept = map(_options, (asked, _absolute(asked), SweepConfig(), used))
    return [
        f"--{name.replace('_', '-')}"
        for name, value in given.items()
        if value != default[name] and kept[name] not in (value, absolute[name])
    ]


def _options(config: SweepConfig) -> dict[str, Any]:
    """The options by their names on the command line."""
    experiment = config.experiment
    told = experiment, experiment.training, experiment.protocol
    options = vars(config) | dict(item for part in told for item in vars(part).items())
    for nested in ("experiment", "training", "protocol"):
        del options[nested]
    return options | {"subject": experiment.subject_name}


def _read(path: Path) -> SweepConfig:
    try:
        return from_json(path.read_text())
    except (ValueError, KronaError) as error:
        raise KronaError(
            f"{path} is damaged: it holds no sweep's settings; restore it, or start a sweep anew"
        ) from error


def _newest(storage: Path, config: SweepConfig) -> str:
    found = sorted(storage.glob(f"*/{SETTINGS}"), key=lambda path: path.stat().st_mtime)
    asked = config.experiment
    is_any = asked.subject is None and asked.photos is None
    for path in reversed(found):
        if is_any or _read(path).experiment.subject_name == asked.subject_name:
            return path.parent.name
    wanted = "sweep" if is_any else f"sweep of subject '{asked.subject_name}'"
    raise KronaError(f"no {wanted} in {storage}; start one without --resume")


def _absolute(config: SweepConfig) -> SweepConfig:
    """Settings that mean the same from another folder."""
    experiment = config.experiment
    source = lasting(experiment.source)
    paths = {
        name: getattr(experiment, name).resolve()
        for name in ("photos", "cache_dir")
        if getattr(experiment, name) is not None
    }
    experiment = replace(
        experiment, **paths, base=source.name, vae=source.vae, config=source.config
    )
    return replace(config, experiment=experiment, tracking_uri=config.tracking())
