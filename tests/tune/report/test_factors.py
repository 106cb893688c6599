"""The math of a champion's factors, by numbers worked by hand and against torch.kron."""

import pytest
import torch

from krona.base.checkpoint import load_base
from krona.base.weight_norms import weight_norms
from krona.errors import KronaError
from tune.report.factors import (
    Layer,
    energy_shares,
    make_layer,
    median_stable_ranks,
    relative_norms,
    stable_rank,
)

CROSS_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
SELF_O = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"


def test_energy_of_a_layer_worked_by_hand():
    layer = make_layer(CROSS_K, torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), scale=2)
    assert layer.energy == pytest.approx(2**2 * (1 + 4) * (9 + 16))
    assert layer.spectrum_a == pytest.approx([5**0.5])
    assert layer.spectrum_b == pytest.approx([5.0])


def test_energy_and_spectrum_are_those_of_the_product():
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(shape, generator=generator) for shape in ((4, 3), (5, 2)))
    layer = make_layer(CROSS_K, A, B, scale=0.5)
    delta = 0.5 * torch.kron(A, B)
    assert layer.energy == pytest.approx(float(delta.square().sum()), rel=1e-5)
    products = sorted(0.5 * a * b for a in layer.spectrum_a for b in layer.spectrum_b)[::-1]
    svd = torch.linalg.svdvals(delta.double())[: len(products)]
    assert products == pytest.approx(svd.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("path", "block", "projection"),
    [
        (CROSS_K, "down 1 · 0", "cross k"),
        (SELF_O, "middle", "self o"),
        ("up_blocks.2.attentions.1.transformer_blocks.9.attn1.to_q", "up 2 · 1", "self q"),
        ("text_encoder_2.text_model.encoder.layers.3.self_attn.v_proj", "text encoder 2", "self v"),
    ],
)
def test_a_layer_says_where_it_is(path, block, projection):
    layer = layer_of(path)
    assert (layer.block, layer.projection) == (block, projection)


def layer_of(path: str, energy: float = 1.0, norm: float | None = None) -> Layer:
    return Layer(path=path, energy=energy, spectrum_a=(1,), spectrum_b=(1,), weight_norm=norm)


def test_shares_and_relative_norms_take_the_layers_of_a_cell_as_one():
    second = CROSS_K.replace("blocks.0.attn", "blocks.1.attn")
    layers = [layer_of(CROSS_K, 3, 4), layer_of(second, 6, 3), layer_of(SELF_O, 1, 10)]
    cross, own = ("down 1 · 0", "cross k"), ("middle", "self o")
    assert energy_shares(layers) == pytest.approx({cross: 0.9, own: 0.1})
    assert relative_norms(layers) == pytest.approx({cross: (9 / 25) ** 0.5, own: 0.1})
    assert relative_norms([*layers, layer_of(SELF_O)]) == {}


def test_stable_rank_is_one_for_one_direction_and_full_for_equal_ones():
    assert stable_rank([2, 0, 0]) == 1
    assert stable_rank([3, 3, 3, 3]) == 4
    assert stable_rank([2, 1]) == 1.25
    assert stable_rank([0, 0]) == 0
    assert median_stable_ranks([layer_of(CROSS_K)]) == (1, 1)


def test_norms_are_those_of_the_loaded_weights():
    base = load_base("toyland")
    wanted = {
        path: float(module.weight.norm())
        for path, module in base.unet.named_modules()
        if path.endswith(("attn2.to_k", "attn1.to_out.0"))
    }
    assert len(wanted) > 4
    found = weight_norms("toyland", wanted, base_hash=base.content_hash)
    assert found == pytest.approx(wanted, rel=1e-5)
    text = "text_encoder.encoder.layers.0.self_attn.q_proj"
    weight = base.text_encoders[0].get_submodule(text.partition(".")[2]).weight
    norms = weight_norms("toyland", [text], base_hash=base.content_hash)
    assert norms == pytest.approx({text: float(weight.norm())}, rel=1e-5)
    with pytest.raises(KronaError, match="no weight of nowhere"):
        weight_norms("toyland", ["nowhere"], base_hash=base.content_hash)


def test_norms_of_another_checkpoint_are_not_given():
    with pytest.raises(KronaError, match="not the one that the adapter was trained on"):
        weight_norms("toyland", [CROSS_K], base_hash="0")
