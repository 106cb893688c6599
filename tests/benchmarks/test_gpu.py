"""The parts of benchmarks/gpu.py at toy size on the CPU, and what becomes of those that fail."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import torch
import tyro
from contenders import ADAPTERS, FROZEN, OURS, PEFT
from gpu_parts import bases, here, steps, whole
from gpu_parts.here import PARTS, measure
from gpu_parts.markdown import to_markdown
from gpu_parts.report import GOALS, OF_NONE, OF_PEFT, OFF_PLAN, PACK_OF_8, Report
from gpu_parts.run import run_apart
from gpu_parts.setup import Setup, require
from gpu_parts.training import Trained, packs
from random_checkpoint import TOY, random_checkpoint
from step_cost import draw_factors

from krona.base.checkpoint import load_base
from krona.diffusion.encode import embed
from tune.config.sweep import SweepConfig


def run(name: str, setup: Setup, report: Report) -> dict:
    """What a part reports."""
    report.begin(name)
    measure(name, setup, report)
    return Report(report.path, "cpu").parts[name]


def lines(part: dict, table: str) -> dict[str, dict]:
    return {row["line"]: row["values"] for row in part["rows"] if row["table"] == table}


def are_plausible(values: dict) -> bool:
    """Whether all are finite numbers above 0."""
    return all(isinstance(v, float) and 0 < v < math.inf for v in values.values())


def test_layers_are_timed_by_each_contender(setup: Setup, report: Report) -> None:
    part = run("layer", setup, report)
    assert part["status"] == "done"
    called = lines(part, "called")
    assert len(called) == 2
    for values in called.values():
        assert set(values) == {"frozen ms", *ADAPTERS, "krona, torch"}
        assert are_plausible(values)
    graph = next(iter(lines(part, "in a CUDA graph").values()))
    assert graph == {"frozen ms": "RuntimeError: needs CUDA"}


def test_a_base_is_trained_compared_and_packed(setup: Setup, report: Report) -> None:
    part = run("sd15", setup, report)
    assert part["status"] == "done", part["message"]
    loop = lines(part, "krona's loop")["1 images a step"]
    assert are_plausible(loop)
    assert loop["measured over planned"] == pytest.approx(1, abs=0.1)
    contest = lines(part, "a step")
    assert {FROZEN, *ADAPTERS} < set(contest)
    assert all(map(are_plausible, contest.values()))
    assert max(lines(part, "prediction off krona's")["sd"].values()) < 1e-3
    assert [*lines(part, "packs")] == ["1 adapters", "2 adapters", "4 adapters", "8 adapters"]
    assert all(map(are_plausible, lines(part, "packs").values()))
    ways = lines(part, "ways to run a step")
    assert are_plausible(ways["krona, contiguous"])
    assert ways["krona, CUDA graph"] == {"ms": "RuntimeError: needs CUDA"}
    assert {OF_NONE, OF_PEFT, OFF_PLAN, PACK_OF_8} <= set(part["goals"])


def test_sdxl_runs_the_same_way(
    setup: Setup, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the contest and the plan, which take longest and are the first base's."""
    monkeypatch.setattr(bases, "memory", lambda *_, **__: None)
    monkeypatch.setattr(bases, "contest", lambda *_, **__: None)
    part = run("sdxl", setup, report)
    assert part["status"] == "done", part["message"]
    assert are_plausible(lines(part, "packs")["8 adapters"])
    assert are_plausible(lines(part, "ways to run a step")["krona, as it stands"])


def test_blocks_are_made_ready_for_the_compiler(setup: Setup) -> None:
    base = setup.load("sd15")
    before = torch.get_float32_matmul_precision()
    unet = steps._compiled(base, draw_factors(base.unet))
    torch.set_float32_matmul_precision(before)
    blocks = [m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    assert blocks
    assert all(block._compiled_call_impl for block in blocks)


def test_images_are_drawn_and_scored(setup: Setup, report: Report) -> None:
    part = run("sample", setup, report)
    assert part["status"] == "done", part["message"]
    assert len(lines(part, "sampled")) == 4
    assert set(lines(part, "scored")) == {"CLIP", "DINO ViT-S/16"}
    for table in ("sampled", "decoded", "scored"):
        assert all(map(are_plausible, lines(part, table).values()))


def test_an_absent_package_skips_the_part(
    setup: Setup, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "_PACKAGES", ("no_such_package", "torch"))
    part = run("sweep", setup, report)
    assert (part["status"], part["message"]) == ("skipped", "no no_such_package")


def test_a_command_that_fails_is_told_of(
    setup: Setup, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "_KRONA", "import sys; sys.exit('no sweep today')")
    part = run("sweep", setup, report)
    assert part["status"] == "failed"
    assert "no sweep today" in part["message"]


def test_the_sweep_is_told_what_it_takes() -> None:
    options = whole.sweep_options(8, 100, "cuda")
    config = tyro.cli(SweepConfig, args=options, config=(tyro.conf.OmitArgPrefixes,))
    assert (config.trials, config.steps, config.slots, config.pack) == (8, 100, 1, 4)
    assert config.experiment.device == "cuda"


def test_an_absent_contender_is_left_out(
    setup: Setup, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "ADAPTERS", {OURS: ADAPTERS[OURS]})
    monkeypatch.setattr(steps, "ABSENT", {PEFT: "peft"})
    report.begin("sd15")
    steps.contest(setup.load("sd15"), report.notes("sd15"), rounds=1)
    assert report.parts["sd15"]["remarks"] == [f"{PEFT} is left out: no peft."]
    assert OF_NONE in report.parts["sd15"]["goals"]
    assert OF_PEFT not in report.parts["sd15"]["goals"]


def test_a_pack_that_does_not_fit_leaves_the_others(
    setup: Setup, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained.on(setup.load("sd15"), steps=1)
    advance = Trained.advance

    def short(self: Trained, runs: list) -> None:
        if len(runs) > 2:
            raise torch.OutOfMemoryError("out of memory")
        advance(self, runs)

    monkeypatch.setattr(Trained, "advance", short)
    report.begin("sd15")
    packs(trained, report.notes("sd15"), sizes=(2, 4), rounds=1)
    told = lines(report.parts["sd15"], "packs")
    assert told["4 adapters"] == {"ms a step of all": "OutOfMemoryError: out of memory"}
    assert are_plausible(told["2 adapters"])


def test_a_failing_part_keeps_what_it_had_measured(
    setup: Setup, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(here.Part):
        def run(self, setup, notes):
            notes.add("table", "line", {"value": 1.0})
            raise ValueError("it broke")

    monkeypatch.setitem(PARTS, "layer", Failing("", "", 1))
    part = run("layer", setup, report)
    assert (part["status"], part["message"]) == ("failed", "ValueError: it broke")
    assert lines(part, "table") == {"line": {"value": 1.0}}


@pytest.mark.parametrize(
    ("code", "limit_s", "status", "message"),
    [
        ("import time; time.sleep(60)", 1, "timed out", "ended after 1 s; what it measured stays"),
        ("import os; os.abort()", 60, "failed", "its process ended with -6"),
    ],
)
def test_a_process_that_does_not_end_well_is_told_of(
    report: Report, code: str, limit_s: float, status: str, message: str
) -> None:
    report.begin("sd15")
    report.notes("sd15").add("table", "line", {"value": 1.0})
    after = run_apart("layer", [sys.executable, "-c", code], report, limit_s=limit_s)
    assert (after.parts["layer"]["status"], after.parts["layer"]["message"]) == (status, message)
    assert lines(after.parts["sd15"], "table") == {"line": {"value": 1.0}}


def test_only_what_is_missing_is_run_again(report: Report) -> None:
    for name, status in {"tests": "done", "layer": "failed", "sd15": "timed out"}.items():
        report.begin(name)
        report.end(name, status)
    report.begin("sdxl")
    assert gpu.missing(report) == ["layer", "sdxl", "sample", "sweep"]


def test_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    results = tmp_path / "gpu.json"
    report = Report(results, "cpu")
    for name in PARTS.keys() - {"tests", "layer"}:
        report.begin(name)
        report.end(name, "done")
    command = [sys.executable, str(gpu.HERE / "gpu.py"), "--device", "cpu", "--toy"]
    command += ["--results", str(results), "--checkpoints", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.check_output(command, text=True, env=environment, cwd=tmp_path)
    assert "== tests: done" in said
    assert "== layer: done" in said
    first = json.loads(results.read_text())
    assert lines(first["parts"]["tests"], "tests")["marked gpu"]
    shown = results.with_suffix(".md").read_text()
    assert "krona, torch" in shown
    assert "A rehearsal at toy size" in shown
    again = subprocess.check_output(command, text=True, env=environment, cwd=tmp_path)
    assert "==" not in again
    assert json.loads(results.read_text()) == first


def test_the_markdown_has_all_goals(report: Report) -> None:
    report.begin("sdxl")
    notes = report.notes("sdxl")
    notes.add("a step", OURS, {"ms": 250.0, "why": "a | b"})
    notes.reach(OF_NONE, 1.04)
    notes.reach(PACK_OF_8, 1.2)
    shown = to_markdown(report, PARTS)
    assert f"| sdxl | {OF_NONE} | 1.04 | ≤ 1.1 | met |" in shown
    assert f"| sdxl | {PACK_OF_8} | 1.2 | ≥ 1.35 | **missed** |" in shown
    assert f"| sd15 | {PACK_OF_8} |  | ≥ 1.7 | not measured |" in shown
    assert all(f"| {goal.part} | {goal.name} |" in shown for goal in GOALS)
    assert "| krona | 250 | a \\| b |" in shown
    assert all(f"## {name}" in shown for name in PARTS)


def test_the_parts_fit_into_eight_minutes() -> None:
    assert sum(part.limit_s for part in PARTS.values()) <= 480


def test_a_random_checkpoint_is_made_once_and_has_finite_features(tmp_path: Path) -> None:
    made = random_checkpoint("sdxl", tmp_path / "base", overrides=TOY["sdxl"])
    times = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    random_checkpoint("sdxl", tmp_path / "base", overrides=TOY["sdxl"])
    assert times == {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    base = load_base(made)
    assert (base.family, base.resolution) == ("sdxl", 16)
    features = embed(base, ["a duck", "two ducks"])
    assert features.embeds.isfinite().all()
    assert not torch.equal(*features.pooled)


def test_require_names_all_that_is_absent() -> None:
    with pytest.raises(Exception, match="no no_such_a, no_such_b"):
        require("no_such_a", "torch", "no_such_b")
