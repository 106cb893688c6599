"""An adapter of any readable kind and a base in; the adapter on the base, and its origin, out.

Kinds: krona's own file, LoKr and LoRA in kohya's, LyCORIS', PEFT's or diffusers' form, and the
checkpoints of DiffuseKronA's published code. Nothing is unpickled, a number that is not finite is
refused, and a base is changed only once all fits.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from krona.adapter.inject import Adapter, inject, inject_layers
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.adapter_file import METADATA_KEY, Manifest, load_adapter
from krona.exchange.formats.names import MANIFEST_KEY
from krona.exchange.formats.peft_folder import CONFIG, WEIGHTS
from krona.exchange.imports import kohya_lokr, lora, peft_lokr, published
from krona.exchange.imports.peft_config import config_in
from krona.exchange.origin import Origin
from krona.storage.tensors import check_finite, read_safetensors


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """What a file holds: its origin, and what puts it on a base."""

    origin: Origin
    inject: Callable[[Base], Adapter]


def read_origin(path: Path) -> Origin:
    """What a file or PEFT folder says of where it comes from.

    Raises: KronaError for a missing, truncated, pickled or foreign file. Nothing is unpickled.
    """
    return _read(path).origin


def attach(base: Base, path: Path, *, is_any_base: bool = False) -> Adapter:
    """Inject the adapter of a file or PEFT folder into `base` with its trained weights.

    Args:
        is_any_base: accept another base than the one it was trained on, if the shapes fit.
    Raises: KronaError as read_origin(), and where the adapter does not fit; base is as before.
    """
    contents = _read(path)
    manifest = contents.origin.manifest
    if manifest is not None:
        _check_base(path, manifest, base, is_any_base=is_any_base)
    try:
        return contents.inject(base)
    except KronaError as error:
        trained = f" (it was trained on {manifest.base_model})" if manifest else ""
        raise KronaError(f"{path} does not fit {base.source}{trained}: {error}") from error


def _check_base(path: Path, manifest: Manifest, base: Base, *, is_any_base: bool) -> None:
    if manifest.family != base.family:
        raise KronaError(f"{path} is for a {manifest.family} base; {base.source} is {base.family}")
    if manifest.base_hash != base.content_hash and not is_any_base:
        raise KronaError(
            f"{path} was trained on {manifest.base_model}, whose weights have the hash "
            f"{manifest.base_hash[:12]}; {base.source} has {base.content_hash[:12]}. Give the base "
            "it was trained on (--base), or take this one all the same (--any-base)"
        )


def _read(path: Path) -> _Contents:
    if path.is_dir() or (path.name == WEIGHTS and (path.parent / CONFIG).is_file()):
        return _read_peft(path if path.is_dir() else path.parent)
    tensors, metadata = read_safetensors(path)
    if METADATA_KEY in metadata:
        return _read_own(path)
    for reader in (kohya_lokr, peft_lokr, published, lora):
        if reader.reads(tensors):
            check_finite(path, tensors)
            return _foreign(reader, tensors, _origin(path, metadata), config_in(metadata))
    some = ", ".join(list(tensors)[:2]) or "no tensors"
    raise KronaError(
        f"{path} is no adapter that krona reads, and holds {some}; it reads its own files, LoRA "
        "and LoKr in kohya, LyCORIS, PEFT or diffusers form, and checkpoints of DiffuseKronA"
    )


def _read_own(path: Path) -> _Contents:
    state, manifest = load_adapter(path)

    def put(base: Base) -> Adapter:
        adapter = inject(base.network, manifest.config, seed=0)
        try:
            adapter.load_state_dict(state)
        except BaseException:
            adapter.eject()
            raise
        return adapter

    return _Contents(origin=Origin.of(manifest), inject=put)


def _foreign(
    reader: Any, tensors: Mapping[str, Tensor], origin: Origin, config: Mapping[str, Any]
) -> _Contents:
    def put(base: Base) -> Adapter:
        return inject_layers(base.network, reader.layers(tensors, base, config))

    return _Contents(origin=origin, inject=put)


def _read_peft(folder: Path) -> _Contents:
    if not (folder / CONFIG).is_file():
        raise KronaError(f"{folder} is no PEFT folder: it has no {CONFIG}; give an adapter's file")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except (ValueError, AttributeError) as error:
        raise KronaError(f"{folder / CONFIG} is damaged: {error}") from error
    if kind not in ("LOKR", "LORA"):
        raise KronaError(f"{folder} holds a PEFT adapter of type {kind}; krona reads LORA and LOKR")
    if not (folder / WEIGHTS).is_file() and list(folder.glob("*.bin")):
        raise KronaError(f"{folder} holds a pickle, which is never opened; give {WEIGHTS}")
    tensors, metadata = read_safetensors(folder / WEIGHTS)
    check_finite(folder / WEIGHTS, tensors)
    reader = lora if kind == "LORA" else peft_lokr
    return _foreign(reader, tensors, _origin(folder, metadata), config)


def _origin(path: Path, metadata: Mapping[str, str]) -> Origin:
    if MANIFEST_KEY in metadata:
        try:
            return Origin.of(Manifest.from_json(metadata[MANIFEST_KEY]))
        except KronaError as error:
            raise KronaError(f"{path}: {error}") from error
    phrase = metadata.get("modelspec.trigger_phrase") or None
    return Origin(name=path.resolve().stem, trigger_phrase=phrase)
