import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers
from lycoris import create_lycoris_from_weights
from lycoris.kohya import LycorisNetworkKohya, create_network_from_weights
from safetensors import safe_open
from safetensors.torch import load_file
from trained import assert_close, assert_untouched, make_manifest, predict, snapshot

from krona.adapter.inject import attention_linears, inject
from krona.adapter.layers import AdapterConfig
from krona.exchange.adapter_file import Manifest, load_adapter, save_adapter
from krona.exchange.export import export_adapter
from krona.exchange.formats import kohya, unet_adapter

SQUARE = AdapterConfig(factors=(4, 4), scale=0.5)
OBLONG = AdapterConfig(factors=(8, 4), scale=0.5)
MIXED = AdapterConfig(factors={"q": (4, 4), "v": (2, 2)}, targets=("q", "v"))
LORA = AdapterConfig(kind="lora", rank=3, scale=2.0)
CONFIGS = pytest.mark.parametrize("config", [SQUARE, OBLONG, MIXED, LORA])
SDXL_SHAPE = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
}


@pytest.fixture(params=["sd", "sd2", "sdxl"])
def base(request):
    return request.getfixturevalue(request.param)


def diffusers_names(tensors, unet):
    """Undo kohya's names with diffusers' own converter: lora_unet_<block>… → <block>…."""
    blocks = {
        "input_blocks": "down_blocks",
        "middle_block": "mid_block",
        "output_blocks": "up_blocks",
    }
    renamed = {}
    for name, tensor in _maybe_map_sgm_blocks_to_diffusers(dict(tensors), unet.config).items():
        for old, new in blocks.items():
            name = name.replace(old, new)
        renamed[name.removeprefix("lora_unet_")] = tensor
    return renamed


def test_kohya_names_of_stable_diffusion_1():
    path = "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0"
    expected = "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_out_0"
    assert kohya.layer_name(path, "sd", SimpleNamespace()) == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("down_blocks.1.attentions.0", "input_blocks_4_1"),
        ("down_blocks.2.attentions.1", "input_blocks_8_1"),
        ("mid_block.attentions.0", "middle_block_1"),
        ("up_blocks.0.attentions.2", "output_blocks_2_1"),
        ("up_blocks.1.attentions.0", "output_blocks_3_1"),
    ],
)
def test_kohya_names_of_sdxl(block, expected):
    config = SimpleNamespace(layers_per_block=2, **SDXL_SHAPE)
    name = kohya.layer_name(f"{block}.transformer_blocks.0.attn1.to_q", "sdxl", config)
    assert name == f"lora_unet_{expected}_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("down_blocks.1.resnets.0.conv1", "lora_unet_input_blocks_4_0_in_layers_2"),
        ("down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"),
        ("time_embedding.linear_1", "lora_unet_time_embed_0"),
        (
            "text_encoder.text_model.encoder.layers.0.mlp.fc1",
            "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        ),
        ("text_encoder_2.text_projection", "lora_te2_text_projection"),
    ],
)
def test_kohya_names_of_sdxl_beside_attention(path, expected):
    config = SimpleNamespace(layers_per_block=2, **SDXL_SHAPE)
    assert kohya.layer_name(path, "sdxl", config) == expected


def test_diffusers_maps_every_sdxl_name_back():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_SHAPE)
    paths = list(attention_linears(unet))
    names = {f"{kohya.layer_name(path, 'sdxl', unet.config)}.alpha": path for path in paths}
    assert len(names) == 560
    back = {path: name for name, path in diffusers_names(names, unet).items()}
    assert back == {path: path.replace(".", "_") + ".alpha" for path in paths}


@CONFIGS
def test_kohya_export_loads_back_equal_and_leaves_the_base_alone(base, train, tmp_path, config):
    path, _ = train(base, config)
    before = snapshot(base.unet)
    output = tmp_path / "out" / "duck.safetensors"
    report = export_adapter(path, base=base, format="kohya", output=output, dtype="fp32")
    print(report)
    assert (report.path, report.format) == (output, "kohya")
    assert report.rel_error < 1e-6
    assert {entry.name for entry in output.parent.iterdir()} == {"duck.safetensors", "README.md"}
    assert_untouched(base.unet, before)


@pytest.mark.parametrize("config", [SQUARE, MIXED, LORA])
def test_lycoris_gives_the_same_prediction_from_the_kohya_file(base, train, tmp_path, config):
    path, expected = train(base, config)
    output = tmp_path / "duck.safetensors"
    report = export_adapter(path, base=base, format="kohya", output=output, dtype="fp32")
    assert report.loaded_by.startswith("lycoris_lora 4")
    unet = copy.deepcopy(base.unet)
    named = diffusers_names(load_file(output), unet)
    weights = {f"lycoris_{name}": tensor for name, tensor in named.items()}
    network, _ = create_lycoris_from_weights(1.0, None, unet, weights_sd=weights)
    assert len(network.loras) == len(load_adapter(path)[0]) // 2
    network.apply_to()
    assert_close(predict(unet), expected)


def test_lycoris_loads_the_kohya_file_of_sd_by_its_own_names(sd, train, tmp_path, monkeypatch):
    # LyCORIS 4.1.3 names time_embedding's layers twice and stops: leave them out.
    monkeypatch.setattr(LycorisNetworkKohya, "UNET_TARGET_REPLACE_NAME", [])
    path, expected = train(sd, SQUARE)
    output = tmp_path / "duck.safetensors"
    export_adapter(path, base=sd, format="kohya", output=output, dtype="fp32")
    unet = copy.deepcopy(sd.unet)
    network, _ = create_network_from_weights(1.0, str(output), None, None, unet)
    network.apply_to(None, unet, False, True)
    assert_close(predict(unet), expected)


def test_diffusers_gives_the_same_prediction_from_a_kohya_lora(base, train, tmp_path):
    path, expected = train(base, LORA)
    output = tmp_path / "duck.safetensors"
    export_adapter(path, base=base, format="kohya", output=output, dtype="fp32")
    pipeline = base.pipeline()
    pipeline.load_lora_weights(str(output))
    got = predict(base.unet)
    pipeline.unload_lora_weights()
    assert_close(got, expected)


@pytest.mark.parametrize("config", [SQUARE, LORA])
def test_diffusers_gives_the_same_prediction_from_its_file(base, train, tmp_path, config):
    path, expected = train(base, config)
    before = snapshot(base.unet)
    output = tmp_path / "duck.safetensors"
    report = export_adapter(path, base=base, format="diffusers", output=output, dtype="fp32")
    assert report.loaded_by.startswith("diffusers 0.")
    assert report.rel_error < 1e-6
    assert_untouched(base.unet, before)
    base.unet.load_lora_adapter(str(output), prefix="unet")
    got = predict(base.unet)
    base.unet.unload_lora()
    assert_close(got, expected)
    assert_untouched(base.unet, before)


def test_pipeline_loads_the_diffusers_file_of_a_lora(sd, train, tmp_path):
    path, expected = train(sd, LORA)
    output = tmp_path / "duck.safetensors"
    export_adapter(path, base=sd, format="diffusers", output=output, dtype="fp32")
    pipeline = sd.pipeline()
    pipeline.load_lora_weights(str(output))
    got = predict(sd.unet)
    pipeline.unload_lora_weights()
    assert_close(got, expected)


@pytest.mark.parametrize("config", [OBLONG, LORA])
def test_merged_folder_predicts_what_the_adapter_did(base, train, tmp_path, config):
    path, expected = train(base, config)
    before = snapshot(base.unet)
    report = export_adapter(path, base=base, format="merged", output=tmp_path / "merged")
    assert report.loaded_by.startswith("diffusers 0.")
    assert report.rel_error < 1e-5
    assert_untouched(base.unet, before)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "merged")
    assert_close(predict(pipeline.unet), expected)


def test_kohya_file_folds_the_scale_and_says_alpha(sd, train, tmp_path):
    path, _ = train(sd, OBLONG)
    state, manifest = load_adapter(path)
    output = tmp_path / "duck.safetensors"
    export_adapter(path, base=sd, format="kohya", output=output, dtype="fp32")
    tensors = load_file(output)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    name = "lora_unet_" + layer.replace(".", "_")
    assert torch.equal(tensors[f"{name}.lokr_w1"], state[f"{layer}.A"])
    assert torch.equal(tensors[f"{name}.lokr_w2"], 0.5 * state[f"{layer}.B"])
    assert tensors[f"{name}.alpha"].shape == ()
    assert tensors[f"{name}.alpha"].dtype == torch.float32
    assert tensors[f"{name}.alpha"].item() == max(64 // 8, 32 // 4)
    with safe_open(output, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["modelspec.trigger_phrase"] == "sks toy"
    assert len(metadata["sshs_model_hash"]) == 64
    assert Manifest.from_json(metadata["krona_manifest"]) == manifest


def test_sdxl_file_says_so(sdxl, train, tmp_path):
    path, _ = train(sdxl, LORA)
    export_adapter(path, base=sdxl, format="kohya", output=tmp_path / "duck.safetensors")
    with safe_open(tmp_path / "duck.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_network_dim"] == "3"


@pytest.mark.parametrize(
    ("prediction_type", "version", "architecture"),
    [
        ("epsilon", "sd_v2", "stable-diffusion-v2-512/lora"),
        ("v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    ],
)
def test_file_of_stable_diffusion_2_says_what_its_base_predicts(
    sd2, train, tmp_path, monkeypatch, prediction_type, version, architecture
):
    monkeypatch.setattr(kohya, "_SD2_TEXT_WIDTH", sd2.unet.config.cross_attention_dim)
    path, _ = train(sd2, SQUARE)
    base = replace(sd2, prediction_type=prediction_type)
    export_adapter(path, base=base, format="kohya", output=tmp_path / "duck.safetensors")
    with safe_open(tmp_path / "duck.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_base_model_version"], metadata["ss_v2"]) == (version, "True")
    assert metadata["modelspec.architecture"] == architecture


@CONFIGS
def test_kohya_export_needs_no_lycoris(base, train, tmp_path, config, monkeypatch):
    monkeypatch.setattr(kohya, "find_spec", lambda _: None)
    path, _ = train(base, config)
    output = tmp_path / "a.safetensors"
    report = export_adapter(path, base=base, format="kohya", output=output, dtype="fp32")
    assert report.loaded_by == "krona"
    assert report.rel_error < 1e-6


def test_shape_that_lycoris_cannot_hold_is_read_back_by_krona(sd, train, tmp_path):
    path, _ = train(sd, OBLONG)
    report = export_adapter(path, base=sd, format="kohya", output=tmp_path / "a.safetensors")
    assert report.loaded_by == "krona"


@pytest.mark.parametrize("config", [SQUARE, LORA])
def test_diffusers_export_needs_no_peft(sd, train, tmp_path, config, monkeypatch):
    monkeypatch.setattr(unet_adapter, "is_peft_available", lambda: False)
    path, _ = train(sd, config)
    output = tmp_path / "a.safetensors"
    report = export_adapter(path, base=sd, format="diffusers", output=output, dtype="fp32")
    assert report.loaded_by == "krona"
    assert report.rel_error < 1e-6


def test_untrained_adapter_exports_with_no_error(sd, tmp_path):
    adapter = inject(sd.unet, SQUARE, seed=0)
    adapter.eject()
    save_adapter(tmp_path / "a", adapter.state_dict(), make_manifest(sd, SQUARE))
    output = tmp_path / "b.safetensors"
    report = export_adapter(tmp_path / "a", base=sd, format="kohya", output=output)
    assert (report.max_abs_error, report.rel_error) == (0, 0)
