"""An export and what is known of it in; its model card out: README.md in the hub's conventions.

The front matter is the hub's (base_model, tags, instance_prompt, widget); sample images go to
samples/ beside it. A local path is never written: a base is named by its last part and its hash.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from PIL import Image

from krona.base.families import Family
from krona.base.hub import is_hub_id
from krona.errors import KronaError
from krona.exchange.adapter_file import Manifest
from krona.exchange.load_back import Measured
from krona.exchange.origin import Origin
from krona.storage.atomic import write_atomically

CARD = "README.md"
SAMPLES = "samples"
_HUB_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_MADE_BY = "Exported by krona as `{}`."


@dataclass(frozen=True, kw_only=True)
class Showcase:
    """What a card shows beside the facts; all of it may be missing.

    Attributes:
        samples: (prompt, image) pairs.
        scores: name → value, in the order of the table.
    """

    samples: tuple[tuple[str, Image.Image], ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


def check_place(folder: Path, name: str) -> None:
    """Raise if the folder has a README.md or samples/ that are not the export `name`'s card."""
    card = folder / CARD
    if card.exists() and _MADE_BY.format(name) in card.read_text("utf-8", errors="replace"):
        return
    for path in (card, folder / SAMPLES):
        if path.exists():
            raise KronaError(
                f"{path} is not of the model card of {name}, and would be lost; choose another "
                "folder"
            )


def is_sample(path: Path) -> bool:
    """Whether a file in samples/ is named as a card's."""
    return path.suffix == ".png" and path.stem.isdecimal()


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card says.

    Attributes:
        name: of the exported file or folder.
        is_lora: what was written is one.
        usage: Python that loads it.
    """

    name: str
    is_lora: bool
    base_source: str
    base_hash: str
    family: Family
    origin: Origin
    measured: Measured
    usage: str
    showcase: Showcase

    def write(self, folder: Path) -> None:
        """Write README.md, and samples/ if there are any, in the place of an earlier card."""
        images = [f"{SAMPLES}/{i:02d}.png" for i in range(len(self.showcase.samples))]
        # the card comes first: samples/ without it would not be known as its own
        write_atomically(folder / CARD, self._text(images).encode())
        for earlier in filter(is_sample, (folder / SAMPLES).glob("*")):
            earlier.unlink()
        for image_path, (_, image) in zip(images, self.showcase.samples, strict=True):
            (folder / image_path).parent.mkdir(exist_ok=True)
            image.save(folder / image_path)

    def _text(self, images: Sequence[str]) -> str:
        manifest, scores = self.origin.manifest, self.showcase.scores
        parts = [
            f"---\n{self._front_matter(images)}---\n\n# {self.origin.name}\n",
            self._introduction(),
            "<Gallery />\n" if images else "",
            f"## Use\n\n```python\n{self.usage}\n```\n",
            _table("Scores", {k: f"{v:.3f}" for k, v in scores.items()}) if scores else "",
            _table("Training", _training(manifest)) if manifest else "",
            _table("Export", {k: v for k, v in asdict(self.measured).items() if v is not None}),
        ]
        return "\n".join(filter(None, parts))

    def _front_matter(self, images: Sequence[str]) -> str:
        format = self.measured.format
        is_merged = format.startswith("merged")
        kind = [] if is_merged else ["lora" if self.is_lora else "lokr", "template:sd-lora"]
        architecture = "stable-diffusion-xl" if self.family == "sdxl" else "stable-diffusion"
        prompts = [prompt for prompt, _ in self.showcase.samples]
        widget = [
            {"text": text, "output": {"url": url}}
            for text, url in zip(prompts, images, strict=True)
        ]
        data = ModelCardData(
            base_model=base_name(self.base_source),
            library_name="peft" if format == "peft" else "diffusers",
            pipeline_tag="text-to-image",
            tags=["text-to-image", "diffusers", architecture, "dreambooth", "krona", *kind],
            base_model_relation="finetune" if is_merged else "adapter",
            instance_prompt=self.origin.trigger_phrase,
            widget=widget or None,
            **_license(self.base_source),
        )
        return f"{data.to_yaml()}\n"

    def _introduction(self) -> str:
        trigger = self.origin.trigger_phrase
        said = f" Prompts call it `{trigger}`." if trigger else ""
        return (
            f"A DreamBooth adapter of {base_name(self.base_source)}, weights "
            f"{self.base_hash[:12]}.{said} {_MADE_BY.format(self.name)}\n"
        )


def _license(base_source: str) -> dict[str, Any]:
    """The licence in the hub's terms: that of the base, which the adapter was made from."""
    name = base_name(base_source)
    if name == "toyland":
        return {"license": "apache-2.0"}
    link = {"license_link": f"https://huggingface.co/{name}"} if "/" in name else {}
    return {"license": "other", "license_name": "that-of-the-base-model"} | link


def base_name(source: str) -> str:
    """What the hub calls a checkpoint: an id where it is one or the path has it, else its end."""
    if cached := _HUB_CACHE.search(source):
        return f"{cached[1]}/{cached[2]}"
    if is_hub_id(source) and "@" in source:  # without a commit it may be a path
        return source.partition("@")[0]
    return Path(source).name.removesuffix(".safetensors")


def _training(manifest: Manifest) -> dict[str, Any]:
    config = manifest.config
    shape = {"rank": config.rank} if config.kind == "lora" else {"factors (a1, a2)": config.factors}
    return {
        "adapter": config.kind,
        **shape,
        "layers": f"attention {', '.join(config.targets)}",
        "learning rate": manifest.learning_rate,
        "steps": manifest.steps,
        "seed": manifest.seed,
        "versions": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
    }


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in values.items())
    return f"## {title}\n\n| | |\n|---|---|\n{rows}\n"
