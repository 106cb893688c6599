"""Scores against numbers worked by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from evals.balance import Anchors, Scale, balance, harmonic_mean
from evals.protocol import Protocol
from evals.scorer import Scorer
from evals.scores import (
    mismatched_fidelity,
    pairwise_similarity,
    prompt_fidelity,
    subject_fidelity,
    summarize,
)
from krona.errors import KronaError
from krona.subject.subject import Subject

X = torch.tensor([1.0, 0.0])
Y = torch.tensor([0.0, 1.0])
DIAGONAL = torch.tensor([math.sqrt(0.5), math.sqrt(0.5)])


def test_standard_error_is_over_images() -> None:
    score = summarize(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert score.mean == 2.5
    assert score.se == pytest.approx(math.sqrt(5 / 3) / 2)
    assert score.n == 4


def test_one_image_has_no_standard_error() -> None:
    assert summarize(torch.tensor([0.3])).se == 0.0


def test_clip_t_pairs_each_image_with_its_own_prompt() -> None:
    values = prompt_fidelity(torch.stack([X, Y]), torch.stack([X, DIAGONAL]))
    assert values.tolist() == pytest.approx([1, math.sqrt(0.5)])


def test_subject_fidelity_averages_the_pairs_of_an_image() -> None:
    values = subject_fidelity(torch.stack([X, Y]), torch.stack([X, X, Y]))
    assert values.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_photos_are_compared_with_each_other_but_not_with_themselves() -> None:
    assert pairwise_similarity(torch.stack([X, Y])) == pytest.approx(0.0)
    assert pairwise_similarity(torch.stack([X, X, Y])) == pytest.approx(1 / 3)


def test_mismatched_prompts_leave_out_equal_ones() -> None:
    images = torch.stack([X, X, Y])
    texts = torch.stack([X, X, Y])  # two images share a prompt: they are no mismatch
    assert mismatched_fidelity(images, texts) == pytest.approx(0.0)


def test_balance_is_zero_at_the_base_and_one_at_the_photos() -> None:
    anchors = Anchors(subject={"clip_i": Scale(zero=0.4, one=0.8)}, prompt=Scale(zero=0.1, one=0.3))
    assert balance(anchors, subject={"clip_i": 0.4}, prompt=0.3)["balance"] == 0.0
    assert balance(anchors, subject={"clip_i": 0.8}, prompt=0.3)["balance"] == pytest.approx(1.0)
    assert balance(anchors, subject={"clip_i": 0.6}, prompt=0.2) == pytest.approx(
        {"subject": 0.5, "prompt": 0.5, "balance": 0.5}
    )


def test_balance_averages_the_subject_encoders() -> None:
    anchors = Anchors(
        subject={"clip_i": Scale(zero=0.0, one=1.0), "dino": Scale(zero=0.0, one=0.5)},
        prompt=Scale(zero=0.0, one=1.0),
    )
    values = balance(anchors, subject={"clip_i": 0.2, "dino": 0.2}, prompt=1.0)
    assert values["subject"] == pytest.approx((0.2 + 0.4) / 2)


def test_copying_beyond_the_photos_earns_nothing() -> None:
    anchors = Anchors(subject={"clip_i": Scale(zero=0.0, one=0.5)}, prompt=Scale(zero=0.0, one=1.0))
    copied = balance(anchors, subject={"clip_i": 0.9}, prompt=0.5)
    honest = balance(anchors, subject={"clip_i": 0.5}, prompt=0.5)
    assert copied["balance"] == honest["balance"] == pytest.approx(2 / 3)
    assert copied["subject"] == pytest.approx(1.8)


def test_harmonic_mean_of_nothing_is_nothing() -> None:
    assert harmonic_mean(0.0, 1.0) == 0.0
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.25, 0.75) == pytest.approx(0.375)


def test_what_is_no_number_gives_no_balance() -> None:
    assert math.isnan(harmonic_mean(math.nan, 0.5))


def test_anchors_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(KronaError, match=r"upper anchor 0\.300 is not above its lower anchor 0\.5"):
        Scale(zero=0.5, one=0.3)


def test_a_single_prompt_is_refused_since_it_has_no_other_to_be_compared_with() -> None:
    none: Any = None
    subject = Subject(
        name="rex",
        class_noun="dog",
        identifier="sks",
        prompts=("a {} in the snow", "a {} in the snow"),
        photos_dir=Path(),
    )
    with pytest.raises(KronaError, match=r"'rex' has one prompt, 'a \{\} in the snow'; .* or more"):
        Scorer(none, subject, none, clip=none, protocol=Protocol(), cache=none)
