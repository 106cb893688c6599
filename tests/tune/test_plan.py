"""How a sweep is spread over a machine or a cluster, worked by hand."""

import pytest

from krona.errors import KronaError
from tune.plan import make_plan, trials_at_once
from tune.settings import SweepConfig


@pytest.mark.parametrize(
    ("resources", "changes", "slots", "cpus"),
    [
        ({"CPU": 2.0}, {}, 2, 1),
        ({"CPU": 2.0}, {"slots": 1}, 1, 2),
        ({"CPU": 2.0}, {"trials": 1}, 1, 2),
        ({"CPU": 1.0}, {}, 1, 1),
        ({"CPU": 6.0}, {}, 3, 2),
        ({"CPU": 7.0}, {}, 1, 7),
        ({"CPU": 64.0}, {}, 4, 16),
        ({"CPU": 8.0}, {"cpus_per_slot": 1}, 8, 1),
        ({"CPU": 32.0, "GPU": 4.0}, {}, 4, 8),
        ({"CPU": 32.0, "GPU": 4.0}, {"gpus_per_slot": 2.0}, 2, 16),
        ({"CPU": 16.0, "GPU": 1.0}, {"gpus_per_slot": 0.5}, 2, 8),
        ({"CPU": 64.0, "GPU": 32.0}, {"trials": 8}, 8, 8),
    ],
)
def test_slots_follow_from_the_cluster(resources, changes, slots, cpus):
    plan = make_plan(SweepConfig(**changes), resources)
    assert (plan.slots, plan.cpus_per_slot) == (slots, cpus)
    assert plan.slots * plan.cpus_per_slot <= resources["CPU"]


def test_max_concurrent_limits_the_trials_in_flight():
    config = SweepConfig(max_concurrent=1)
    assert trials_at_once(config, make_plan(config, {"CPU": 2.0}), 1) == 1


def test_a_pack_multiplies_the_trials_in_flight():
    plan = make_plan(SweepConfig(), {"CPU": 2.0})
    assert trials_at_once(SweepConfig(), plan, 1) == 2
    assert trials_at_once(SweepConfig(), plan, 4) == 8
    assert trials_at_once(SweepConfig(trials=5), plan, 4) == 5


@pytest.mark.parametrize(
    ("resources", "changes"),
    [
        ({"CPU": 2.0}, {"slots": 3}),
        ({"CPU": 2.0}, {"slots": 2, "cpus_per_slot": 2}),
        ({"CPU": 8.0, "GPU": 1.0}, {"slots": 2}),
        ({"CPU": 8.0, "GPU": 1.0}, {"gpus_per_slot": 2.0}),
    ],
)
def test_more_than_there_is_room_for_is_refused(resources, changes):
    with pytest.raises(KronaError, match="ask for fewer slots"):
        make_plan(SweepConfig(**changes), resources)
