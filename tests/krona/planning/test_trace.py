"""What is told of a step without running it is what running it does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from krona.adapter.inject import inject
from krona.adapter.layers import AdapterConfig, KronLinear
from krona.base.skeleton import Skeleton, build_skeleton
from krona.planning.dry_step import dry_step
from krona.planning.trace import StepCost, trace_step

CONFIG = AdapterConfig(factors=(8, 4))


def _step(folder: Path, **settings: Any) -> StepCost:
    base = build_skeleton(folder)
    inject(base.unet, CONFIG, seed=0)
    return dry_step(base, resolution=16, batch_size=2, **settings)


def test_one_layer_costs_what_is_worked_by_hand() -> None:
    """Linear(8, 8) with A (2, 2), B (4, 4) over 3 rows; W, A ⊗ I and X·Bᵀ are multiplied.

    Forward: 3·8·8 for W, 6·4·4 for X·Bᵀ, 3·8·8 for A, each a multiply and an add. Backward: 3·8·8
    for dA, 3·8·8 for Aᵀ·G, 6·4·4 for dB, and for X·Bᵀ again, which is as large as x and so was not
    kept. Saved: x, and y for the square, 96 bytes each.
    """
    base = nn.Linear(8, 8, bias=False).requires_grad_(False)
    layer = KronLinear(base, (2, 2), init="normal", scale=1.0, generator=torch.Generator())
    cost = trace_step(lambda: layer(torch.ones(3, 8)), [layer])
    assert cost.forward_flops == 2 * (192 + 96 + 192)
    assert cost.backward_flops == 2 * (192 + 192 + 96 + 96)
    assert cost.saved_bytes == 2 * 96
    assert cost.peak_bytes > cost.saved_bytes


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["tiny_sd", "tiny_sd2", "tiny_sdxl"])
def test_fake_tensors_tell_the_cost_of_real_ones(
    name: str, checkpointing: bool, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    real = _step(folder, has_checkpointing=checkpointing)
    with FakeTensorMode():
        assert _step(folder, has_checkpointing=checkpointing) == real


def _saved_by_torch(base: Skeleton, latents: Tensor, text: Tensor) -> int:
    """Bytes at distinct addresses that autograd keeps in a real forward, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in base.unet.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    timesteps = torch.zeros(len(latents), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = base.unet(latents, timesteps, text, return_dict=False)[0]
        loss = output.square().mean()
    assert loss.requires_grad
    return sum(kept.values())


def test_saved_bytes_are_what_autograd_keeps_of_a_real_unet(tiny_sd: Path) -> None:
    base = build_skeleton(tiny_sd)
    inject(base.unet, CONFIG, seed=0)
    kept = _saved_by_torch(base, torch.randn(2, 4, 8, 8), torch.randn(2, 24, 32))
    with FakeTensorMode():
        assert _step(tiny_sd).saved_bytes == kept


def test_checkpointing_keeps_less_and_computes_more(tiny_sdxl: Path) -> None:
    with FakeTensorMode():
        plain, recomputed = _step(tiny_sdxl), _step(tiny_sdxl, has_checkpointing=True)
    assert recomputed.saved_bytes < plain.saved_bytes / 2
    assert recomputed.peak_bytes < plain.peak_bytes
    assert recomputed.forward_flops == plain.forward_flops
    assert recomputed.backward_flops > plain.backward_flops


def test_autocast_normalises_in_float32_as_on_cuda(tiny_sd: Path) -> None:
    seen = []
    with FakeTensorMode():
        base = build_skeleton(tiny_sd)
        inject(base.unet, CONFIG, seed=0)
        resnet = base.unet.down_blocks[0].resnets[0]
        for layer in (resnet.norm2, resnet.conv2):
            layer.register_forward_hook(lambda _m, _x, output: seen.append(output.dtype))
        dry_step(base, resolution=16, batch_size=1, autocast=torch.bfloat16)
    assert seen == [torch.float32, torch.bfloat16]
