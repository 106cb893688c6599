"""What an export's precision costs: measured, bounded, and refused where numbers do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from trained import make_manifest, place, unchanged

from krona.adapter.inject import inject
from krona.adapter.layers import AdapterConfig
from krona.base.checkpoint import Base
from krona.errors import KronaError
from krona.exchange.adapter_file import load_adapter, save_adapter
from krona.exchange.export import export_adapter

SQUARE = AdapterConfig(factors=(4, 4), scale=0.5)
Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
EPS = {"fp16": 2.0**-10, "bf16": 2.0**-7, "fp32": 2.0**-23}
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def save_scaled(base: Base, path: Path, size: float, *, a_size: float = 1.0) -> Path:
    """A krona adapter whose B is normal of that size; A is drawn and multiplied."""
    adapter = inject(base.unet, SQUARE, seed=0)
    adapter.eject()
    generator = torch.Generator().manual_seed(1)
    for layer in adapter.layers.values():
        layer.A.data.mul_(a_size)
        layer.B.data.copy_(size * torch.randn(layer.B.shape, generator=generator))
    save_adapter(path, adapter.state_dict(), make_manifest(base, SQUARE))
    return path


def rounding_by_hand(path: Path, dtype: torch.dtype) -> float:
    """The largest relative error of kron(A, B/2) over layers, of rounded factors."""
    state, _ = load_adapter(path)
    errors = []
    for name in (key.removesuffix(".A") for key in state if key.endswith(".A")):
        A, B = state[f"{name}.A"], 0.5 * state[f"{name}.B"]
        exact = torch.kron(A, B)
        errors.append((torch.kron(A.to(dtype).float(), B.to(dtype).float()) - exact).norm())
        errors[-1] /= exact.norm()
    return max(errors).item()


@pytest.mark.parametrize("format", ["kohya", "lycoris", "diffusers", "peft", "lora"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_is_written_and_its_cost_measured(
    sd: Base, tmp_path: Path, format: Any, dtype: Any
) -> None:
    path, output = save_scaled(sd, tmp_path / "a.safetensors", 0.1), place(tmp_path, format)
    with unchanged(sd):
        report = export_adapter(path, base=sd, format=format, output=output, dtype=dtype)
    tensors = load_file(output / "adapter_model.safetensors" if output.is_dir() else output)
    alphas = [name for name in tensors if name.endswith(".alpha")]
    assert {tensors[name].dtype for name in alphas} <= {torch.float32}
    assert {t.dtype for name, t in tensors.items() if name not in alphas} == {TORCH[dtype]}
    assert EPS[dtype] / 10 < report.rounding_error < EPS[dtype]
    assert report.rel_error <= report.rounding_error
    if format != "lora":
        expected = rounding_by_hand(path, TORCH[dtype])
        assert report.rounding_error == pytest.approx(expected, rel=0.5)


def test_half_is_the_default_and_stands_in_the_file(sd: Base, tmp_path: Path) -> None:
    path, output = save_scaled(sd, tmp_path / "a.safetensors", 0.1), place(tmp_path, "kohya")
    report = export_adapter(path, base=sd, format="kohya", output=output)
    with safe_open(output, framework="pt") as file:
        said = json.loads(file.metadata()["krona_export"])
    assert (said["dtype"], said["rounding_error"]) == ("fp16", report.rounding_error)
    assert "| dtype | fp16 |" in (output.parent / "README.md").read_text()


@pytest.mark.parametrize("format", ["merged", "merged-file"])
def test_merged_weights_stay_fp32_unless_asked_and_then_the_loss_is_measured(
    sd: Base, tmp_path: Path, format: Any
) -> None:
    path = save_scaled(sd, tmp_path / "a.safetensors", 0.1)
    whole = export_adapter(path, base=sd, format=format, output=place(tmp_path / "w", format))
    output = place(tmp_path / "h", format)
    with unchanged(sd):
        half = export_adapter(path, base=sd, format=format, output=output, dtype="fp16")
    assert (whole.dtype, half.dtype) == ("fp32", "fp16")
    state, _ = load_adapter(path)
    weight = sd.unet.get_parameter(f"{Q}.weight")
    delta = 0.5 * torch.kron(state[f"{Q}.A"], state[f"{Q}.B"])
    lost = (((weight + delta).half().float() - weight - delta).norm() / delta.norm()).item()
    assert half.rounding_error >= lost > 10 * whole.rounding_error
    tensors = merged_tensors(output)
    assert tensors["unet"] == {torch.float16}
    assert tensors["vae"] == {torch.float32}


def merged_tensors(output: Path) -> dict[str, set[torch.dtype]]:
    """The precisions of the UNet's and the autoencoder's tensors."""
    if output.is_dir():
        return {
            n: dtypes(load_file(next((output / n).glob("*.safetensors")))) for n in ("unet", "vae")
        }
    tensors = load_file(output)
    parts = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
    return {
        part: dtypes({k: t for k, t in tensors.items() if k.startswith(prefix)})
        for part, prefix in parts.items()
    }


def dtypes(tensors: dict[str, Tensor]) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors.values()}


@pytest.mark.parametrize("format", ["kohya", "lycoris", "diffusers", "peft", "merged"])
def test_what_fp16_does_not_reach_is_refused_with_the_fix(
    sd: Base, tmp_path: Path, format: Any
) -> None:
    path, output = save_scaled(sd, tmp_path / "a.safetensors", 1e6), place(tmp_path, format)
    message = (
        r"has a number of size \S+e\+0[56], and torch.float16 ends at 6\.55e\+04; .*--dtype bf16"
    )
    with pytest.raises(KronaError, match=message), unchanged(sd):
        export_adapter(path, base=sd, format=format, output=output, dtype="fp16")
    assert not any(output.parent.iterdir())
    report = export_adapter(path, base=sd, format=format, output=output, dtype="bf16")
    assert report.rounding_error < EPS["bf16"]


def test_what_fp16_rounds_off_is_refused_with_the_fix(sd: Base, tmp_path: Path) -> None:
    path = save_scaled(sd, tmp_path / "a.safetensors", 1e-7, a_size=1e4)
    output = place(tmp_path, "kohya")
    with pytest.raises(KronaError, match="fp16 is too coarse for it, --dtype fp32 is not"):
        export_adapter(path, base=sd, format="kohya", output=output)
    assert not any(output.parent.iterdir())


def test_unknown_dtype_is_refused(sd: Base, tmp_path: Path) -> None:
    path, output = save_scaled(sd, tmp_path / "a.safetensors", 0.1), place(tmp_path, "kohya")
    with pytest.raises(KronaError, match="dtype 'fp8' is unknown"):
        export_adapter(path, base=sd, format="kohya", output=output, dtype="fp8")  # type: ignore
