"""The names of the files of a checkpoint's component in; out, those of them that are read.

diffusers calls weights "diffusion_pytorch_model", transformers "model": in one file or in shards
that an index lists, and perhaps once more in half precision, marked ".fp16".
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?model(\.fp16)?(?:-(\d+)-of-(\d+))?(\.fp16)?\.safetensors"
)
_INDEX = re.compile(r"(?:diffusion_pytorch_)?model\.safetensors\.index(\.fp16)?\.json")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One variant of a component's weights.

    Attributes:
        names: of its files, an index included, sorted.
        is_half: it is the one marked ".fp16".
        is_whole: all of its shards are there.
    """

    names: tuple[str, ...]
    is_half: bool
    is_whole: bool


def choose_weights(names: Iterable[str], *, prefers_half: bool) -> Weights:
    """The variant that is read: the preferred one, or the other where that is not whole."""
    listed = sorted(names)
    variants = [_variant(listed, is_half=half) for half in (prefers_half, not prefers_half)]
    return max(variants, key=lambda variant: (variant.is_whole, bool(variant.names)))


def read_names(names: Iterable[str], *, prefers_half: bool) -> list[str]:
    """What is read of a component: its configs or its vocabulary, and one variant's weights."""
    listed = sorted(names)
    weights = choose_weights(listed, prefers_half=prefers_half).names
    return [name for name in listed if name in weights or is_setting(name)]


def is_setting(name: str) -> bool:
    """Whether a file holds a config or a vocabulary."""
    return name.endswith((".json", ".txt")) and _INDEX.fullmatch(name) is None


def _variant(names: Sequence[str], *, is_half: bool) -> Weights:
    weights = [m for name in names if (m := _WEIGHTS.fullmatch(name)) and _half(m) == is_half]
    if not weights:
        return Weights(names=(), is_half=is_half, is_whole=False)
    indexes = [m for name in names if (m := _INDEX.fullmatch(name)) and bool(m[1]) == is_half]
    shards = [(int(m[3] or 1), int(m[2] or 1)) for m in weights]
    return Weights(
        names=tuple(sorted(m[0] for m in (*weights, *indexes))),
        is_half=is_half,
        is_whole=any(
            len(list(group)) == count for count, group in groupby(sorted(shards), lambda s: s[0])
        ),
    )


def _half(weights: re.Match[str]) -> bool:
    return bool(weights[1] or weights[4])
