"""The adapter file: factors and a manifest in, one safetensors file out, and back.

The manifest is a JSON string in the file's metadata under the key "krona".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from krona.adapter.layers import AdapterConfig, KronLinear, LoraLinear
from krona.base.source import BaseSource
from krona.errors import KronaError
from krona.storage.tensors import check_finite, read_safetensors, write_safetensors

FORMAT_VERSION = 1
METADATA_KEY = "krona"


def package_versions() -> dict[str, str]:
    """The versions that decide what training computes."""
    return {name: version(name) for name in ("krona-search", "torch", "diffusers", "transformers")}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Where an adapter comes from; everything that inject needs to use it again.

    Attributes:
        config: kind, factors, targets, init and scale.
        base_model: the checkpoint as the user named it, a hub's with its commit.
        base_hash: of its weights.
        base_vae, base_config: what else it was loaded from, as in BaseSource.
        family: "sd" or "sdxl".  prediction_type: "epsilon" or "v_prediction".
        subject, class_noun, identifier: "duck", "toy", "sks": prompts say "a sks toy".
        prompts: templates that the subject is sampled with.
        steps, seed, learning_rate: of the training, as far as it had come.
        balance: of the evaluation that this adapter was kept for; None if it was not scored.
        versions: package → version.
        format_version: of this file format.
    """

    config: AdapterConfig
    base_model: str
    base_hash: str
    family: str
    prediction_type: str
    subject: str
    class_noun: str
    identifier: str
    prompts: tuple[str, ...]
    steps: int
    seed: int
    learning_rate: float
    balance: float | None = None
    base_vae: str | None = None
    base_config: str | None = None
    versions: Mapping[str, str] = field(default_factory=package_versions)
    format_version: int = FORMAT_VERSION

    @property
    def kind(self) -> str:
        return self.config.kind

    @property
    def source(self) -> BaseSource:
        """What the base is loaded from."""
        config = None if self.base_config is None else Path(self.base_config)
        return BaseSource(name=self.base_model, vae=self.base_vae, config=config)

    def to_json(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"kind": self.kind, "config": self.config.to_dict()}
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        try:
            values = json.loads(text)
            if values["format_version"] > FORMAT_VERSION:
                raise KronaError(
                    f"format version {values['format_version']} is newer than this krona's "
                    f"{FORMAT_VERSION}; update krona-search"
                )
            del values["kind"]
            values["config"] = AdapterConfig.from_dict(values["config"])
            values["prompts"] = tuple(values["prompts"])
            manifest = cls(**values)
            _check_texts(manifest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise KronaError(
                f"the manifest is damaged ({type(error).__name__}: {error})"
            ) from error
        return manifest


def _check_texts(manifest: Manifest) -> None:
    """Raise TypeError where a field that is read as text is none."""
    names = ("base_model", "base_hash", "family", "prediction_type", "subject", "class_noun")
    texts = {name: getattr(manifest, name) for name in (*names, "identifier")}
    further = {name: getattr(manifest, name) for name in ("base_vae", "base_config")}
    texts |= {name: value for name, value in further.items() if value is not None}
    for name, value in (*texts.items(), *(("prompts", prompt) for prompt in manifest.prompts)):
        if not isinstance(value, str):
            raise TypeError(f"{name} holds {value!r}, which is no text")


def save_adapter(path: Path, state: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Write an adapter's state and manifest; a reader sees the old file or the whole new one.

    Raises: KronaError if a number is not finite; nothing is written then.
    """
    check_finite(path, state)
    write_safetensors(path, state, {METADATA_KEY: manifest.to_json()})


def load_adapter(path: Path) -> tuple[dict[str, Tensor], Manifest]:
    """Read an adapter's state and manifest.

    Raises: KronaError for a missing, truncated, pickled or foreign file, and for numbers that are
        not finite. Nothing is unpickled.
    """
    tensors, metadata = read_safetensors(path)
    if METADATA_KEY not in metadata:
        some = ", ".join(list(tensors)[:2]) or "no tensors"
        raise KronaError(f"{path} is no krona adapter: it has no krona manifest, and holds {some}")
    try:
        manifest = Manifest.from_json(metadata[METADATA_KEY])
    except KronaError as error:
        raise KronaError(f"{path}: {error}") from error
    _check_pairs(path, tensors, manifest)
    check_finite(path, tensors)
    return tensors, manifest


def _check_pairs(path: Path, tensors: Mapping[str, Tensor], manifest: Manifest) -> None:
    names = (KronLinear if manifest.kind == "krona" else LoraLinear).factor_names
    layers = {name.rpartition(".")[0] for name in tensors}
    expected = {f"{layer}.{name}" for layer in layers for name in names}
    if not tensors or expected != set(tensors):
        odd = min(expected ^ set(tensors), default="no tensors")
        raise KronaError(f"{path} does not hold whole {' and '.join(names)} pairs: {odd}")
