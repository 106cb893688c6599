"""Loading a base: what it becomes, when its hash changes, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from krona.base.checkpoint import Base, load_base
from krona.errors import KronaError

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_sd: Path, tmp_path: Path) -> Path:
    """A copy of the SD 1.5-shaped checkpoint to spoil."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "copy"))


def test_a_base_knows_its_shape_and_is_frozen(sd: Base, sd2: Base, sdxl: Base) -> None:
    assert [(b.family, b.prediction_type, b.resolution) for b in (sd, sd2, sdxl)] == [
        ("sd", "epsilon", 16),
        ("sd", "v_prediction", 16),
        ("sdxl", "epsilon", 16),
    ]
    assert len({sd.content_hash, sd2.content_hash, sdxl.content_hash}) == 3
    for base in (sd, sdxl):
        for module in (base.unet, base.vae, *base.text_encoders):
            assert not module.training
            assert not any(p.requires_grad for p in module.parameters())


def test_the_embedded_base_loads_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    base = load_base("toyland")
    base.pipeline()
    assert (base.family, base.prediction_type, base.resolution) == ("sd", "v_prediction", 64)
    assert base.scheduler.config.timestep_spacing == "trailing"
    assert base.scheduler.alphas_cumprod[-1] == 0
    assert capfd.readouterr() == ("", "")


def test_the_pipeline_shares_the_base_modules(sd: Base, sdxl: Base) -> None:
    for base in (sd, sdxl):
        pipeline = base.pipeline()
        assert pipeline.unet is base.unet
        assert pipeline.vae is base.vae
        image = pipeline("a dog", num_inference_steps=2, output_type="pt").images
        assert image.shape == (1, 3, 16, 16)


def test_half_precision_leaves_the_autoencoder_and_the_hash_as_they_are(
    sd: Base, tiny_sd: Path
) -> None:
    half = load_base(tiny_sd, dtype=torch.bfloat16)
    assert half.unet.dtype == half.text_encoders[0].dtype == torch.bfloat16
    assert half.vae.dtype == torch.float32
    assert half.content_hash == sd.content_hash


def test_the_hash_follows_weights_and_configs_but_not_the_place(sd: Base, folder: Path) -> None:
    assert load_base(folder).content_hash == sd.content_hash
    weights = load_file(folder / UNET)
    weights["conv_in.bias"][0] += 1
    save_file(weights, folder / UNET, metadata={"format": "pt"})
    trained = load_base(folder).content_hash
    scheduler = folder / "scheduler/scheduler_config.json"
    config = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(config | {"prediction_type": "v_prediction"}))
    assert len({sd.content_hash, trained, load_base(folder).content_hash}) == 3


def _edit_index(folder: Path, **entries: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _drop_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _break_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def _other_pipeline(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')


def _drop_text_encoder(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")


def _pickle_unet(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin")


def _truncate_unet(folder: Path) -> None:
    (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-100])


def _change_weights(path: Path, **changes: torch.Tensor | None) -> None:
    weights = {name: t for name, t in (load_file(path) | changes).items() if t is not None}
    save_file(weights, path, metadata={"format": "pt"})


def _drop_weight(folder: Path) -> None:
    _change_weights(folder / UNET, **{"conv_in.bias": None})


def _drop_text_weight(folder: Path) -> None:
    path = folder / "text_encoder/model.safetensors"
    _change_weights(path, **{next(k for k in load_file(path) if k.endswith("fc1.bias")): None})


def _reshape_text_weight(folder: Path) -> None:
    path = folder / "text_encoder/model.safetensors"
    name = next(k for k in load_file(path) if k.endswith("final_layer_norm.bias"))
    _change_weights(path, **{name: torch.zeros(3)})


def _break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").write_text("{")


def _name_a_lost_class(folder: Path) -> None:
    _edit_index(folder, unet=["diffusers", "UNet1999Model"])


def _name_no_text_encoder(folder: Path) -> None:
    _edit_index(folder, text_encoder=[None, None])


def _predict_sample(folder: Path) -> None:
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_index, "no model_index.json.*unet/, vae/"),
        (_break_index, "model_index.json is damaged"),
        (_other_pipeline, "is a FluxPipeline; supported: StableDiffusionPipeline"),
        (_drop_text_encoder, "incomplete: text_encoder/ is missing"),
        (_pickle_unet, "unet/ has no safetensors weights.*pickled"),
        (_truncate_unet, "unet of checkpoint .*copy cannot be loaded"),
        (_break_tokenizer, "tokenizer of checkpoint .*copy cannot be loaded"),
        (_drop_weight, "lacks weights of its UNet2DConditionModel: conv_in.bias"),
        (_drop_text_weight, r"lacks weights of its CLIPTextModel: .*fc1\.bias"),
        (_reshape_text_weight, r"do not fit its CLIPTextModel: .*bias is \(3,\), not \(32,\)"),
        (_name_a_lost_class, "names diffusers.UNet1999Model as its unet, which diffusers 0"),
        (_name_no_text_encoder, "names no text_encoder of diffusers or transformers"),
        (_predict_sample, "predicting 'sample'; supported: .*epsilon or v_prediction"),
    ],
)
def test_a_spoiled_folder_says_what_is_wrong(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    with pytest.raises(KronaError, match=message):
        load_base(folder)


def test_a_missing_path_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(KronaError, match="does not exist; give 'toyland', a folder"):
        load_base(tmp_path / "nowhere")
