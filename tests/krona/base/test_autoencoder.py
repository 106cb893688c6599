"""An autoencoder beside the base: wherever it lies, in the base's hash, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from original_naming import original_state
from safetensors.torch import save_file

from krona.base.checkpoint import Base, load_base
from krona.base.skeleton import build_skeleton
from krona.base.source import BaseSource
from krona.errors import KronaError

TEXT = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
PREFIX = "first_stage_model."


@pytest.fixture(scope="module")
def repaired(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL's autoencoder as its fp16-fixed one is: other weights, in half precision, no upcast."""
    folder = tmp_path_factory.mktemp("repaired") / "vae"
    vae = AutoencoderKL.from_config(
        AutoencoderKL.load_config(tiny_sdxl / "vae"), force_upcast=False
    )
    vae.half().save_pretrained(folder, variant="fp16")
    return folder


def _state(sdxl: Base) -> dict[str, torch.Tensor]:
    return original_state(sdxl.pipeline(), text=TEXT)


def _is_equal(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    expected = theirs.state_dict()
    return all(torch.equal(t, expected[name]) for name, t in ours.state_dict().items())


def test_a_repaired_autoencoder_takes_the_place_of_the_base_s_own(
    sdxl: Base, tiny_sdxl: Path, repaired: Path
) -> None:
    base = load_base(BaseSource(name=str(tiny_sdxl), vae=str(repaired)), dtype=torch.bfloat16)
    assert base.vae.dtype == torch.float32
    assert not base.vae.config.force_upcast
    theirs = AutoencoderKL.from_pretrained(repaired, variant="fp16")
    assert _is_equal(base.vae, theirs)
    assert not _is_equal(base.vae, sdxl.vae)
    assert base.source == str(tiny_sdxl)
    assert base.content_hash != sdxl.content_hash


def test_it_is_the_same_base_from_a_folder_that_lacks_its_own(
    tiny_sdxl: Path, repaired: Path, tmp_path: Path
) -> None:
    whole = load_base(BaseSource(name=str(tiny_sdxl), vae=str(repaired)))
    without = shutil.copytree(tiny_sdxl, tmp_path / "without")
    shutil.rmtree(without / "vae")
    base = load_base(BaseSource(name=str(without), vae=str(repaired)))
    assert base.content_hash == whole.content_hash
    with pytest.raises(KronaError, match="vae/ is missing"):
        load_base(without)


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_file_without_an_autoencoder_takes_one_from_a_folder_or_a_file(
    sdxl: Base, tiny_sdxl: Path, tmp_path: Path, prefix: str
) -> None:
    state = _state(sdxl)
    path, alone = tmp_path / "model.safetensors", tmp_path / "vae.safetensors"
    save_file({name: t for name, t in state.items() if not name.startswith(PREFIX)}, path)
    vae = {name: t for name, t in state.items() if name.startswith(PREFIX)}
    save_file({prefix + name.removeprefix(PREFIX): t for name, t in vae.items()}, alone)
    with pytest.raises(KronaError, match=r"model\.safetensors holds no autoencoder; give .* --vae"):
        load_base(BaseSource(name=str(path), config=tiny_sdxl))
    hashes = set()
    for given in (alone, tiny_sdxl, tiny_sdxl / "vae"):
        base = load_base(BaseSource(name=str(path), vae=str(given), config=tiny_sdxl))
        assert _is_equal(base.vae, sdxl.vae)
        hashes.add(base.content_hash)
    assert len(hashes) == 2  # of the file, and of the folder, however that is given


def test_the_file_s_own_autoencoder_gives_way_too(
    sdxl: Base, tiny_sdxl: Path, repaired: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(_state(sdxl), path)
    own = load_base(BaseSource(name=str(path), config=tiny_sdxl))
    base = load_base(BaseSource(name=str(path), vae=str(repaired), config=tiny_sdxl))
    assert _is_equal(own.vae, sdxl.vae)
    assert not _is_equal(base.vae, sdxl.vae)
    assert base.content_hash != own.content_hash


def test_what_is_planned_has_the_given_autoencoder(tiny_sdxl: Path, tmp_path: Path) -> None:
    config = AutoencoderKL.load_config(tiny_sdxl / "vae") | {"layers_per_block": 2}
    AutoencoderKL.from_config(config).save_config(tmp_path)
    with torch.device("meta"):
        own = build_skeleton(tiny_sdxl).vae
        given = build_skeleton(BaseSource(name=str(tiny_sdxl), vae=str(tmp_path))).vae
    assert (own.config.layers_per_block, given.config.layers_per_block) == (1, 2)


def test_an_autoencoder_of_another_scale_is_told_of(repaired: Path, tiny_sdxl: Path) -> None:
    other = repaired.parent / "other"
    shutil.copytree(repaired, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.5}))
    with pytest.warns(UserWarning, match=r"scales latents by 0\.5, and the base's own by 0\.18215"):
        load_base(BaseSource(name=str(tiny_sdxl), vae=str(other)))


def test_what_is_no_autoencoder_is_refused(tiny_sdxl: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_down.weight": torch.zeros(2)}, lora)
    for given, said in (
        (lora, "holds no autoencoder, but lora_down.weight"),
        (tiny_sdxl / "unet", "holds a UNet2DConditionModel; give a folder of an AutoencoderKL"),
        (tmp_path, "holds neither config.json nor vae/config.json"),
        (tmp_path / "nope", "does not exist"),
    ):
        with pytest.raises(KronaError, match=said):
            load_base(BaseSource(name=str(tiny_sdxl), vae=str(given)))


def test_a_config_beside_a_folder_is_refused(tiny_sdxl: Path) -> None:
    with pytest.raises(KronaError, match="is a folder that has its own; leave --config out"):
        load_base(BaseSource(name=str(tiny_sdxl), config=tiny_sdxl))
