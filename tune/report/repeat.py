"""How to repeat and go on: what was recorded in; commands, versions and hashes out."""

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from evals.protocol import Protocol
from tune.config.training import Training
from tune.config.trial import ExperimentConfig, TrialSettings
from tune.names import resolve_tracking_uri
from tune.report.gather import Findings, Trial

# how a machine computes, not what: another one has its own
_OF_THE_MACHINE = {"device", "cache_dir", "memory_gib"}
_VERSION = "version."
_COMMIT = "mlflow.source.git.commit"


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """What is typed next, the champion's training as a command, and what it was made with."""

    export: str
    sample: str
    train: str
    facts: tuple[tuple[str, str], ...]


def make_repeat(findings: Findings, champion: Trial) -> Repeat:
    """Commands for the champion, and the record of what made it."""
    run, store = champion.row.run_id, _store(findings.uri)
    return Repeat(
        export=shlex.join(("krona", "export", run, "--format", "kohya", *store)),
        sample=shlex.join(("krona", "sample", "a {} on the moon", "--adapter", run, *store)),
        train=train_command(champion.facts.params, findings.sweep.subject),
        facts=tuple(_facts(findings, champion)),
    )


def train_command(params: Mapping[str, str], subject: str) -> str:
    """The `krona train` command of a trial's recorded parameters.

    Args:
        params: of the trial's run: what it was told, and what it shares with the sweep's others.
    """
    words = ["krona", "train", "--subject", subject]
    defaults = _defaults()
    trial = set(TrialSettings.names())
    for name, value in params.items():
        if name == "subject" or name not in defaults or name in _OF_THE_MACHINE:
            continue
        if name in trial or name == "eval_every" or value != str(defaults[name]):
            words += _option(name, value)
    return shlex.join(words)


def _option(name: str, value: str) -> list[str]:
    option = name.replace("_", "-")
    if value in ("True", "False"):
        return [f"--{option}" if value == "True" else f"--no-{option}"]
    return [] if value == "None" else [f"--{option}", value]


def _defaults() -> dict[str, Any]:
    """Every option of `krona train` that a run records, by its name."""
    known: dict[str, Any] = {}
    for config in (ExperimentConfig(), TrialSettings(), Training(), Protocol()):
        known |= {field.name: getattr(config, field.name) for field in fields(config)}
    del known["training"], known["protocol"]
    return known


def _store(uri: str) -> tuple[str, ...]:
    """The option that names the store, where a command would not find it by itself."""
    return () if uri == resolve_tracking_uri() else ("--tracking-uri", uri)


def _facts(findings: Findings, champion: Trial) -> Iterable[tuple[str, str]]:
    tags, manifest = findings.facts.tags, findings.manifest
    yield "sweep", findings.sweep.name
    yield "run of the sweep", findings.sweep.run_id
    yield "run of the champion", champion.row.run_id
    if manifest is not None:
        yield "base", manifest.base_model
        yield "hash of the base", manifest.base_hash
        yield "trained for", f"{manifest.steps} steps, seed {manifest.seed}"
    if findings.adapter is not None:
        digest = hashlib.sha256(findings.adapter.read_bytes()).hexdigest()
        yield "sha256 of the adapter", digest
    if _COMMIT in tags:
        yield "git commit", tags[_COMMIT]
    versions = manifest.versions if manifest else {}
    recorded = {k.removeprefix(_VERSION): v for k, v in tags.items() if k.startswith(_VERSION)}
    yield from sorted((recorded | dict(versions)).items())
