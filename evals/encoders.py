"""Image and text encoders: pictures and prompts in, unit-length feature rows out.

One small class for each backbone; the scores are pure functions of what they return.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from evals.sources import TOYLAND, check_clip, check_dino
from krona.base.memory import in_parts
from krona.base.quiet import check_weights, quiet_loaders
from krona.errors import KronaError
from krona.toyland.embedded import ENCODER, SCORER, intact

_HASHED_VALUES_PER_TENSOR = 1024


class ClipEncoder:
    """An open_clip model: images (n, d) and texts (n, d), rows of unit length."""

    def __init__(self, name: str, model: Any, preprocess: Any, tokenizer: Any, device: str) -> None:
        self.name = name
        self.content_hash = _content_hash(model, model.visual.preprocess_cfg)
        self._model = model.eval().requires_grad_(False).to(device)
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._device = device

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, d) features of n pictures."""
        return _unit_rows(images, self._preprocess, self._model.encode_image, self._device)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(n, d) features of n prompts."""
        tokens = self._tokenizer(list(texts)).to(self._device)
        return F.normalize(self._model.encode_text(tokens).float(), dim=-1).cpu()


class DinoEncoder:
    """A self-supervised vision transformer: the class token of n pictures, (n, d), unit rows.

    `score` names what it gives: "dino", or "toyvit" for Toyland's own encoder in DINO's part.
    Source: DreamBooth's protocol: bicubic resize to 256, centre crop 224, ImageNet statistics.
    """

    def __init__(self, name: str, model: Any, image_size: int, device: str) -> None:
        from torchvision import transforms

        self.name = name
        self.content_hash = _content_hash(model, image_size)
        self.score = "toyvit" if name == TOYLAND else "dino"
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self._preprocess = transforms.Compose(
            [
                transforms.Resize(
                    round(image_size * 256 / 224),
                    interpolation=transforms.InterpolationMode.BICUBIC,
                ),
                transforms.CenterCrop(image_size),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, d) features of n pictures."""
        rgb = [image.convert("RGB") for image in images]
        return _unit_rows(rgb, self._preprocess, self._class_tokens, self._device)

    def _class_tokens(self, pixels: Tensor) -> Tensor:
        output = self._model(pixels)
        return output if isinstance(output, Tensor) else output.last_hidden_state[:, 0]


def _unit_rows(
    images: Sequence[Image.Image],
    preprocess: Callable[[Image.Image], Tensor],
    encode: Callable[[Tensor], Tensor],
    device: str,
) -> Tensor:
    """Rows of unit length, on the CPU, for pictures; fewer at once where memory is short."""
    pixels = torch.stack([preprocess(image) for image in images])
    features = in_parts(lambda some: encode(pixels[some].to(device)), len(pixels), len(pixels))
    return F.normalize(torch.cat(features).float(), dim=-1).cpu()


def load_clip(source: str, *, device: str = "cpu") -> ClipEncoder:
    """Load the open_clip model that scores prompts and subjects.

    Args:
        source: "toyland", a folder with open_clip_config.json, or "MODEL:PRETRAINED" as open_clip
            names them ("ViT-B-32:openai"; PRETRAINED may be a weights file, which does not say its
            activation: "ViT-B-32-quickgelu:FILE" where it is QuickGELU).
    Raises: KronaError if the model is unknown or its weights cannot be read.
    """
    import open_clip

    check_clip(source, open_clip.list_models())
    folder = intact(SCORER) if source == TOYLAND else Path(source)
    model_name, _, pretrained = source.partition(":")
    if folder.is_dir():
        name, settings = f"local-dir:{folder}", {}
    else:
        name, settings = model_name, clip_settings(model_name, pretrained or "openai")
    try:
        model, preprocess = open_clip.create_model_from_pretrained(name, **settings)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:
        raise KronaError(
            f"scorer '{source}' cannot be loaded: {error}. "
            "Without a hub, give a local folder: --scorer path/to/open_clip_folder"
        ) from error
    return ClipEncoder(source, model, preprocess, tokenizer, device)


def clip_settings(model_name: str, pretrained: str) -> dict[str, Any]:
    """What open_clip is told beside a model's name, to build it as its weights were trained.

    open_clip 3.3 takes mean, std, interpolation and resizing from the weights' tag and the size
    from the model; where the tag wants QuickGELU and the model has GELU, it only warns. A model
    with QuickGELU keeps it where the tag is silent (roberta-ViT-B-32), and open_clip's warning is
    passed on.
    """
    import open_clip

    tag = open_clip.get_pretrained_cfg(model_name, pretrained)
    twin = f"{model_name}-quickgelu"
    if not tag and Path(pretrained).is_file() and twin in open_clip.list_models():
        warnings.warn(
            f"{pretrained} does not say its activation, so {model_name} has GELU; if it was "
            f"trained with QuickGELU, as OpenAI's weights were, give {twin}:{pretrained}",
            stacklevel=3,
        )
    return {"pretrained": pretrained, "force_quick_gelu": tag.get("quick_gelu", False)}


def load_dino(source: str, *, device: str = "cpu") -> DinoEncoder:
    """Load the DINO encoder of the subject score.

    Args:
        source: "toyland", a folder or hub name for transformers ("facebook/dino-vits16"), or
            "timm:NAME" ("timm:vit_small_patch16_224.dino").
    Raises: KronaError if its weights cannot be read, or some are missing.
    """
    check_dino(source)
    folder = intact(ENCODER) if source == TOYLAND else source
    try:
        if source.startswith("timm:"):
            import timm

            model = timm.create_model(source.removeprefix("timm:"), pretrained=True, num_classes=0)
            return DinoEncoder(source, model, model.default_cfg["input_size"][-1], device)
        from transformers import AutoModel

        with quiet_loaders():
            model, loaded = AutoModel.from_pretrained(
                folder, output_loading_info=True, ignore_mismatched_sizes=True
            )
        if hasattr(model, "pooler"):
            model.pooler = None  # not read, and random where the weights lack it
        check_weights(loaded, model, source, unread=("pooler.",))
        return DinoEncoder(source, model, int(model.config.image_size), device)
    except Exception as error:
        raise KronaError(
            f"DINO encoder '{source}' cannot be loaded: {error}. "
            "Give a local transformers folder or leave --dino out"
        ) from error


def _content_hash(model: nn.Module, preprocessing: object) -> str:
    """Hash what a model computes with: kinds of modules, preprocessing, names and shapes of tensors
    and some values from the middle of each.
    """
    kinds = [(name, type(module).__name__) for name, module in model.named_modules()]
    digest = hashlib.sha256(f"{kinds} {preprocessing}".encode())
    for name, tensor in model.state_dict().items():
        middle = tensor.flatten()[tensor.numel() // 2 :][:_HASHED_VALUES_PER_TENSOR]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(middle.float().cpu().numpy().tobytes())
    return digest.hexdigest()
