"""Folders as hubs have them: old names, parts that nothing uses, half-precision variants."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from krona.base.checkpoint import Base, load_base
from krona.errors import KronaError

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_sd: Path, tmp_path: Path) -> Path:
    """A copy of the SD 1.5-shaped checkpoint to change."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sd2", "tiny_sdxl"])
def test_components_are_those_of_diffusers_own_pipeline(
    request: pytest.FixtureRequest, name: str
) -> None:
    folder: Path = request.getfixturevalue(name)
    dtypes = {"vae": torch.float32, "default": torch.bfloat16}
    theirs = DiffusionPipeline.from_pretrained(folder, dtype=dtypes, safety_checker=None)
    ours = load_base(folder, dtype=torch.bfloat16).pipeline()
    modules = {key: part for key, part in theirs.components.items() if isinstance(part, nn.Module)}
    assert len(modules) == (4 if name == "tiny_sdxl" else 3)
    for key, module in modules.items():
        got = ours.components[key].state_dict()
        torch.testing.assert_close(got, module.state_dict(), rtol=0, atol=0)
    assert ours.scheduler.config == theirs.scheduler.config
    assert type(ours.scheduler) is type(theirs.scheduler)


def _rename_to_half(folder: Path, components: list[str]) -> None:
    for path in [p for name in components for p in folder.glob(f"{name}/*.safetensors")]:
        path.rename(path.with_suffix(".fp16.safetensors"))


@pytest.mark.parametrize("halves", [["unet"], ["vae", "text_encoder"], ["unet", "vae"]])
def test_a_component_may_have_its_half_precision_variant_alone(
    sd: Base, folder: Path, halves: list[str]
) -> None:
    _rename_to_half(folder, halves)
    base = load_base(folder)
    for ours, theirs in zip(
        (base.unet, base.vae, *base.text_encoders),
        (sd.unet, sd.vae, *sd.text_encoders),
        strict=True,
    ):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_shards_load_as_those_in_one_file(
    sd: Base, folder: Path, variant: str | None
) -> None:
    for name, module in (("unet", sd.unet), ("vae", sd.vae), ("text_encoder", sd.text_encoders[0])):
        for path in (folder / name).glob("*.safetensors"):
            path.unlink()
        module.save_pretrained(folder / name, max_shard_size="50KB", variant=variant)
        assert len(list((folder / name).glob("*-of-*.safetensors"))) > 1
    base = load_base(folder)
    for ours, theirs in ((base.unet, sd.unet), (base.vae, sd.vae)):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    ours, theirs = base.text_encoders[0], sd.text_encoders[0]
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    min((folder / "unet").glob("*-of-*.safetensors")).unlink()
    with pytest.raises(KronaError, match=r"incomplete: unet/ .*shards"):
        load_base(folder)


def test_full_precision_is_read_where_a_component_has_both(sd: Base, folder: Path) -> None:
    _rename_to_half(folder, ["unet"])
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    halved = {name: tensor.half() for name, tensor in load_file(vae).items()}
    save_file(halved, vae.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    bias = load_base(folder).vae.encoder.conv_in.bias
    torch.testing.assert_close(bias, sd.vae.encoder.conv_in.bias, rtol=0, atol=0)


UNUSED = {
    "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "watermarker": ["nowhere", "Watermarker"],
    "requires_safety_checker": True,
}


@pytest.mark.parametrize("has_folders", [False, True])
@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sdxl"])
def test_components_that_are_not_used_are_neither_missed_nor_read(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, has_folders: bool
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(name), tmp_path / "copy"))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | UNUSED))
    for unused in [key for key, value in UNUSED.items() if value is not True and has_folders]:
        (folder / unused).mkdir()
        for file in ("config.json", "preprocessor_config.json", "model.safetensors"):
            (folder / unused / file).write_text("garbage")
    base = load_base(folder)
    assert base.content_hash == load_base(request.getfixturevalue(name)).content_hash
    assert base.resolution == 16


def test_an_old_folder_s_names_and_settings_still_mean_the_same(sd: Base, folder: Path) -> None:
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    weights = load_file(path)
    for new, name in old.items():
        weights = {key.replace(new, name): tensor for key, tensor in weights.items()}
    save_file(weights, path, metadata={"format": "pt"})
    scheduler = folder / "scheduler/scheduler_config.json"
    config = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(config | {"steps_offset": 0, "clip_sample": True}))
    (folder / "tokenizer/tokenizer.json").unlink()
    vocabulary = sd.tokenizers[0].get_vocab()
    (folder / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    with warnings.catch_warnings(action="error"):
        base = load_base(folder)
    torch.testing.assert_close(base.vae.state_dict(), sd.vae.state_dict(), rtol=0, atol=0)
    assert (base.scheduler.config.steps_offset, base.scheduler.config.clip_sample) == (1, False)
    assert base.tokenizers[0]("a dog").input_ids == sd.tokenizers[0]("a dog").input_ids


def test_weights_that_nothing_takes_are_told_of(folder: Path) -> None:
    save_file(load_file(folder / UNET) | {"extra.weight": torch.zeros(2)}, folder / UNET)
    with pytest.warns(UserWarning, match="its UNet2DConditionModel does not take: extra.weight"):
        load_base(folder)
