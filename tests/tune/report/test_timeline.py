"""The timeline: spans and lanes worked by hand, and what its plot says under the pointer."""

from collections.abc import Iterable

import pytest
from sweeps import row, trial

from tune.names import Point, RunFacts
from tune.report.gather import Trial
from tune.report.time_plot import timeline_plot
from tune.report.timeline import Timeline, make_timeline

SWEEP = RunFacts(params={}, tags={}, started_s=90, ended_s=None)


def timed(
    *reports: tuple[int, float, float, float, float], slots: Iterable[int] = (), **more: object
) -> Trial:
    """A trial by its reports: step, when it was written, seconds trained, scored, waited so far."""
    names = ("train_s", "score_s", "wait_s")
    curves = {
        name: tuple(Point(step=r[0], time_s=r[1], value=r[2 + n]) for r in reports)
        for n, name in enumerate(names)
    }
    curves["slot"] = tuple(
        Point(step=r[0], time_s=r[1], value=slot) for r, slot in zip(reports, slots, strict=False)
    )
    values = {"start": 100, "end": 200, "tags": {"slot.0": "node-a", "slot.1": "node-b"}}
    return trial({"balance": (), **curves}, **(values | more))


def spans(timeline: Timeline) -> list[tuple[str, float, float]]:
    return [(s.activity, s.start_s, s.end_s) for stay in timeline.stays for s in stay.spans]


def lanes(*trials: Trial) -> list[tuple[str, str]]:
    return [(stay.trial.key, stay.lane) for stay in make_timeline(SWEEP, trials).stays]


def test_time_is_what_the_reports_say_each_beginning_with_its_wait():
    timeline = make_timeline(SWEEP, [timed((10, 108, 5, 0, 2), (20, 119, 9, 5, 4))])
    assert spans(timeline) == [
        ("waiting", 11, 13),
        ("training", 13, 18),
        ("waiting", 18, 20),
        ("training", 20, 24),
        ("scoring", 24, 29),
    ]
    assert (timeline.total_s("training"), timeline.total_s("waiting")) == (9, 4)
    assert (timeline.opening_s, timeline.length_s, timeline.num_at_once) == (10, 110, 1)


def test_a_report_that_was_written_late_moves_nothing():
    prompt = timed((10, 107, 5, 0, 2), (20, 120, 9, 5, 6))
    late = timed((10, 115, 5, 0, 2), (20, 120, 9, 5, 6))
    assert spans(make_timeline(SWEEP, [late])) == spans(make_timeline(SWEEP, [prompt]))


def test_the_time_while_a_trial_was_stopped_is_a_gap():
    timeline = make_timeline(SWEEP, [timed((10, 110, 10, 0, 0), (20, 160, 15, 0, 0))])
    assert spans(timeline) == [("training", 10, 20), ("training", 65, 70)]


def test_trials_of_a_slot_share_a_lane_unless_they_were_there_at_once():
    one = timed((10, 110, 10, 0, 0), slots=[0], row=row("000"))
    after = timed((10, 120, 10, 0, 0), slots=[0], row=row("001"))
    beside = timed((10, 118, 10, 0, 0), slots=[0], row=row("002"))
    elsewhere = timed((10, 110, 10, 0, 0), slots=[1], row=row("003"))
    assert lanes(one, after, elsewhere) == [
        ("000", "slot 0, node-a"),
        ("003", "slot 1, node-b"),
        ("001", "slot 0, node-a"),
    ]
    assert lanes(one, beside) == [("000", "slot 0, node-a"), ("002", "slot 0, node-a · 2")]


def test_a_trial_that_moved_stands_on_both_slots_lanes():
    moved = timed((10, 110, 10, 0, 0), (20, 130, 20, 0, 0), slots=[0, 1])
    first, second = make_timeline(SWEEP, [moved]).stays
    assert (first.lane, second.lane) == ("slot 0, node-a", "slot 1, node-b")
    assert (first.is_last, second.is_last) == (False, True)


def test_lanes_are_in_the_order_of_their_slots():
    trials = [timed((10, 110, 10, 0, 0), slots=[rank]) for rank in (10, 2)]
    assert make_timeline(SWEEP, trials).lanes == ["slot 2, unknown host", "slot 10, unknown host"]


def test_a_trial_that_told_no_times_is_one_span():
    old = trial({"balance": (Point(step=20, value=0.1, time_s=118),)}, start=100, end=119)
    timeline = make_timeline(SWEEP, [old])
    assert spans(timeline) == [("not recorded", 10, 29)]
    assert timeline.lanes == ["slot not recorded"]
    assert [t.name for t in timeline_plot(timeline).figure.data] == ["not recorded", None]


def test_trials_one_after_the_other_are_not_at_once():
    alone = [trial({"balance": ()}, start=t, end=t + 1) for t in (101, 102, 103)]
    assert make_timeline(SWEEP, alone).num_at_once == 1
    with_another = [*alone, trial({"balance": ()}, start=100, end=109)]
    assert make_timeline(SWEEP, with_another).num_at_once == 2


@pytest.mark.parametrize(
    ("state", "more", "said"),
    [
        ("pruned", {"tags": {"pruned": "0.1 < 0.2"}}, "pruned at step 20: 0.1 &lt; 0.2"),
        ("pruned", {}, "pruned at step 20: it was not in the better half"),
        ("failed", {}, "failed at step 20: out of memory"),
    ],
)
def test_a_stopped_trial_is_marked_where_it_ended_with_the_reason(state, more, said):
    stopped = timed(
        (20, 120, 9, 5, 4), row=row("007", state=state, failure="out of memory"), **more
    )
    *_, outline, mark = timeline_plot(make_timeline(SWEEP, [stopped])).figure.data
    assert (mark.name, list(mark.x), list(outline.text)) == (state, [0.5], ["007"])
    assert mark.customdata[0].endswith(f"9.0 s training, 5.0 s scoring, 4.0 s waiting<br>{said}")
    assert outline.customdata[0] == mark.customdata[0]
