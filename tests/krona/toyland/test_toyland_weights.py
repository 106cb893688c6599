"""The committed weights: they load the public way and do what the model card says."""

import random
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from krona.errors import KronaError
from krona.toyland import world
from krona.toyland.embedded import CHECKPOINT, ENCODER, SCORER, SUBJECTS, intact, subject_names
from krona.toyland.measure import load_pipeline
from krona.toyland.pipeline import sample
from krona.toyland.scenes import draw
from krona.toyland.scorer import Scorer
from krona.toyland.tokenizer import build_tokenizer
from krona.toyland.train_autoencoder import measure_psnr
from krona.toyland.world import Facts

TOTAL_MB_LIMIT = 48


@pytest.mark.parametrize("folder", [CHECKPOINT, SCORER, ENCODER], ids=lambda path: path.name)
def test_a_damaged_weight_names_the_file_and_the_command_that_rebuilds_it(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(intact(folder), tmp_path / folder.name))
    weights = next(copy.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(KronaError, match=r"safetensors is damaged.*krona\.toyland\.train"):
        intact(copy)


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return load_pipeline(CHECKPOINT)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(SCORER)


def test_all_weights_together_stay_under_48_mb() -> None:
    sizes = [
        path.stat().st_size
        for folder in (CHECKPOINT, SCORER, ENCODER)
        for path in folder.rglob("*.safetensors")
    ]
    assert len(sizes) == 5
    assert sum(sizes) / 1e6 < TOTAL_MB_LIMIT


def test_weights_are_float16_and_finite() -> None:
    for path in CHECKPOINT.rglob("*.safetensors"):
        for name, value in load_file(path).items():
            assert value.dtype in (torch.float16, torch.int64), name
            assert bool(torch.isfinite(value.float()).all()), name


def test_the_checkpoint_samples_finite_pictures_that_follow_the_seed(
    pipe: StableDiffusionPipeline,
) -> None:
    first, again = (sample(pipe, ["a dog in the jungle"], seed=3, steps=4)[0] for _ in range(2))
    assert first.size == (64, 64)
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert np.asarray(first).std() > 10


def test_the_checkpoint_keeps_the_training_noise_schedule(pipe: StableDiffusionPipeline) -> None:
    config = pipe.scheduler.config
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing"
    assert pipe.scheduler.alphas_cumprod[-1].item() == pytest.approx(0, abs=1e-6)
    assert pipe.tokenizer.model_max_length == 24


def test_the_autoencoder_rebuilds_unseen_scenes(pipe: StableDiffusionPipeline) -> None:
    vae: AutoencoderTiny = pipe.vae
    assert measure_psnr(vae, seed=123, num_scenes=24) > 28


def test_latents_have_about_zero_mean_and_unit_deviation(pipe: StableDiffusionPipeline) -> None:
    rng = random.Random(9)
    scenes = np.stack([np.asarray(draw(world.random_facts(rng), rng)) for _ in range(64)])
    with torch.no_grad():
        latents = pipe.vae.encoder(torch.from_numpy(scenes).permute(0, 3, 1, 2) / 127.5 - 1)
    assert latents.mean((0, 2, 3)).abs().max() < 0.25
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.25


def test_checkpoint_and_scorer_use_the_committed_vocabulary(
    pipe: StableDiffusionPipeline, scorer: Scorer
) -> None:
    committed = build_tokenizer().get_vocab()
    assert pipe.tokenizer.get_vocab() == committed
    assert scorer.tokenize.tokenizer.get_vocab() == committed


def test_a_place_asked_for_colors_the_picture(pipe: StableDiffusionPipeline) -> None:
    jungle, snow = sample(pipe, ["a dog in the jungle", "a dog in the snow"], seed=0, steps=10)
    assert np.asarray(snow).mean() > np.asarray(jungle).mean() + 40


def drawn(name: str, place: str, color: str | None = None) -> Image.Image:
    thing = next(thing for thing in world.OBJECTS if thing.name == name)
    return draw(Facts(thing=thing, style="3d", place=place, color=color), random.Random(4))


def test_the_scorer_puts_each_drawn_scene_next_to_its_own_caption(scorer: Scorer) -> None:
    images = [
        drawn("dog", "in the jungle"),
        drawn("car", "on the beach", "blue"),
        drawn("pizza", "on top of a mirror"),
        drawn("dog", "in the snow"),
    ]
    captions = [
        "a dog in the jungle",
        "a blue car on the beach",
        "a pizza on top of a mirror",
        "a dog in the snow",
    ]
    assert scorer.best_texts(images, captions).tolist() == [0, 1, 2, 3]


def test_a_subject_is_nearer_to_itself_than_to_the_others(scorer: Scorer) -> None:
    photos = [
        Image.open(SUBJECTS / name / f"{n}.png") for name in subject_names() for n in range(5)
    ]
    embeds = scorer.images([photo.convert("RGB") for photo in photos])
    likeness = (embeds @ embeds.T).reshape(12, 5, 12, 5).mean((1, 3))
    assert likeness.argmax(1).tolist() == list(range(12))


@pytest.mark.parametrize("name", subject_names())
def test_a_subject_has_five_photos_and_twelve_prompts_of_known_words(name: str) -> None:
    folder = SUBJECTS / name
    told = tomllib.loads((folder / "subject.toml").read_text(encoding="utf-8"))
    assert told["name"] == name
    assert told["identifier"] == "sks"
    assert told["class"] == next(thing.category for thing in world.HELD_OUT if thing.name == name)
    assert len(list(folder.glob("*.png"))) == 5
    assert len(told["prompts"]) == 12
    words = {
        word.lower() for prompt in told["prompts"] for word in prompt.format("sks toy").split()
    }
    assert words <= set(world.vocabulary())
