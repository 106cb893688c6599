"""What a user names a base by in; where it lies out, fetched from a hub where it is named so."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from krona.base.hub import fetch, hub_name, is_hub_id
from krona.base.hub_files import (
    VAE,
    Choose,
    autoencoder_config,
    autoencoder_files,
    config_files,
    pipeline_files,
)
from krona.errors import KronaError
from krona.toyland.embedded import CHECKPOINT, intact

TOYLAND = "toyland"
_COMMIT = re.compile(r"[0-9a-f]{40}")
PUBLISHED = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "stabilityai/stable-diffusion-2-1",
    "sd21-base": "stabilityai/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
"""What krona calls the original checkpoints → where hubs have them."""


@dataclass(frozen=True, kw_only=True)
class BaseSource:
    """What a base is loaded from.

    Attributes:
        name: "toyland", a folder in diffusers layout, a single .safetensors file, or a hub's id
            ORG/NAME, ORG/NAME@REVISION.
        vae: an autoencoder instead of its own: a folder, a .safetensors file, or a hub's id.
        config: of a single file alone: a folder in diffusers layout whose configs and tokenizers
            describe it, weights not needed, or the YAML that it was published with. What the file
            says itself, if not given.
    """

    name: str
    vae: str | None = None
    config: Path | None = None

    @classmethod
    def of(cls, base: "str | Path | BaseSource") -> "BaseSource":
        """The source that has nothing but a name, unless it is one."""
        return base if isinstance(base, BaseSource) else cls(name=str(base))

    def __str__(self) -> str:
        return self.name

    def locate(
        self,
        *,
        further: Iterable[str] = (),
        needs_weights: bool = True,
        is_at_hand: bool = False,
    ) -> Path:
        """The file, or the folder, of the base.

        Args:
            further: other names the caller would have taken.
            needs_weights: of a hub's, fetch them too, and not the configs alone.
            is_at_hand: of a hub's, take what was fetched before, and ask nobody.
        Raises: KronaError if there is none, or a config is given that it has no use for.
        """
        choose = pipeline_files if needs_weights else config_files
        path = _locate(self.name, choose, is_at_hand=is_at_hand, further=further)
        if self.config is not None and path.is_dir():
            raise KronaError(
                f"config {self.config} describes a single file, and '{self.name}' is a folder that "
                "has its own; leave --config out"
            )
        return path

    def locate_vae(self, *, needs_weights: bool = True, is_at_hand: bool = False) -> Path | None:
        """The file, or the folder with the config, of the autoencoder that is given.

        Args:
            needs_weights, is_at_hand: as locate() takes them.
        Raises: KronaError if it is not there.
        """
        if self.vae is None:
            return None
        choose = autoencoder_files if needs_weights else autoencoder_config
        path = _locate(self.vae, choose, is_at_hand=is_at_hand)
        if path.is_file() or (path / "config.json").exists():
            return path
        if not (path / VAE / "config.json").exists():
            raise KronaError(
                f"vae '{self.vae}' holds neither config.json nor vae/config.json; give an "
                "autoencoder's folder, a checkpoint's, or a .safetensors file"
            )
        return path / VAE


def told_name(name: str, path: Path) -> str:
    """What a record calls what was found at `path`: a hub's id with its commit, or the name."""
    return hub_name(path) or name


def lasting(source: BaseSource) -> BaseSource:
    """A source that means the same from another folder, and once a hub's branch has moved on."""
    return BaseSource(
        name=_lasting_name(source.name, config_files),
        vae=None if source.vae is None else _lasting_name(source.vae, autoencoder_files),
        config=None if source.config is None else source.config.resolve(),
    )


def _lasting_name(name: str, choose: Choose) -> str:
    path = Path(name).expanduser()
    if name != TOYLAND and path.exists():
        return str(path.resolve())
    if not is_hub_id(name) or _COMMIT.fullmatch(name.rpartition("@")[2]):
        return name
    return told_name(name, fetch(name, choose))


def _locate(
    name: str, choose: Choose, *, is_at_hand: bool = False, further: Iterable[str] = ()
) -> Path:
    if name == TOYLAND:
        return intact(CHECKPOINT)
    path = Path(name).expanduser()
    if not path.exists():
        if not is_hub_id(name):
            raise KronaError(_missing(name, path, further))
        path = fetch(name, choose, is_at_hand=is_at_hand)
    if path.is_file() and path.suffix != ".safetensors":
        raise KronaError(
            f"checkpoint '{name}' is a '{path.suffix}' file; pickled checkpoints can run code, "
            "so they are not opened. Give its .safetensors version"
        )
    return path


def _missing(name: str, path: Path, further: Iterable[str]) -> str:
    """What to give instead of a name that leads nowhere, the nearest first."""
    names = ", ".join(f"'{known}'" for known in (TOYLAND, *further))
    said = (
        f"checkpoint '{name}' does not exist; give {names}, a folder in diffusers layout, "
        f"a .safetensors file, or a hub's id such as {PUBLISHED['sdxl']}"
    )
    if name in PUBLISHED:
        return f"checkpoint '{name}' has configs alone here; its weights are {PUBLISHED[name]}"
    _, is_address, rest = name.partition("://")
    if is_address and is_hub_id(found := "/".join(rest.split("/")[1:3])):
        return f"{said}. Did you mean {found}?"
    beside = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
    close = get_close_matches(path.name, beside, n=1)
    return f"{said}. Did you mean {path.with_name(close[0])}?" if close else said
