"""The broker: trials submit jobs and read reports, slots take jobs and write reports.

One small asyncio actor; every wait is a long poll on one condition. A slot that registers again
has died in between: its jobs go back to the head of the queue and resume from their last state.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

VERDICT_S = 5.0
MAX_LOSSES = 3


class JobError(Exception):
    """A job ended with an error; the message is its text."""


class SweepClosedError(Exception):
    """The sweep is over: no more jobs, no more reports."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Work for a slot: a trial's training, or what is drawn of some at the end."""

    key: str
    payload: dict[str, Any]
    kind: Literal["trial", "look", "sheet"] = "trial"
    attempt: int = 0


@dataclass
class _Entry:
    job: Job
    slot: int | None = None
    reports: deque[dict[str, Any]] = field(default_factory=deque)
    num_handled: int = 0
    num_reported: int = 0
    num_losses: int = 0
    """Slots that died with the job since its last evaluation."""
    state: Literal["open", "done", "cancelled"] = "open"
    error: str | None = None


class Broker:
    """State shared by trials and slots; create it with `ray.remote(Broker)`."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._queue: deque[str] = deque()
        self._facts: dict[str, Any] | None = None
        self._closed = False
        self._error: str | None = None
        self._changed = asyncio.Condition()

    # The driver and its trials.

    async def facts(self) -> dict[str, Any]:
        """Wait for the first slot that is ready; what it knows of base and subject.

        Raises: JobError with what a slot was dismissed for; SweepClosedError.
        """
        await self._until(lambda: self._facts is not None or self._is_over)
        if self._facts is None:
            raise JobError(self._error) if self._error else SweepClosedError()
        return self._facts

    async def submit(self, job: Job) -> None:
        """Put a job at the end of the queue.

        Raises: SweepClosedError.
        """
        if self._closed:
            raise SweepClosedError
        self._entries[job.key] = _Entry(job)
        self._queue.append(job.key)
        await self._notify()

    async def next_report(self, key: str) -> dict[str, Any] | None:
        """Wait for the job's next report; None after the last. Coming back settles the one before.

        Raises: JobError with the job's error.
        """
        entry = self._entries[key]
        entry.num_handled = entry.num_reported - len(entry.reports)
        await self._notify()
        await self._until(lambda: bool(entry.reports) or entry.state != "open")
        if entry.reports:
            return entry.reports.popleft()
        if entry.error is not None:
            raise JobError(entry.error)
        return None

    async def cancel(self, key: str) -> None:
        """Give the job up; its slot is free at its next report. Nothing happens to a done one."""
        entry = self._entries.get(key)
        if entry is not None and entry.state == "open":
            await self._end(entry, "cancelled")

    async def close(self, error: str | None = None) -> None:
        """End the sweep: cancel what runs, send every waiting slot and trial home."""
        self._closed, self._error = True, self._error or error
        for entry in list(self._entries.values()):
            if entry.state == "open":
                entry.error = self._error or "the sweep was stopped"
                await self._end(entry, "cancelled")
        await self._notify()

    async def settled(self) -> None:
        """Wait until no slot holds a job: the records of all are delivered."""
        await self._until(
            lambda: self._is_over or all(entry.slot is None for entry in self._entries.values())
        )

    async def error(self) -> str | None:
        """What the slots were dismissed for, or the sweep was closed for."""
        return self._error

    # The slots.

    async def dismiss(self, error: str) -> None:
        """Send all slots home. Trials wait for close(): they have not failed."""
        self._error = self._error or error
        await self._notify()

    async def register(self, slot: int, facts: dict[str, Any]) -> None:
        """Say that a slot is ready, and what it knows; its earlier jobs are queued again."""
        self._facts = facts
        for key, entry in list(self._entries.items()):
            if entry.slot != slot:
                continue
            entry.slot = None
            if entry.state == "open":
                entry.num_losses += 1
                if entry.num_losses >= MAX_LOSSES:
                    entry.error = (
                        f"its slot died {MAX_LOSSES} times before the next evaluation;"
                        " memory may be short"
                    )
                    await self._end(entry, "done")
                else:
                    self._queue.appendleft(key)
        await self._notify()

    async def take(self, slot: int, *, wait: bool) -> Job | None:
        """The next job; None when there is none (or, with `wait`, when the sweep is over)."""
        await self._until(lambda: bool(self._queue) or not wait or self._is_over)
        if self._is_over or not self._queue:
            return None
        entry = self._entries[self._queue.popleft()]
        entry.slot = slot
        entry.job = replace(entry.job, attempt=entry.job.attempt + 1)
        return entry.job

    async def report(self, job: Job, metrics: dict[str, Any], *, wait: bool) -> bool:
        """Hand on a report; with `wait`, until the trial has judged it. False: stop the job.

        Args:
            wait: it is an evaluation's, which the job would resume from.
        """
        entry = self._entries[job.key]
        if not self._is_current(entry, job):
            return False
        entry.reports.append(metrics)
        entry.num_reported += 1
        number = entry.num_reported
        await self._notify()
        if wait:
            entry.num_losses = 0
            judged = self._until(
                lambda: entry.num_handled >= number or not self._is_current(entry, job)
            )
            # a trial that is slow to judge must not hold the slot
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(judged, VERDICT_S)
        return self._is_current(entry, job)

    async def finish(self, job: Job, error: str | None = None) -> None:
        """The job has left its slot, cancelled or by itself; with the error's text if it failed."""
        entry = self._entries[job.key]
        if entry.job.attempt != job.attempt:
            return
        entry.slot = None
        if self._is_current(entry, job):
            entry.error = error
            await self._end(entry, "done")
        await self._notify()

    # Inside.

    @property
    def _is_over(self) -> bool:
        return self._closed or self._error is not None

    def _is_current(self, entry: _Entry, job: Job) -> bool:
        is_open = entry.state == "open" and not self._is_over
        return is_open and entry.job.attempt == job.attempt

    async def _end(self, entry: _Entry, state: Literal["done", "cancelled"]) -> None:
        entry.state = state
        if entry.job.key in self._queue:
            self._queue.remove(entry.job.key)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)
