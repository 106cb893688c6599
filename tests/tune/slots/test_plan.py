"""How a sweep is spread over a machine or a cluster, worked by hand."""

import pytest

from krona.errors import KronaError
from tune.config.sweep import SweepConfig
from tune.slots import cluster
from tune.slots.plan import make_plan, trials_at_once


def cpu(cores: float) -> dict[str, float]:
    return {"CPU": cores}


def gpu(cores: float, gpus: float = 1.0) -> dict[str, float]:
    return {"CPU": cores, "GPU": gpus}


@pytest.mark.parametrize(
    ("nodes", "changes", "slots", "cpus"),
    [
        ([cpu(2)], {}, 2, 1),
        ([cpu(2)], {"slots": 1}, 1, 2),
        ([cpu(2)], {"trials": 1}, 1, 2),
        ([cpu(1)], {}, 1, 1),
        ([cpu(6)], {}, 3, 2),
        ([cpu(7)], {}, 1, 7),
        ([cpu(64)], {}, 4, 16),
        ([cpu(8)], {"cpus_per_slot": 1}, 8, 1),
        ([cpu(4)] * 5, {"trials": 5}, 5, 4),
        ([cpu(4)] * 5, {"trials": 20}, 20, 1),
        ([cpu(4)] * 5, {"slots": 6}, 6, 2),
        ([cpu(0), cpu(4)], {"slots": 1}, 1, 4),
        ([gpu(32, 4)], {}, 4, 8),
        ([gpu(32, 4)], {"gpus_per_slot": 2.0}, 2, 16),
        ([gpu(16)], {"gpus_per_slot": 0.5}, 2, 8),
        ([gpu(64, 32)], {"trials": 8}, 8, 8),
        ([gpu(16, 8)], {}, 8, 2),
        ([gpu(4, 8)], {}, 4, 1),
        ([cpu(4), gpu(4)], {}, 1, 4),
        ([cpu(4), *[gpu(4)] * 4], {}, 4, 4),
        ([cpu(64), gpu(4), gpu(8)], {}, 2, 4),
        ([cpu(64), gpu(4), gpu(8)], {"slots": 1}, 1, 8),
        ([gpu(4), gpu(4)], {"gpus_per_slot": 0.5, "cpus_per_slot": 1}, 4, 1),
    ],
)
def test_slots_follow_from_the_nodes(nodes, changes, slots, cpus):
    plan = make_plan(SweepConfig(**changes), nodes)
    assert (plan.slots, plan.cpus_per_slot) == (slots, cpus)
    assert plan.gpus_per_slot == (changes.get("gpus_per_slot", 1) if "GPU" in nodes[-1] else 0)


def test_max_concurrent_limits_the_trials_in_flight():
    config = SweepConfig(max_concurrent=1)
    assert trials_at_once(config, make_plan(config, [cpu(2)]), 1) == 1


def test_a_pack_multiplies_the_trials_in_flight():
    plan = make_plan(SweepConfig(), [cpu(2)])
    assert trials_at_once(SweepConfig(), plan, 1) == 2
    assert trials_at_once(SweepConfig(), plan, 4) == 8
    assert trials_at_once(SweepConfig(trials=5), plan, 4) == 5


@pytest.mark.parametrize(
    ("nodes", "changes", "said"),
    [
        ([cpu(2)], {"slots": 3}, "3 slots of 1 cores and 0 GPUs .* 2 cores and 0 GPUs .* for 2;"),
        ([cpu(2)], {"slots": 2, "cpus_per_slot": 2}, "room for 1;"),
        ([cpu(4)] * 5, {"cpus_per_slot": 5}, "room for 0;"),
        ([gpu(8)], {"slots": 2}, "room for 1;"),
        ([gpu(8)], {"gpus_per_slot": 2.0}, "room for 0;"),
        ([gpu(8), gpu(8)], {"gpus_per_slot": 2.0}, "room for 0;"),
        ([cpu(8), gpu(0)], {}, "nodes of 0 cores and 1 GPUs, 8 cores and 0 GPUs have room for 0;"),
        ([], {}, "room for 0;"),
    ],
)
def test_more_than_the_nodes_have_room_for_is_refused(nodes, changes, said):
    with pytest.raises(KronaError, match=said):
        make_plan(SweepConfig(**changes), nodes)


def test_a_sweep_waits_for_the_gpus_that_it_is_told_of(monkeypatch):
    asked = []
    nodes = [{"Alive": True, "Resources": cpu(4)}]
    joining = {"Alive": True, "Resources": gpu(4)}
    monkeypatch.setattr(cluster, "request_resources", lambda bundles=None: asked.append(bundles))
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: nodes.append(joining))
    assert cluster.node_resources(2) == [cpu(4), gpu(4), gpu(4)]
    assert asked == [[{"GPU": 1}] * 2, None]


def test_gpus_that_do_not_come_end_the_sweep_with_a_message(monkeypatch):
    dead = {"Alive": False, "Resources": gpu(4, 8)}
    monkeypatch.setattr(cluster, "request_resources", lambda bundles=None: None)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [dead])
    monkeypatch.setattr(cluster, "NODES_S", -60.0)
    with pytest.raises(KronaError, match=r"has 0 GPUs .* not min_gpus=2"):
        cluster.node_resources(2)
