"""Ray for the length of a sweep: a cluster joined or started, slots held open, nothing left."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ray
import ray.train
from ray.autoscaler.sdk import request_resources
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from krona.errors import KronaError
from tune.search.searcher import Stop
from tune.slots.plan import Plan, SlotConfig
from tune.slots.slot import run_slot

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "5",  # Ray's own 15 starves slots beside any other work
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a slot that dies is started again anyway
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner and tables come even with verbose=0
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a trial's failure is told by its own line and run
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours stops the sweep and says how to resume
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # reports between evaluations carry no score
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # a resume reads the study, not Tune's snapshots
}
MAX_RESTARTS = 100
JOIN_S = 15.0  # a slot leaves at its next report; what takes longer ends with Ray
START_ATTEMPTS = 3
NODES_S = 1200.0  # a cloud's node is started, and Python's packages are installed on it
POLL_S = 1.0
ANSWER_S = 5.0
OBJECT_STORE_BYTES = 200 * 2**20  # only settings and numbers pass through it


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Join the cluster at `address`, or start Ray here."""
    os.environ.update(ENVIRONMENT | os.environ)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it logs, the sweep says better
    is_ours = not ray.is_initialized()
    address = address or os.environ.get("RAY_ADDRESS")
    if is_ours:
        _join_ray(address) if address else _start_ray()
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()


def node_resources(min_gpus: int | None = None) -> list[dict[str, float]]:
    """The resources of each node, once all have `min_gpus`; an autoscaler is told to add them.

    Raises: KronaError if there are fewer after NODES_S.
    """
    if min_gpus is None:
        return _alive_nodes()
    deadline = time.monotonic() + NODES_S
    request_resources(bundles=[{"GPU": 1}] * min_gpus)
    try:
        while (found := sum(node.get("GPU", 0) for node in _alive_nodes())) < min_gpus:
            if time.monotonic() > deadline:
                raise KronaError(
                    f"the cluster has {found:g} GPUs after {NODES_S / 60:g} minutes, not"
                    f" min_gpus={min_gpus}; ask for fewer, or see what `ray status` says"
                )
            time.sleep(POLL_S)
    finally:
        request_resources()  # the slots hold the nodes from here on, and no longer than they run
    return _alive_nodes()


@contextlib.contextmanager
def slots(config: SlotConfig, plan: Plan, folder: Path, stop: Stop) -> Iterator[None]:
    """Run the slots beside the caller; when the caller is done, send them home and wait."""
    thread = threading.Thread(target=_fit, args=(config, plan, folder, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.requested = True
        ray.get(config.broker.close.remote())
        thread.join(JOIN_S)
        ray.kill(config.broker)


def _fit(config: SlotConfig, plan: Plan, folder: Path, stop: Stop) -> None:
    """The long-lived Train run. Slots never talk to each other, so none needs torch's trainer."""
    resources = {"CPU": plan.cpus_per_slot, "GPU": plan.gpus_per_slot}
    trainer = DataParallelTrainer(
        run_slot,
        train_loop_config={"slot": config},
        scaling_config=ray.train.ScalingConfig(
            num_workers=plan.slots,
            use_gpu=plan.gpus_per_slot > 0,
            resources_per_worker={name: share for name, share in resources.items() if share},
        ),
        run_config=ray.train.RunConfig(
            name="slots",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=MAX_RESTARTS),
        ),
    )
    try:
        trainer.fit()
        error = "the slots ended before the sweep did"
    except Exception as failure:
        error = f"the slots could not be kept running: {failure}"
    if not stop.requested:
        stop.error = ray.get(config.broker.error.remote()) or error
        stop.requested = True  # before the trials hear of it: the study must not hold them failed
        ray.get(config.broker.close.remote(stop.error))


def _alive_nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _join_ray(address: str) -> None:
    """Raises: KronaError if no cluster is there, at once where nothing listens at its address."""
    try:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        if port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray's own are of many kinds
        said = str(error).strip().partition("\n")[0]
        raise KronaError(
            f"the Ray cluster at {address} cannot be joined ({said}); start one (`ray start "
            "--head`), or leave --address and $RAY_ADDRESS out to run on this machine alone"
        ) from error


def _start_ray() -> None:
    for attempts_left in reversed(range(START_ATTEMPTS)):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="ERROR",
            )
            break
        except Exception:  # a bare Exception where a busy machine takes more than 30 s to start
            ray.shutdown()
            if not attempts_left:
                raise
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        token.chmod(0o600)  # Ray writes it readable for all
