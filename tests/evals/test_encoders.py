"""Encoders load through open_clip and transformers themselves, on tiny models made here."""

import json
import shutil
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from evals.encoders import clip_settings, load_clip, load_dino
from krona.errors import KronaError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
RED, BLUE = Image.new("RGB", (48, 40), "red"), Image.new("RGB", (48, 40), "blue")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def weights(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of models that open_clip now knows: tiny, tiny-quickgelu, and the tag tiny:odd."""
    path = clip_folder / "open_clip_model.safetensors"
    odd = {
        "file": str(path), "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
        "interpolation": "bilinear", "resize_mode": "squash",
    }  # fmt: skip
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(configs, "tiny", TINY)
    monkeypatch.setitem(configs, "tiny-quickgelu", TINY | {"quick_gelu": True})
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"odd": odd})
    return path


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


@pytest.mark.filterwarnings("error")
def test_a_tag_s_weights_get_its_activation_and_its_preprocessing(weights: Path) -> None:
    clip = load_clip("tiny:odd")
    model = open_clip.CLIP(**TINY, quick_gelu=True).eval()
    model.load_state_dict(load_file(weights))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    red = ((torch.tensor([1.0, 0.0, 0.0]) - mean) / std)[:, None, None].expand(1, 3, 32, 32)
    with torch.no_grad():
        image = model.encode_image(red, normalize=True)
        text = model.encode_text(open_clip.tokenize("a toy", context_length=16), normalize=True)
    torch.testing.assert_close(clip.images([RED]), image)
    torch.testing.assert_close(clip.texts(["a toy"]), text)
    pattern = Image.linear_gradient("L").convert("RGB").resize((64, 32))
    squashed = pattern.resize((32, 32), Image.Resampling.BILINEAR)
    torch.testing.assert_close(clip.images([pattern]), clip.images([squashed]))


def _builds() -> list[tuple[str, str]]:
    """A model and a tag for each way in which activations and preprocessing differ in open_clip."""
    found: dict[str, tuple[str, str]] = {}
    for model, tag in open_clip.list_pretrained():
        config, wanted = open_clip.get_model_config(model), open_clip.get_pretrained_cfg(model, tag)
        if "hf_model_name" not in config["text_cfg"]:
            told = {key: value for key, value in wanted.items() if key not in {"url", "hf_hub"}}
            found.setdefault(f"{told} over {config.get('quick_gelu')}", (model, tag))
    return list(found.values())


@pytest.mark.filterwarnings("error:QuickGELU mismatch")
@pytest.mark.parametrize(("model", "tag"), [("ViT-B-32", "openai"), *_builds()])
def test_each_kind_of_tag_is_built_as_it_says(
    model: str, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = open_clip.get_pretrained_cfg(model, tag)
    monkeypatch.setitem(wanted, "file", "not read")
    with torch.device("meta"):
        built = open_clip.create_model(
            model, load_weights=False, device="meta", **clip_settings(model, tag)
        )
    assert wanted.keys() & built.visual.preprocess_cfg.keys() >= {"mean", "std", "interpolation"}
    for key in wanted.keys() & built.visual.preprocess_cfg.keys():
        assert built.visual.preprocess_cfg[key] == wanted[key]
    assert built.visual.preprocess_cfg["size"] == built.visual.image_size
    kinds = {type(module) for module in built.modules()}
    assert (open_clip.transformer.QuickGELU in kinds) == wanted.get("quick_gelu", False)


def test_every_tag_gets_the_activation_it_asks_for() -> None:
    silent = set()
    for model, tag in open_clip.list_pretrained():
        has = open_clip.get_model_config(model).get("quick_gelu", False)
        wants = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
        gets = has or clip_settings(model, tag)["force_quick_gelu"]
        assert gets >= wants, f"{model}:{tag}"
        if gets != wants:
            silent.add(model)
    assert silent <= {"roberta-ViT-B-32"}


def test_a_weights_file_has_its_model_s_activation_and_may_want_another(weights: Path) -> None:
    with pytest.warns(UserWarning, match=f"does not say its activation.*tiny-quickgelu:{weights}"):
        plain = load_clip(f"tiny:{weights}")
    with warnings.catch_warnings(action="error"):
        quick = load_clip(f"tiny-quickgelu:{weights}")
    assert not torch.allclose(plain.images([RED]), quick.images([RED]), rtol=0, atol=1e-5)
    assert plain.content_hash != quick.content_hash  # else the one's anchors would serve the other


def test_a_folder_without_weights_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copy(clip_folder / "open_clip_config.json", tmp_path)
    with pytest.raises(KronaError, match="cannot be loaded: Required pretrained weights"):
        load_clip(str(tmp_path))


def test_missing_weights_are_refused_with_the_way_out() -> None:
    with pytest.raises(KronaError, match="--scorer path/to/open_clip_folder"):
        load_clip("ViT-B-32:nowhere.safetensors")


DINO = ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    image_size=32, patch_size=8,
)  # fmt: skip


def test_dino_takes_the_class_token_after_its_own_preprocessing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ViTModel(DINO, add_pooling_layer=False).save_pretrained(tmp_path)
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
    for name in ("one", "other"):
        ViTModel(DINO, add_pooling_layer=False).save_pretrained(tmp_path / name)
    first, again = (load_dino(str(tmp_path / "one")).content_hash for _ in range(2))
    assert first == again
    assert first != load_dino(str(tmp_path / "other")).content_hash


def _spoil(folder: Path, name: str, tensor: torch.Tensor | None) -> str:
    """Replace a tensor of a saved model, or drop it; return its name there."""
    path = folder / "model.safetensors"
    state = load_file(path)
    full = next(key for key in state if key.endswith(name))
    del state[full]
    save_file(state | ({} if tensor is None else {full: tensor}), path, metadata={"format": "pt"})
    return full


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, "lacks weights of its ViTModel: .*layernorm.weight"),
        (torch.zeros(3), r"do not fit its ViTModel: .*layernorm.weight is \(3,\), not \(16,\)"),
    ],
)
def test_a_dino_with_missing_weights_is_refused(
    tmp_path: Path, tensor: torch.Tensor | None, message: str
) -> None:
    ViTModel(DINO, add_pooling_layer=False).save_pretrained(tmp_path)
    _spoil(tmp_path, "layernorm.weight", tensor)
    with pytest.raises(KronaError, match=message):
        load_dino(str(tmp_path))


def test_only_weights_that_dino_leaves_unused_are_told_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ViTModel(DINO, add_pooling_layer=False).save_pretrained(tmp_path / "plain")
    ViTForImageClassification(DINO).save_pretrained(tmp_path / "classifier")
    capfd.readouterr()
    with warnings.catch_warnings(action="error"):
        load_dino(str(tmp_path / "plain"))
    with pytest.warns(UserWarning, match="ViTModel does not take: classifier.bias"):
        load_dino(str(tmp_path / "classifier"))
    assert capfd.readouterr() == ("", "")


def test_a_missing_dino_is_refused() -> None:
    with pytest.raises(KronaError, match="DINO encoder 'no/such/folder' cannot be loaded"):
        load_dino("no/such/folder")
