"""What CUDA does with each dtype, by fake tensors that say they are on it; and torch's switches."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from krona.adapter.inject import make_adapter
from krona.adapter.layers import AdapterConfig
from krona.adapter.pack import Pack
from krona.base.arithmetic import DTYPES, autocast, set_switches
from krona.base.skeleton import Skeleton, build_skeleton
from krona.diffusion.objective import added_conditions

CUDA = torch.device("cuda")
SIDE, NUM_ROWS = 8, 2


def predict(base: Skeleton) -> torch.Tensor:
    """The UNet's output for a batch of zeros in its own dtype."""
    config, dtype = base.unet.config, base.unet.dtype
    width = base.text_encoders[-1].config.projection_dim
    output: torch.Tensor = base.unet(
        torch.zeros(NUM_ROWS, config.in_channels, SIDE, SIDE, dtype=dtype),
        torch.zeros(NUM_ROWS, dtype=torch.long),
        torch.zeros(NUM_ROWS, 24, config.cross_attention_dim, dtype=dtype),
        added_cond_kwargs=added_conditions(torch.zeros(NUM_ROWS, width, dtype=dtype), 16),
        return_dict=False,
    )[0]
    return output


@pytest.mark.parametrize("num_adapters", [1, 2], ids=["alone", "in a pack"])
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_adapted_unet_multiplies_in_the_precision_that_was_asked_for(
    tiny_sdxl: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    precision: str,
    num_adapters: int,
) -> None:
    # Without CUDA, autocast would switch itself off.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    # As the rehearsal's device is there, torch takes it that devices may be asked.
    monkeypatch.setattr(FakeTensorMode, "avoid_device_init", True)
    with FakeTensorMode(), CUDA:
        base = build_skeleton(tiny_sdxl, dtype)
        made = [make_adapter(base.unet, AdapterConfig(factors=(4, 8)), seed=i) for i in range(2)]
        with Pack(base.unet, made[:num_adapters]) as pack, autocast(CUDA, precision):
            pack.set_rows([NUM_ROWS // num_adapters] * num_adapters)
            output = predict(base)
    assert output.device.type == "cuda"
    assert output.dtype == DTYPES.get(precision, dtype)
    assert {p.dtype for p in made[0].parameters()} == {torch.float32}


@pytest.fixture
def _switches() -> Iterator[None]:
    """The switches as they were, afterwards."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    yield
    products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.usefixtures("_switches")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_products_of_an_fp32_base_are_exact(dtype: torch.dtype) -> None:
    set_switches(CUDA, dtype)
    is_exact = dtype == torch.float32
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is not is_exact
    assert torch.get_float32_matmul_precision() == ("highest" if is_exact else "high")
    assert not torch.backends.cudnn.benchmark
    set_switches(torch.device("cpu"), torch.float32)
    assert torch.backends.cudnn.allow_tf32 is not is_exact
