"""Intervals against what sampling theory and thousands of simulated adapters say."""

import numpy as np
import pytest

from evals.interval import Looks, estimate, lead, over_seeds

NUM_PROMPTS = 12


def looks(values: np.ndarray) -> Looks:
    """Images whose subject and prompt are equal, so that the balance is their mean."""
    return Looks(subject=values, prompt=values)


def drawn(generator: np.random.Generator, num: int, spread: float = 0.1) -> np.ndarray:
    """Images around 0.5; each prompt has its own mean."""
    means = np.linspace(0.3, 0.7, NUM_PROMPTS)[:, None]
    return means + spread * generator.standard_normal((NUM_PROMPTS, num))


def test_a_balance_is_of_the_mean_subject_and_prompt():
    found = estimate(
        Looks(subject=np.array([[0.2, 0.4], [0.6, 0.8]]), prompt=np.array([[1.0, 1.0], [1.0, 1.0]]))
    )
    assert (found.subject, found.prompt) == pytest.approx((0.5, 1.0))
    assert found.balance == pytest.approx(2 / 3)
    assert found.num_images == 4


def test_equal_images_leave_no_doubt_but_other_prompts_do():
    found = estimate(looks(np.repeat(np.linspace(0.3, 0.7, NUM_PROMPTS)[:, None], 3, axis=1)))
    assert found.half_width == pytest.approx(0, abs=1e-12)
    assert found.prompts_half_width > 0.05


@pytest.mark.parametrize("num", [2, 8])
def test_half_a_width_is_two_standard_errors_also_of_two_images(num):
    generator = np.random.default_rng(0)
    widths = [estimate(looks(drawn(generator, num))).half_width for _ in range(20)]
    expected = 1.96 * 0.1 / (NUM_PROMPTS * num) ** 0.5
    assert np.mean(widths) == pytest.approx(expected, rel=0.06)


def test_the_interval_holds_the_true_balance_nineteen_times_in_twenty():
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        found = estimate(looks(drawn(generator, 4)))
        held += abs(found.balance - 0.5) <= found.half_width
    assert 180 <= held <= 198


def test_equal_noise_makes_a_lead_surer_than_two_intervals():
    noise = drawn(np.random.default_rng(2), 4)
    by, half_width = lead(looks(noise + 0.02), looks(noise))
    assert (by, half_width) == pytest.approx((0.02, 0.0), abs=1e-9)
    assert estimate(looks(noise)).half_width > 0.02


def test_a_lead_is_over_the_images_that_both_have():
    noise = drawn(np.random.default_rng(3), 4)
    longer = np.concatenate([noise + 0.02, np.zeros((NUM_PROMPTS, 2))], axis=1)
    assert lead(looks(longer), looks(noise))[0] == pytest.approx(0.02)


def test_more_images_are_appended_prompt_by_prompt():
    first, more = looks(np.zeros((2, 2))), looks(np.ones((2, 1)))
    assert first.with_more(more).subject.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert Looks.of(first.lists()).subject.tolist() == [[0, 0], [0, 0]]


def test_the_interval_over_seeds_is_students():
    mean, half_width = over_seeds([0.6, 0.7, 0.8])
    assert mean == pytest.approx(0.7)
    assert half_width == pytest.approx(4.302653 * 0.1 / 3**0.5)
