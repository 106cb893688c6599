"""Silence for the loaders of diffusers and transformers."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_loaders() -> Iterator[None]:
    """Keep bars out of the terminal, where a sweep draws its own, and advice to model authors.

    diffusers 0.42 also warns of every autoencoder that is no AutoencoderKL, though it works;
    transformers 5 of an image encoder's missing pooler, though nothing reads it.
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
