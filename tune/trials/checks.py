"""What a command is told to use, tried before it loads anything: nothing heavy is imported."""

import os
import warnings
from pathlib import Path

from evals.sources import check_clip, check_dino
from krona.base.families import check_components, pipeline_family
from krona.base.hub_files import VAE
from krona.base.original_config import check_autoencoder, describe
from krona.base.source import BaseSource
from krona.errors import KronaError
from krona.subject.pictures import list_photos
from krona.subject.subject import load_subject
from tune.config.trial import ExperimentConfig


def check_folder(folder: Path, option: str) -> None:
    """Raise KronaError unless `folder` can be written to, or made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise KronaError(f"{option} {folder}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise KronaError(f"{option} {folder}: {there} cannot be written to; name another folder")


def check_experiment(config: ExperimentConfig) -> None:
    """Raise KronaError for a base, a subject, photos or an encoder that are not there.

    Captions and crops are checked; what is in the others is read when they are loaded. A hub's base
    is fetched, once the rest is well.
    """
    subject = load_subject(
        config.subject_name,
        photos=config.photos,
        class_noun=config.class_noun,
        identifier=config.identifier,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when the photos are read
        for photo in list_photos(subject.photos_dir):
            subject.caption(photo.said)
    check_clip(config.clip_source)
    if config.dino_source:
        check_dino(config.dino_source)
    _check_base(config.source)


def _check_base(source: BaseSource) -> None:
    path, vae = source.locate(), source.locate_vae()
    if path.is_dir():
        check_components(path, pipeline_family(path), without=() if vae is None else (VAE,))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when the base is loaded
        describe(path, source.config)
    check_autoencoder(path, vae)
