"""The names of a hub repository's files in; out, those that a base, a plan or a VAE needs of them.

So neither pickles, other frameworks' weights nor parts that nothing here uses are fetched.
"""

from collections.abc import Callable, Iterable, Sequence

from krona.base.weight_files import Weights, choose_weights, is_setting, read_names
from krona.errors import KronaError

# The names of a repository's files in; those that are fetched out.
Choose = Callable[[Sequence[str]], list[str]]

INDEX = "model_index.json"
VAE = "vae"
_MODELS = ("unet", VAE, "text_encoder", "text_encoder_2")
_FOLDERS = (*_MODELS, "tokenizer", "tokenizer_2", "scheduler")


def pipeline_files(names: Sequence[str]) -> list[str]:
    """Everything a base is loaded from, in half precision where a component has that.

    Raises: KronaError if there is no checkpoint in diffusers layout, or one without weights.
    """
    _check_layout(names)
    for folder in _MODELS:
        if f"{folder}/config.json" in names:
            _check_weights(folder, names)
    return [INDEX, *_of(names, _FOLDERS, _half_first)]


def config_files(names: Sequence[str]) -> list[str]:
    """What a base is planned from: its configs.

    Raises: KronaError if there is no checkpoint in diffusers layout.
    """
    _check_layout(names)
    return [INDEX, *_of(names, _FOLDERS, _settings)]


def autoencoder_files(names: Sequence[str]) -> list[str]:
    """An autoencoder at the top of a repository, or else that of a whole checkpoint.

    Raises: KronaError if there is none, or one without weights.
    """
    (config,) = autoencoder_config(names)
    folder = config.rpartition("/")[0]
    _check_weights(folder, names)
    return [config, *_of(names, (folder,), lambda inside: list(_weights(inside).names))]


def autoencoder_config(names: Sequence[str]) -> list[str]:
    """What an autoencoder is planned from.

    Raises: KronaError if there is none.
    """
    for config in ("config.json", f"{VAE}/config.json"):
        if config in names:
            return [config]
    raise KronaError(f"it holds no autoencoder with a config.json; it has {_some(names)}")


def _check_weights(folder: str, names: Sequence[str]) -> None:
    """Raise KronaError if the weights of a component are not there, or lack shards."""
    inside = _inside(folder, names)
    if not _weights(inside).is_whole:
        raise KronaError(f"{folder or 'it'} has no whole safetensors weights, but {_some(inside)}")


def _check_layout(names: Sequence[str]) -> None:
    if INDEX not in names:
        raise KronaError(
            f"it holds no {INDEX}, so it is no checkpoint in diffusers layout; it has "
            f"{_some(names)}. A single .safetensors file is given by its path, once it is here"
        )


def _of(
    names: Sequence[str], folders: Iterable[str], read: Callable[[list[str]], list[str]]
) -> list[str]:
    """What is read of each folder, by the path in the repository."""
    return [
        f"{folder}/{file}" if folder else file
        for folder in folders
        for file in read(_inside(folder, names))
    ]


def _inside(folder: str, names: Iterable[str]) -> list[str]:
    """The names of the files in a folder; "" is the top."""
    split = (name.rpartition("/") for name in names)
    return [file for parent, _, file in split if parent == folder]


def _weights(names: Sequence[str]) -> Weights:
    return choose_weights(names, prefers_half=True)


def _half_first(names: list[str]) -> list[str]:
    return read_names(names, prefers_half=True)


def _settings(names: list[str]) -> list[str]:
    return [name for name in names if is_setting(name)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "nothing"
