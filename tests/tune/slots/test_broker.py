"""The broker, without Ray: its methods are coroutines on one event loop."""

import asyncio
from collections.abc import Awaitable

import pytest

from tune.slots.broker import MAX_LOSSES, Broker, Job, JobError, SweepClosedError

SOON_S = 2.0


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 10))


def job(key: str) -> Job:
    return Job(key=key, payload={})


async def take(broker: Broker, slot: int = 0) -> Job:
    taken = await asyncio.wait_for(broker.take(slot, wait=True), SOON_S)
    assert taken is not None
    return taken


def test_jobs_are_taken_in_order_and_waited_for():
    async def scenario() -> None:
        broker = Broker()
        waiting = asyncio.create_task(broker.take(0, wait=True))
        await asyncio.sleep(0)
        await broker.submit(job("a"))
        await broker.submit(job("b"))
        assert (await waiting).key == "a"
        assert (await take(broker)).key == "b"
        assert await broker.take(0, wait=False) is None

    run(scenario())


def test_reports_arrive_in_order_and_end_with_none():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        taken = await take(broker)
        for step in (1, 2):
            assert await broker.report(taken, {"step": step}, wait=False)
        await broker.finish(taken)
        got = [await broker.next_report("a") for _ in range(3)]
        assert got == [{"step": 1}, {"step": 2}, None]

    run(scenario())


def test_a_slot_that_waits_for_the_verdict_hears_of_the_cancel_at_once():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        taken = await take(broker)
        verdict = asyncio.create_task(broker.report(taken, {"step": 1}, wait=True))
        assert await broker.next_report("a") == {"step": 1}
        await asyncio.sleep(0.05)
        assert not verdict.done()
        await broker.cancel("a")
        assert await asyncio.wait_for(verdict, SOON_S) is False

    run(scenario())


def test_coming_back_for_the_next_report_lets_the_slot_go_on():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        taken = await take(broker)
        verdict = asyncio.create_task(broker.report(taken, {"step": 1}, wait=True))
        await broker.next_report("a")
        waiting = asyncio.create_task(broker.next_report("a"))
        assert await asyncio.wait_for(verdict, SOON_S) is True
        waiting.cancel()

    run(scenario())


def test_a_failed_job_raises_its_text_where_it_was_submitted():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        await broker.finish(await take(broker), "no photos")
        with pytest.raises(JobError, match="no photos"):
            await broker.next_report("a")

    run(scenario())


def test_jobs_of_a_dead_slot_are_taken_again_first_and_its_ghost_is_ignored():
    async def scenario() -> None:
        broker = Broker()
        for key in ("a", "b"):
            await broker.submit(job(key))
        ghost = await take(broker, slot=0)
        await broker.register(0, {})
        again = await take(broker, slot=0)
        assert (again.key, again.attempt) == ("a", 2)
        assert not await broker.report(ghost, {"step": 9}, wait=False)
        assert await broker.report(again, {"step": 1}, wait=False)
        assert await broker.next_report("a") == {"step": 1}

    run(scenario())


def test_a_job_that_kills_its_slot_again_and_again_fails():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        for _ in range(MAX_LOSSES):
            await broker.report(await take(broker), {"step": 1}, wait=False)
            await broker.register(0, {})
        for _ in range(MAX_LOSSES):
            assert await broker.next_report("a") == {"step": 1}
        with pytest.raises(JobError, match="died 3 times"):
            await broker.next_report("a")
        assert await broker.take(0, wait=False) is None

    run(scenario())


def test_a_job_that_is_evaluated_between_losses_goes_on():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        trial = asyncio.create_task(broker.next_report("a"))
        for step in range(2 * MAX_LOSSES):
            taken = await take(broker)
            verdict = asyncio.create_task(broker.report(taken, {"step": step}, wait=True))
            assert await trial == {"step": step}
            trial = asyncio.create_task(broker.next_report("a"))
            assert await verdict
            await broker.register(0, {})
        assert (await take(broker)).attempt == 2 * MAX_LOSSES + 1
        trial.cancel()

    run(scenario())


def test_a_cancelled_job_is_not_taken():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        await broker.cancel("a")
        assert await broker.take(0, wait=False) is None

    run(scenario())


def test_all_is_settled_once_slots_have_let_go_of_their_cancelled_jobs_or_died():
    async def scenario() -> None:
        broker = Broker()
        for key in ("a", "b"):
            await broker.submit(job(key))
        let_go, lost = await take(broker, slot=0), await take(broker, slot=1)
        for key in ("a", "b"):
            await broker.cancel(key)
        settled = asyncio.create_task(broker.settled())
        await broker.finish(let_go)
        await asyncio.sleep(0.05)
        assert not settled.done()
        await broker.register(1, {})
        await asyncio.wait_for(settled, SOON_S)
        assert not await broker.report(lost, {"step": 1}, wait=False)

    run(scenario())


def test_nobody_waits_for_slots_after_the_sweep_is_closed():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        await take(broker)
        settled = asyncio.create_task(broker.settled())
        await broker.close("the slots ended")
        await asyncio.wait_for(settled, SOON_S)

    run(scenario())


def test_closing_sends_slots_home_and_tells_the_trials_why():
    async def scenario() -> None:
        broker = Broker()
        await broker.submit(job("a"))
        taken = await take(broker)
        slot = asyncio.create_task(broker.take(1, wait=True))
        trial = asyncio.create_task(broker.next_report("a"))
        facts = asyncio.create_task(broker.facts())
        await asyncio.sleep(0)
        await broker.close("the base cannot be read")
        assert await slot is None
        assert not await broker.report(taken, {}, wait=True)
        for waiting in (trial, facts):
            with pytest.raises(JobError, match="cannot be read"):
                await waiting

    run(scenario())


def test_dismissed_slots_go_home_and_trials_wait_for_the_driver_to_close():
    async def scenario() -> None:
        broker = Broker()
        for key in ("a", "b"):
            await broker.submit(job(key))
        taken = await take(broker)
        trial = asyncio.create_task(broker.next_report("a"))
        verdict = asyncio.create_task(broker.report(taken, {"step": 1}, wait=True))
        assert await trial == {"step": 1}
        trial = asyncio.create_task(broker.next_report("b"))
        await broker.dismiss("the photos are gone")
        assert await asyncio.wait_for(verdict, SOON_S) is False
        assert await broker.take(1, wait=True) is None
        await broker.finish(taken)
        assert not trial.done()
        assert await broker.error() == "the photos are gone"
        await broker.close("the slots ended")
        with pytest.raises(JobError, match="the photos are gone"):
            await trial
        with pytest.raises(JobError):
            await broker.next_report("a")

    run(scenario())


def test_the_driver_hears_at_once_of_a_slot_that_cannot_load():
    async def scenario() -> None:
        broker = Broker()
        facts = asyncio.create_task(broker.facts())
        await asyncio.sleep(0)
        await broker.dismiss("no photos")
        with pytest.raises(JobError, match="no photos"):
            await facts

    run(scenario())


def test_closing_without_an_error_ends_waiting_trials():
    async def scenario() -> None:
        broker = Broker()
        facts = asyncio.create_task(broker.facts())
        await asyncio.sleep(0)
        await broker.close()
        with pytest.raises(SweepClosedError):
            await facts

    run(scenario())
