"""A base by a hub's id, from a hub that the test serves: what is fetched, and what is told."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, serve

from krona.base.checkpoint import load_base

LOCATE = """
import sys
from krona.base.source import BaseSource, lasting
from krona.errors import KronaError
try:
    source = BaseSource(name=sys.argv[1])
    print(source.locate(needs_weights=sys.argv[2] == "weights"))
    print(lasting(source).name)
except KronaError as error:
    print(error)
"""
IDENTIFY = """
import sys
from krona.base.content_hash import content_hash
from krona.base.families import identity_files
from krona.base.source import BaseSource
folder = BaseSource(name=sys.argv[1]).locate()
print(folder, content_hash(identity_files(folder, "sd")))
"""
TO_LOAD = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}
NEVER = (
    "README.md",
    "tiny.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/model.onnx",
    "text_encoder/flax_model.msgpack",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
)


@pytest.fixture(scope="module")
def repository(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as hubs have them: a UNet in both precisions, and much that nothing uses."""
    folder = Path(shutil.copytree(tiny_sd, tmp_path_factory.mktemp("repository") / "tiny"))
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    shutil.copy(unet, unet.with_suffix(".fp16.safetensors"))
    for name in NEVER:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"unused")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[Hub]:
    """The hub that serves it."""
    with serve(repository) as running:
        yield running


def _start(program: str, *words: str, hub: Hub, home: Path, **env: str) -> subprocess.Popen[str]:
    told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env=os.environ | told | {"HF_HUB_DISABLE_XET": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _said(process: subprocess.Popen[str]) -> list[str]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out.splitlines()


def test_two_processes_fetch_only_what_is_needed_and_only_once(hub: Hub, tmp_path: Path) -> None:
    both = [_start(LOCATE, "org/tiny", "weights", hub=hub, home=tmp_path) for _ in range(2)]
    (folder, name), other = map(_said, both)
    assert other == [folder, name]
    assert name == f"org/tiny@{COMMIT}"
    assert set(hub.given) == TO_LOAD
    assert set(hub.given.values()) == {1}
    found = Path(folder).rglob("*")
    assert {path.relative_to(folder).as_posix() for path in found if path.is_file()} == TO_LOAD


def test_a_plan_fetches_no_weights(hub: Hub, tmp_path: Path) -> None:
    _said(_start(LOCATE, "org/tiny", "configs", hub=hub, home=tmp_path))
    assert set(hub.given) == {name for name in TO_LOAD if name.endswith(".json")}


def test_a_base_is_recorded_by_its_id_and_commit_and_is_the_same_offline(
    hub: Hub, repository: Path, tmp_path: Path
) -> None:
    online = _said(_start(IDENTIFY, "org/tiny", hub=hub, home=tmp_path))
    folder, identity = online[0].split()
    for name in ("unet/diffusion_pytorch_model.safetensors", NEVER[-1]):
        shutil.copy(repository / name, Path(folder) / name)  # as another program would
    fetched = hub.given.copy()
    for asked in ("org/tiny", f"org/tiny@{COMMIT}"):
        offline = _start(IDENTIFY, asked, hub=hub, home=tmp_path, HF_HUB_OFFLINE="1")
        assert _said(offline) == online
    assert hub.given == fetched
    base = load_base(folder)
    assert (base.source, base.content_hash) == (f"org/tiny@{COMMIT}", identity)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/gated", "org/gated is gated: accept its terms at {url}/org/gated, then `hf auth lo"),
        ("org/tinny", "'org/tinny' is no file or folder here, and no model at {url}/org/tinny"),
        ("org/tiny@v9", "org/tiny has no revision 'v9'; give a branch, a tag or a commit of {url}"),
    ],
)
def test_what_a_hub_refuses_is_told(hub: Hub, tmp_path: Path, name: str, said: str) -> None:
    (line,) = _said(_start(LOCATE, name, "weights", hub=hub, home=tmp_path))
    assert line.startswith(said.format(url=hub.url))
    assert not hub.given


def test_without_a_hub_what_was_never_or_not_wholly_fetched_is_told(
    hub: Hub, tmp_path: Path
) -> None:
    silent = Hub(url="http://127.0.0.1:9")
    (line,) = _said(_start(LOCATE, "org/tiny", "weights", hub=silent, home=tmp_path))
    assert line.startswith(
        f"org/tiny@main was never fetched to {tmp_path}/hub, and {silent.url} do"
    )
    _said(_start(LOCATE, "org/tiny", "configs", hub=hub, home=tmp_path))
    asked = _start(LOCATE, "org/tiny", "weights", hub=hub, home=tmp_path, HF_HUB_OFFLINE="1")
    (line,) = _said(asked)
    assert line.startswith("org/tiny cannot be used: unet has no whole safetensors weights, but ")
    assert line.endswith(f"was not fetched whole, and {hub.url} is not asked (HF_HUB_OFFLINE)")


def test_a_repository_without_the_layout_is_told_of(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "one.safetensors").write_text(json.dumps({}))
    with serve(folder) as hub:
        (line,) = _said(_start(LOCATE, "org/tiny", "weights", hub=hub, home=tmp_path))
    assert line.startswith("org/tiny cannot be used: it holds no model_index.json")
    assert "it has one.safetensors" in line
