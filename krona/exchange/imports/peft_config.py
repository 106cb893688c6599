"""A PEFT config and a layer's path in; the layer's alpha or rank out, or what is damaged."""

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from krona.errors import KronaError

_DEFAULT = 8.0  # PEFT's own, of all three
_PATTERNS = {"alpha": "alpha_pattern", "lora_alpha": "alpha_pattern", "r": "rank_pattern"}

_METADATA_KEY = "lora_adapter_metadata"  # diffusers' own


def config_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The config that diffusers puts into a file's metadata; empty where it has not."""
    try:
        return dict(json.loads(metadata.get(_METADATA_KEY, "{}")))
    except (ValueError, TypeError) as error:
        raise KronaError(f"the {_METADATA_KEY} of its metadata is damaged: {error}") from error


def of_part(part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of "unet" or a text encoder; without prefixes, all are the UNet's."""
    own = {k.removeprefix(f"{part}."): v for k, v in config.items() if k.startswith(f"{part}.")}
    return own or (dict(config) if part == "unet" and "peft_type" in config else {})


def setting(path: str, config: Mapping[str, Any], name: str) -> float:
    """alpha, lora_alpha or r of a layer, which a pattern (the end of its path) may set apart.

    Raises: KronaError where it is no finite number.
    """
    try:
        value = _value(path, config, name)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise KronaError(f"the config's {name} or {_PATTERNS[name]} is damaged: {error}") from error
    if not isfinite(value):
        raise KronaError(f"the config's {name} of {path} is {value}, which is not finite")
    return value


def _value(path: str, config: Mapping[str, Any], name: str) -> float:
    patterns = config.get(_PATTERNS[name]) or {}
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", path):
            return float(value)
    return float(config.get(name, _DEFAULT))
