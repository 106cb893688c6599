"""A checkpoint in; out, an adapter after a few steps: training alone, without scores.

Random weights draw noise, of which no scorer can tell good from bad, so `krona train` refuses them.
Run: python benchmarks/train_alone.py BASE OUTPUT [--help]
"""

from pathlib import Path

import tyro

from krona.adapter.inject import make_adapter
from krona.adapter.layers import AdapterConfig
from krona.base.arithmetic import DTYPES, Precision
from krona.base.checkpoint import load_base
from krona.exchange.adapter_file import Manifest, save_adapter
from krona.storage.cache import Cache, default_cache_dir
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from krona.train.config import TrainConfig
from krona.train.data import prepare_data
from krona.train.loop import train
from krona.train.state import TrainState


def main(
    base: tyro.conf.Positional[str],
    output: tyro.conf.Positional[Path],
    *,
    resolution: int = 128,
    precision: Precision = "fp32",
    steps: int = 2,
) -> None:
    """Train on one of Toyland's subjects, one image a step, and save the adapter."""
    loaded = load_base(base, dtype=DTYPES[precision])
    subject = load_subject("duck")
    photos = load_photos(subject.photos_dir, resolution=resolution)
    adapter_config = AdapterConfig(factors=(64, 8))
    config = TrainConfig(adapter=adapter_config, steps=steps, batch_size=1, resolution=resolution)
    data = prepare_data(loaded, subject, photos, config, Cache(default_cache_dir()))
    adapter = make_adapter(loaded.network, adapter_config, seed=0)
    for record in train(loaded, data, TrainState(adapter, config), config):
        print(record)
    manifest = Manifest(
        config=adapter_config,
        base_model=loaded.source,
        base_hash=loaded.content_hash,
        family=loaded.family,
        prediction_type=loaded.prediction_type,
        subject=subject.name,
        class_noun=subject.class_noun,
        identifier=subject.identifier,
        prompts=subject.prompts,
        steps=steps,
        seed=0,
        learning_rate=config.learning_rate,
    )
    save_adapter(output, adapter.state_dict(), manifest)


if __name__ == "__main__":
    tyro.cli(main)
