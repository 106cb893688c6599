"""The loaders of diffusers and transformers: silent, except where weights do not fit the model."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from krona.errors import KronaError

_NUM_NAMED = 3


@contextmanager
def quiet_loaders() -> Iterator[None]:
    """Keep bars out of the terminal, where a sweep draws its own, and advice to model authors.

    diffusers 0.42 also warns of every autoencoder that is no AutoencoderKL, though it works;
    transformers 5 of an image encoder's missing pooler, though nothing reads it. What they would
    say of weights, check_weights() and unused_weights_told() say.
    """
    loggers = [diffusers_logging, transformers_logging]
    verbosities = [logger.get_verbosity() for logger in loggers]
    shown = [logger for logger in loggers if logger.is_progress_bar_enabled()]
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, verbosity in zip(loggers, verbosities, strict=True):
            logger.set_verbosity(verbosity)
        for logger in shown:
            logger.enable_progress_bar()


def check_weights(
    loaded: Mapping[str, Iterable[Any]],
    model: object,
    source: object,
    *,
    unread: tuple[str, ...] = (),
) -> None:
    """Warn of weights that the model does not take.

    Args:
        loaded: what from_pretrained returns with output_loading_info.
        unread: how the names of weights start that may be missing.
    Raises: KronaError if weights are missing, or of another shape.
    """
    kind = type(model).__name__
    if missing := sorted(name for name in loaded["missing_keys"] if not name.startswith(unread)):
        raise KronaError(f"{source} lacks weights of its {kind}: {_some(missing)}")
    if odd := sorted(
        f"{name} is {tuple(got)}, not {tuple(wanted)}"
        for name, got, wanted in loaded["mismatched_keys"]
    ):
        raise KronaError(f"{source} has weights that do not fit its {kind}: {_some(odd)}")
    if unexpected := sorted(loaded["unexpected_keys"]):
        warnings.warn(
            f"{source} holds weights that its {kind} does not take: {_some(unexpected)}",
            stacklevel=3,
        )


@contextmanager
def unused_weights_told() -> Iterator[None]:
    """Warn of a single file's weights that nothing takes: diffusers 0.42 only logs them."""
    logger = logging.getLogger("diffusers.loaders.single_file_model")
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(_warn_of_weights)
    try:
        yield
    finally:
        logger.removeFilter(_warn_of_weights)
        logger.setLevel(level)


def _warn_of_weights(record: logging.LogRecord) -> bool:
    """Turn a log record about weights into a warning, and drop every record."""
    if (message := record.getMessage()).startswith("Some weights"):
        warnings.warn(message, stacklevel=2)
    return False


def _some(names: list[str]) -> str:
    rest = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
