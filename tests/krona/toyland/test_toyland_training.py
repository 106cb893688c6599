"""Toyland's training parts: tokens, schedule, timesteps, the loop's resumption, the AUC."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor, nn

from krona.toyland import world
from krona.toyland.embedded import CHECKPOINT
from krona.toyland.measure import area_under_curve
from krona.toyland.optimizers import as_matrix, build_optimizers
from krona.toyland.pairs import subject_loss
from krona.toyland.pipeline import build_unet
from krona.toyland.schedule import warmup_stable_decay
from krona.toyland.tokenizer import build_tokenizer, make_tokenizer, train_merges
from krona.toyland.train import Train
from krona.toyland.train_autoencoder import latent_penalty
from krona.toyland.train_base import BaseTask, draw_timesteps
from krona.toyland.trainer import Trainer, TrainerConfig


def test_every_caption_word_is_one_token() -> None:
    tokenizer = build_tokenizer()
    # CLIP's own splitting parts digits from letters, so "3d" is "3" and "d".
    split = {word: tokenizer.tokenize(word) for word in world.vocabulary() if word != "3d"}
    assert {word for word, pieces in split.items() if len(pieces) != 1} == set()
    assert "sks" in split


def test_merges_by_hand() -> None:
    # "ab" and "abc" share no pair, for a word's last letter is a piece of its own.
    assert train_merges(["ab", "abc"]) == [("a", "b"), ("a", "b</w>"), ("ab", "c</w>")]


def test_a_new_tokenizer_repeats_itself_and_keeps_words_whole() -> None:
    first, again = (make_tokenizer(["cat", "car", "carrot"]) for _ in range(2))
    assert first.get_vocab() == again.get_vocab()
    assert first.tokenize("carrot car cat") == ["carrot</w>", "car</w>", "cat</w>"]


def test_an_unknown_word_falls_into_letters() -> None:
    assert build_tokenizer().tokenize("zyx") == ["z", "y", "x</w>"]


def test_the_end_token_has_the_highest_id_and_pads() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("a dog", padding="max_length").input_ids
    assert len(ids) == 24
    assert max(ids) == tokenizer.eos_token_id == len(tokenizer) - 1
    assert ids[3:] == [tokenizer.eos_token_id] * 21


def test_the_longest_prompt_fits() -> None:
    tokenizer = build_tokenizer()
    noun = max(
        (thing.name for thing in world.OBJECTS), key=lambda name: len(tokenizer.tokenize(name))
    )
    lengths = [
        len(tokenizer(world.phrase(noun=noun, place=place, color="red", style="3d")).input_ids)
        for place in world.PLACES
    ]
    assert max(lengths) <= 24


def test_the_schedule_rises_stays_and_falls() -> None:
    share = warmup_stable_decay(warmup=10, steps=100, decay_frac=0.2)
    told = [share(step) for step in (0, 9, 50, 80, 90, 99)]
    assert told == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.05])


def test_the_schedule_before_the_fall_does_not_depend_on_the_steps() -> None:
    short, long = (warmup_stable_decay(warmup=10, steps=steps) for steps in (100, 1000))
    assert [short(step) for step in range(80)] == [long(step) for step in range(80)]


def test_half_the_timesteps_lie_where_shape_is_decided() -> None:
    drawn = draw_timesteps(20_000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    middle = ((drawn > 400) & (drawn < 850)).float().mean().item()
    assert middle == pytest.approx(0.53, abs=0.05)


def test_the_latent_penalty_is_zero_at_zero_mean_and_unit_deviation() -> None:
    values = torch.tensor([-1.0, 1.0]) * (1 / 2**0.5)
    latents = values.view(2, 1, 1, 1)
    assert latent_penalty(latents).item() == pytest.approx(0, abs=1e-6)
    assert latent_penalty(latents + 2).item() == pytest.approx(4, abs=1e-5)


def test_the_subject_loss_is_small_when_partners_agree() -> None:
    partners = torch.eye(4).repeat_interleave(2, 0)
    strangers = torch.eye(8)
    assert subject_loss(partners) < 0.01 < subject_loss(strangers)


def test_the_auc_counts_ordered_pairs() -> None:
    scores, is_positive = np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False])
    assert area_under_curve(scores, is_positive) == pytest.approx(3 / 4)


def train_line(folder: Path, steps: int, until: int | None = None) -> Tensor:
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    config = TrainerConfig(steps=until or steps, state_path=folder / "state.pt", ema_decay=0.9)
    trainer = Trainer(config=config, modules={"line": model}, optimizers=[optimizer])
    x = torch.linspace(-1, 1, 8)[:, None]
    share = warmup_stable_decay(warmup=2, steps=steps)
    trainer.loop(lambda: (((model(x) - 3 * x) ** 2).mean(), {}), share)
    return model.weight.detach().clone()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train_line(tmp_path / "whole", 12)
    train_line(tmp_path / "parts", 12, until=5)
    assert torch.equal(train_line(tmp_path / "parts", 12), whole)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    config = TrainerConfig(steps=3, state_path=tmp_path / "state.pt")
    trainer = Trainer(config=config, modules={"line": model}, optimizers=[optimizer])
    with pytest.raises(FloatingPointError, match="at step 0"):
        trainer.loop(lambda: (model.weight.sum() * float("nan"), {}), lambda step: 1.0)


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="base_steps=0"):
        Train(base_steps=0)


def test_a_start_is_the_weights_of_its_folder_and_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="it has no unet/"):
        Train(init=tmp_path)
    vae = AutoencoderTiny.from_pretrained(CHECKPOINT / "vae")
    task = BaseTask(seed=0, batch=1, device=torch.device("cpu"), init=CHECKPOINT)
    parts = task.untrained(vae)
    kept = load_file(CHECKPOINT / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in parts.unet.state_dict().items())


def test_every_parameter_belongs_to_one_optimizer_and_hidden_convolutions_to_muon() -> None:
    unet = build_unet().to(memory_format=torch.channels_last)
    muon, adamw = build_optimizers([unet], lr=1e-3, weight_decay=0.0)
    sizes = [
        sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        for optimizer in (muon, adamw)
    ]
    assert sum(sizes) == sum(p.numel() for p in unet.parameters())
    assert sizes[0] > 20 * sizes[1]


def test_muon_moves_a_convolution_by_its_orthogonalised_gradient() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    muon, _ = build_optimizers([conv], lr=0.1, weight_decay=0.0)
    before = conv.weight.detach().clone()
    conv.weight.grad = torch.randn_like(conv.weight)
    gradient = as_matrix(conv.weight.grad)
    muon.step()
    moved = as_matrix(before - conv.weight.detach()) / (0.1 * 0.2 * 36**0.5)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    # Newton and Schulz's five steps bring every singular value near one, not to it.
    singular = torch.diagonal(left.T @ moved @ right.T)
    assert bool(((singular > 0.6) & (singular < 1.3)).all()), singular
