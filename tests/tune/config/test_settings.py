"""What a sweep accepts, and what of it survives in the folder that a resume reads."""

from dataclasses import replace
from pathlib import Path

import pytest

from krona.base.source import BaseSource
from krona.errors import KronaError
from tune.config.folder import SweepFolder, ignored_options, open_folder
from tune.config.sweep import SweepConfig, from_json, to_json
from tune.config.trial import ExperimentConfig


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"trials": 0}, "trials=0"),
        ({"learning_rate": (1e-2, 1e-4)}, "rising"),
        ({"targets": ("qx",)}, "targets='qx'"),
        ({"targets": ()}, "targets is empty"),
        ({"factors": ((0, 4),)}, r"factors=\(0, 4\)"),
        ({"gpus_per_slot": 0.0}, "gpus_per_slot"),
        ({"name": "one/two"}, "sweep 'one/two' must be letters, .* with --name"),
        ({"name": ".."}, "sweep '..' must be"),
        ({"seed": -1}, "seed=-1"),
        ({"finalists": -1}, "finalists=-1 must be 0 or more"),
        ({"final_images": 0}, "final_images=0"),
        ({"confirm": 1}, "confirm=1 must be 0, or 2 or more"),
        ({"seed": 2**31}, "seed=2147483648"),
    ],
)
def test_wrong_settings_are_refused_by_name_and_value(wrong, said):
    with pytest.raises(KronaError, match=said):
        SweepConfig(**wrong)


@pytest.mark.parametrize(
    "named",
    [
        {"subject": "o'neil"},
        {"subject": "my/dog"},
        {"photos": Path("rex.2024")},
        {"photos": Path("/")},
    ],
    ids=str,
)
def test_a_subject_that_mlflow_would_refuse_is_refused_at_once(named):
    with pytest.raises(KronaError, match=r"subject '.*' must be .*--subject \(make: SUBJECT=\)"):
        ExperimentConfig(**named)


def test_a_folder_with_an_odd_name_is_fine_where_the_subject_has_a_plain_one():
    assert ExperimentConfig(subject="Müsli 2_b-c", photos=Path("rex.2024")).photos


def test_settings_survive_json():
    config = SweepConfig(
        experiment=ExperimentConfig(subject="dog", photos=Path("/photos"), class_noun="dog"),
        factors=((4, 64), (8, 8)),
        steps=37,
    )
    assert from_json(to_json(config)) == config


def test_four_evaluations_cover_any_number_of_steps():
    assert [SweepConfig(steps=steps).eval_every for steps in (1, 4, 37, 160)] == [1, 1, 10, 40]


def test_evaluations_come_at_the_last_step_at_the_latest():
    given = ExperimentConfig(eval_every=50)
    assert [SweepConfig(experiment=given, steps=s).eval_every for s in (20, 50, 60)] == [20, 50, 50]


def begin(config: SweepConfig) -> None:
    """Open a new sweep's folder and store its settings, as a sweep does once its base is loaded."""
    folder, config = open_folder(config)
    folder.keep(config)


def test_resume_runs_as_before_unless_the_command_says_how(make_config):
    begin(make_config(steps=37, slots=2, pack=4, gpus_per_slot=0.5, address="auto"))
    anew = make_config(resume=True, steps=5, slots=3, pack=1)
    folder, config = open_folder(anew)
    folder.keep(config)
    for asked in (anew, make_config(resume=True, slots=None)):
        config = open_folder(asked)[1]
        assert (config.steps, config.slots, config.pack) == (37, 3, 1)
        assert (config.gpus_per_slot, config.address) == (0.5, "auto")


def test_options_that_a_resume_does_not_follow_are_named(make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = ExperimentConfig(photos=Path("photos"), class_noun="dog")
    begin(make_config(experiment=photos, steps=37, trials=8, name=None))
    (name,) = (path.name for path in (tmp_path / "krona-runs").iterdir())
    followed = make_config(
        resume=True, name=name, experiment=photos, steps=37, trials=9, slots=2, pack=4
    )
    assert ignored_options(followed, open_folder(followed)[1]) == []
    other = replace(photos, class_noun="cat", eval_every=3)
    asked = replace(followed, experiment=other, steps=5, trials=4, learning_rate=(1e-3, 1e-2))
    assert sorted(ignored_options(asked, open_folder(asked)[1])) == [
        "--class-noun",
        "--eval-every",
        "--learning-rate",
        "--steps",
        "--trials",
    ]


def test_a_new_sweep_ignores_nothing(make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = ExperimentConfig(photos=Path("photos"), class_noun="dog", cache_dir=Path("cache"))
    asked = make_config(experiment=experiment, steps=5, tracking_uri="mlruns")
    assert ignored_options(asked, open_folder(asked)[1]) == []


def test_a_base_s_parts_mean_the_same_from_another_folder(make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base.safetensors", "vae.safetensors", "base.yaml"):
        (tmp_path / name).touch()
    experiment = ExperimentConfig(
        base="base.safetensors", vae="vae.safetensors", config=Path("base.yaml")
    )
    begin(make_config(experiment=experiment))
    kept = open_folder(make_config(resume=True))[1].experiment.source
    assert kept == BaseSource(
        name=str(tmp_path / "base.safetensors"),
        vae=str(tmp_path / "vae.safetensors"),
        config=tmp_path / "base.yaml",
    )


def test_the_command_that_resumes_is_quoted_for_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = "krona sweep --resume --name 'my dog'"
    assert SweepFolder(path=tmp_path / "krona-runs" / "my dog").resume_command == command
    folder = SweepFolder(path=Path("/all runs/my dog"))
    assert folder.resume_command == f"{command} --storage '/all runs'"


@pytest.mark.parametrize(
    "text", [b"", b'{"steps": 37', b'{"steps": "a"}', b'{"steps": 0}', b"\xff"]
)
def test_damaged_settings_are_refused_by_their_path(make_config, text):
    folder = open_folder(make_config())[0]
    folder.keep(make_config())
    (folder.path / "sweep.json").write_bytes(text)
    for name in ("tiny", None):
        with pytest.raises(KronaError, match=r"tiny/sweep\.json is damaged"):
            open_folder(make_config(resume=True, name=name))


def test_resume_with_more_trials_extends_the_sweep(make_config):
    begin(make_config(trials=8))
    for asked, trials in ((None, 8), (4, 8), (12, 12)):
        assert open_folder(make_config(resume=True, trials=asked))[1].num_trials == trials


def test_resume_without_a_name_takes_the_newest_of_the_subject(make_config):
    for name, subject in (("one", "duck"), ("two", "monster")):
        begin(make_config(name=name, subject=subject))
    resumed = make_config(resume=True, name=None, subject="duck")
    assert open_folder(resumed)[0].name == "one"


def test_settings_that_never_fitted_leave_nothing_to_resume(make_config):
    open_folder(make_config())
    with pytest.raises(KronaError, match="no sweep 'tiny' to resume"):
        open_folder(make_config(resume=True))
    open_folder(make_config())


def test_a_name_cannot_be_taken_twice_nor_resumed_unknown(make_config):
    begin(make_config())
    with pytest.raises(KronaError, match="--resume continues it"):
        begin(make_config())
    with pytest.raises(KronaError, match="did you mean 'tiny'"):
        open_folder(make_config(resume=True, name="tinny"))
    with pytest.raises(KronaError, match="no sweep of subject 'cat'"):
        open_folder(make_config(resume=True, name=None, subject="cat"))


def test_resume_from_another_folder_writes_to_the_same_store(make_config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    begin(replace(make_config(), tracking_uri=None))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = open_folder(replace(make_config(resume=True), tracking_uri=None))[1]
    assert config.tracking() == f"sqlite:///{tmp_path}/mlflow.db"
