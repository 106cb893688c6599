"""Every cluster file is valid for Ray's own schema and starts krona's own environment."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTERS = sorted((Path(__file__).parents[2] / "clusters").glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def test_the_three_promised_files_are_there() -> None:
    assert [path.stem for path in CLUSTERS] == ["aws", "gcp", "local"]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_cluster_file_passes_rays_schema(path: Path) -> None:
    validate_config(prepare_config(read(path)))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_an_unknown_key_would_be_refused(path: Path) -> None:
    with pytest.raises(Exception, match="spelling_mistake"):
        validate_config(prepare_config(read(path) | {"spelling_mistake": 1}))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_nodes_run_the_ray_that_setup_installs(path: Path) -> None:
    config = read(path)
    assert any("~/krona install" in command for command in config["setup_commands"])
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert "~/krona/.venv/bin/ray" in command


def test_local_clusters_use_the_older_autoscaler() -> None:
    commands = read(CLUSTERS[2])["head_start_ray_commands"]
    assert any("RAY_enable_autoscaler_v2=0" in command for command in commands)
