"""Encoders load through open_clip and transformers themselves, on tiny models made here."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from evals.encoders import load_clip, load_dino
from krona.errors import KronaError

RED, BLUE = Image.new("RGB", (48, 40), "red"), Image.new("RGB", (48, 40), "blue")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_a_local_open_clip_folder_gives_unit_rows(clip_folder: Path) -> None:
    clip = load_clip(str(clip_folder))
    images, texts = clip.images([RED, BLUE]), clip.texts(["a red toy", "a blue toy"])
    assert images.shape == texts.shape == (2, 16)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    assert not torch.allclose(images[0], images[1])


def test_an_unknown_scorer_is_refused_with_what_is_known() -> None:
    with pytest.raises(KronaError, match=r"scorer 'ViT-B-23' is neither .*'ViT-B-32:openai'"):
        load_clip("ViT-B-23")


def test_missing_weights_are_refused_with_the_way_out() -> None:
    with pytest.raises(KronaError, match="--scorer path/to/open_clip_folder"):
        load_clip("ViT-B-32:nowhere.safetensors")


def test_dino_takes_the_class_token_after_its_own_preprocessing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    features = load_dino(str(tmp_path)).images([RED, BLUE])
    assert features.shape == (2, 16)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    model = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    red = ((torch.tensor([1.0, 0.0, 0.0]) - mean) / std)[:, None, None].expand(1, 3, 32, 32)
    with torch.no_grad():
        token = model(red).last_hidden_state[0, 0]
    torch.testing.assert_close(features[0], token / token.norm())


def test_the_content_hash_is_of_the_weights_that_are_read(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8,
    )  # fmt: skip
    for name in ("one", "other"):
        ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / name)
    first, again = (load_dino(str(tmp_path / "one")).content_hash for _ in range(2))
    assert first == again
    assert first != load_dino(str(tmp_path / "other")).content_hash


def test_a_missing_dino_is_refused() -> None:
    with pytest.raises(KronaError, match="DINO encoder 'no/such/folder' cannot be loaded"):
        load_dino("no/such/folder")
