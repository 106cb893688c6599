"""The self-supervised image encoder: a transformers ViT that plays DINO's part in Toyland."""

from pathlib import Path

from transformers import ViTConfig, ViTModel

IMAGE_PX = 64
WIDTH = 128


def build_encoder() -> ViTModel:
    """Return an untrained vision transformer of 1.2 M parameters on 64 px pictures."""
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        image_size=IMAGE_PX,
        patch_size=8,
    )
    return ViTModel(config, add_pooling_layer=False)


def save_encoder(model: ViTModel, folder: Path) -> None:
    """Write config and float16 weights, as transformers' AutoModel loads them."""
    copy = build_encoder()
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)
