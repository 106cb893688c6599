"""Checkpoints in one file load offline, with the originals' configs and tokenizers."""

from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from original_naming import original_state
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from krona.base.checkpoint import Base, load_base
from krona.base.families import pipeline_family
from krona.base.original_config import describe
from krona.base.single_file import clip_tokenizer
from krona.base.source import BaseSource
from krona.errors import KronaError

SD1_TEXT = ("cond_stage_model.transformer.",)
SD2_TEXT = ("cond_stage_model.model.",)
SDXL_TEXT = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
CROSS_ATTENTION = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"


def _marked_file(path: Path, block: int, text_width: int) -> Path:
    """A file that looks like a checkpoint of the given text width, and holds nothing else."""
    save_file({CROSS_ATTENTION.format(block): torch.zeros(8, text_width)}, path)
    return path


@pytest.mark.parametrize(
    ("name", "block", "text_width", "unet", "text_encoders"),
    [
        ("sd1", 1, 768, 859_520_964, [123_060_480]),
        ("sd2", 1, 1024, 865_910_724, [340_387_840]),
        ("sdxl", 4, 2048, 2_567_463_684, [123_060_480, 694_659_840]),
    ],
)
def test_the_shipped_configs_have_the_originals_parameter_counts(
    tmp_path: Path, name: str, block: int, text_width: int, unet: int, text_encoders: list[int]
) -> None:
    folder = describe(_marked_file(tmp_path / "x.safetensors", block, text_width)).folder
    assert folder.name == name
    classes = [CLIPTextModel, CLIPTextModelWithProjection]
    with torch.device("meta"):
        modules = [
            UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
            AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
        ]
        for text_class, path in zip(classes, sorted(folder.glob("text_encoder*")), strict=False):
            modules.append(text_class(CLIPTextConfig.from_pretrained(path)))
    counts = [sum(p.numel() for p in module.parameters()) for module in modules]
    assert counts == [unet, 83_653_863, *text_encoders]
    assert pipeline_family(folder) == ("sdxl" if name == "sdxl" else "sd")


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_the_tokenizer_agrees_with_open_clip(pad: str) -> None:
    tokenizer = clip_tokenizer(pad_token=pad, model_max_length=77)
    texts = ["a photo of a sks cat", "Café-bar №5, naïve & 12 owls' héros", "the Eiffel Tower"]
    assert len(tokenizer) == 49408
    for text, expected in zip(texts, open_clip.tokenize(texts), strict=True):
        ids = tokenizer(text, padding="max_length").input_ids
        length = ids.index(tokenizer.eos_token_id) + 1
        assert ids[:length] == expected[:length].tolist()
        assert set(ids[length:]) == {49407 if pad == "<|endoftext|>" else 0}
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize(
    ("name", "text"), [("sd", SD1_TEXT), ("sd2", SD2_TEXT), ("sdxl", SDXL_TEXT)]
)
def test_one_file_loads_as_its_folder_does(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, text: tuple[str, ...]
) -> None:
    base: Base = request.getfixturevalue(name)
    path = tmp_path / "model.safetensors"
    save_file(original_state(base.pipeline(), text=text), path)
    loaded = load_base(BaseSource(name=str(path), config=Path(base.source)))
    for ours, theirs in zip(
        (loaded.unet, loaded.vae, *loaded.text_encoders),
        (base.unet, base.vae, *base.text_encoders),
        strict=True,
    ):
        expected = theirs.state_dict()
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=0, msg=key)
    assert (loaded.family, loaded.resolution) == (base.family, base.resolution)
    assert loaded.prediction_type == base.prediction_type


@pytest.mark.parametrize(
    ("extra", "metadata", "expected"),
    [
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"v_pred": torch.zeros(1)}, None, "v_prediction"),
        ({}, None, "epsilon"),
    ],
)
def test_a_file_may_declare_what_it_predicts(
    sd: Base,
    tmp_path: Path,
    extra: dict[str, torch.Tensor],
    metadata: dict[str, str] | None,
    expected: str,
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(original_state(sd.pipeline(), text=SD1_TEXT) | extra, path, metadata)
    assert load_base(BaseSource(name=str(path), config=Path(sd.source))).prediction_type == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.diffusion_model.out.2.bias", "lacks weights that"),
        ("first_stage_model.post_quant_conv.bias", "lacks weights that"),
        (f"{SD1_TEXT[0]}text_model.final_layer_norm.bias", "lacks .*bias of its CLIPTextModel"),
    ],
)
def test_a_file_that_lacks_weights_is_refused(
    sd: Base, tmp_path: Path, name: str, message: str
) -> None:
    state = original_state(sd.pipeline(), text=SD1_TEXT)
    del state[name]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(KronaError, match=message):
        load_base(BaseSource(name=str(tmp_path / "model.safetensors"), config=Path(sd.source)))


def test_weights_of_a_file_that_nothing_takes_are_told_of(sd: Base, tmp_path: Path) -> None:
    state = original_state(sd.pipeline(), text=SD1_TEXT)
    state["first_stage_model.encoder.down.0.block.0.norm1.extra"] = torch.zeros(2)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="not used when initializing AutoencoderKL"):
        load_base(BaseSource(name=str(tmp_path / "model.safetensors"), config=Path(sd.source)))


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, lora)
    with pytest.raises(KronaError, match=r"no Stable Diffusion 1\.x, 2\.x or XL"):
        load_base(lora)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(lora.read_bytes()[:-4])
    with pytest.raises(KronaError, match="damaged"):
        load_base(damaged)
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"PK")
    with pytest.raises(KronaError, match="pickled"):
        load_base(pickled)
    hollow = _marked_file(tmp_path / "hollow.safetensors", 1, 768)
    with pytest.raises(KronaError, match="holds no autoencoder"):
        load_base(hollow)
    save_file(load_file(hollow) | {"first_stage_model.x": torch.zeros(1)}, hollow)
    with pytest.raises(KronaError, match="does not fit sd1"):
        load_base(hollow)
