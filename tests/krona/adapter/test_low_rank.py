"""The LoRA of a Kronecker product against the SVD of the product itself."""

import pytest
import torch
from torch import nn

from krona.adapter.inject import Adapter
from krona.adapter.layers import AdapterLayer, KronLinear, LoraLinear, PublishedKronLinear
from krona.adapter.low_rank import as_lora, singular_vectors


def linear(out_features: int, in_features: int) -> nn.Linear:
    return nn.Linear(in_features, out_features).requires_grad_(False)


def random_layer(kind: str) -> AdapterLayer:
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(3, 2, generator=generator), torch.randn(4, 6, generator=generator)
    base = linear(12, 12)
    if kind == "krona":
        layer = KronLinear.of(base, A, B)
        layer.scale = -1.5
        return layer
    if kind == "published":
        return PublishedKronLinear(base, A, B)
    down, up = torch.randn(5, 12, generator=generator), torch.randn(12, 5, generator=generator)
    return LoraLinear.of(base, down, up)


def converted(layer: AdapterLayer, rank: int | None = None) -> LoraLinear:
    lora = as_lora(Adapter(nn.Module(), {"to_q": layer}, is_injected=False), rank).layers["to_q"]
    assert isinstance(lora, LoraLinear)
    return lora


def test_a_product_of_rank_one_becomes_a_lora_of_rank_one() -> None:
    A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    lora = converted(KronLinear.of(linear(2, 2), A, B))
    assert lora.down.shape == (1, 2)
    torch.testing.assert_close(lora.delta(), torch.tensor([[3.0, 6.0], [4.0, 8.0]]))


@pytest.mark.parametrize(("kind", "rank"), [("krona", 8), ("published", 8), ("lora", 5)])
def test_all_of_the_rank_is_exact(kind: str, rank: int) -> None:
    layer = random_layer(kind)
    lora = converted(layer)
    assert len(lora.down) == rank
    torch.testing.assert_close(lora.delta(), layer.delta(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["krona", "published", "lora"])
def test_less_rank_is_the_nearest_there_is(kind: str) -> None:
    layer = random_layer(kind)
    U, sizes, Vh = torch.linalg.svd(layer.delta())
    nearest = U[:, :3] * sizes[:3] @ Vh[:3]
    torch.testing.assert_close(converted(layer, 3).delta(), nearest, rtol=0, atol=1e-5)
    torch.testing.assert_close(singular_vectors(layer)[1][:5].float(), sizes[:5])


def test_a_layer_of_less_rank_keeps_its_own() -> None:
    assert len(converted(random_layer("lora"), 64).down) == 5


def test_an_untrained_layer_stays_zero() -> None:
    layer = KronLinear.of(linear(4, 4), torch.ones(2, 2), torch.zeros(2, 2))
    assert torch.equal(converted(layer).delta(), torch.zeros(4, 4))
