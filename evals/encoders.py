"""Image and text encoders: pictures and prompts in, unit-length feature rows out.

One small class for each backbone; the scores are pure functions of what they return.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from krona.errors import KronaError
from krona.quiet import quiet_loaders
from krona.toyland import ENCODER, SCORER, intact

TOYLAND = "toyland"
_HASHED_VALUES_PER_TENSOR = 1024


class ClipEncoder:
    """An open_clip model: images (n, d) and texts (n, d), rows of unit length."""

    def __init__(self, name: str, model: Any, preprocess: Any, tokenizer: Any, device: str) -> None:
        self.name = name
        self.content_hash = _content_hash(model)
        self._model = model.eval().requires_grad_(False).to(device)
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._device = device

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, d) features of n pictures."""
        pixels = torch.stack([self._preprocess(image) for image in images]).to(self._device)
        return F.normalize(self._model.encode_image(pixels).float(), dim=-1).cpu()

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
        self.content_hash = _content_hash(model)
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
        pixels = torch.stack([self._preprocess(image.convert("RGB")) for image in images])
        output = self._model(pixels.to(self._device))
        tokens = output if isinstance(output, Tensor) else output.last_hidden_state[:, 0]
        return F.normalize(tokens.float(), dim=-1).cpu()


def load_clip(source: str, *, device: str = "cpu") -> ClipEncoder:
    """Load the open_clip model that scores prompts and subjects.

    Args:
        source: "toyland", a folder with open_clip_config.json, or "MODEL:PRETRAINED" as open_clip
            names them ("ViT-B-32:openai"; PRETRAINED may be a weights file).
    Raises: KronaError if the model is unknown or its weights cannot be read.
    """
    import open_clip

    if source == TOYLAND:
        folder: Path | None = intact(SCORER)
    else:
        folder = Path(source) if Path(source).is_dir() else None
    if folder is None and source.partition(":")[0] not in open_clip.list_models():
        raise KronaError(
            f"scorer '{source}' is neither 'toyland', a folder with open_clip_config.json, "
            "nor one of open_clip's models; 'ViT-B-32:openai' is the usual choice"
        )
    model_name, _, pretrained = source.partition(":")
    name = f"local-dir:{folder}" if folder else model_name
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=None if folder else (pretrained or "openai")
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:
        raise KronaError(
            f"scorer '{source}' cannot be loaded: {error}. "
            "Without a hub, give a local folder: --scorer path/to/open_clip_folder"
        ) from error
    return ClipEncoder(source, model, preprocess, tokenizer, device)


def load_dino(source: str, *, device: str = "cpu") -> DinoEncoder:
    """Load the DINO encoder of the subject score.

    Args:
        source: "toyland", a folder or hub name for transformers ("facebook/dino-vits16"), or
            "timm:NAME" ("timm:vit_small_patch16_224.dino").
    Raises: KronaError if its weights cannot be read.
    """
    folder = intact(ENCODER) if source == TOYLAND else source
    try:
        if source.startswith("timm:"):
            import timm

            model = timm.create_model(source.removeprefix("timm:"), pretrained=True, num_classes=0)
            return DinoEncoder(source, model, model.default_cfg["input_size"][-1], device)
        from transformers import AutoModel

        with quiet_loaders():
            model = AutoModel.from_pretrained(folder)
        if hasattr(model, "pooler"):
            model.pooler = None  # not read, and random where the weights lack it
        return DinoEncoder(source, model, int(model.config.image_size), device)
    except Exception as error:
        raise KronaError(
            f"DINO encoder '{source}' cannot be loaded: {error}. "
            "Give a local transformers folder or leave --dino out"
        ) from error


def _content_hash(model: nn.Module) -> str:
    """Hash a model's tensors: names, shapes, and some values from the middle of each."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        middle = tensor.flatten()[tensor.numel() // 2 :][:_HASHED_VALUES_PER_TENSOR]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(middle.float().cpu().numpy().tobytes())
    return digest.hexdigest()
