"""The device of the rehearsal refuses and notes what a GPU would: else nothing could fail on it."""

import pytest
import torch
from device import NAME, limited, memory, waits


def test_it_computes_what_the_cpu_does() -> None:
    layer, x = torch.nn.Linear(3, 5), torch.randn(2, 3)
    expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    layer.to(NAME)
    got = torch.autograd.grad(layer(x.to(NAME)).square().sum(), list(layer.parameters()))
    assert all(part.device.type == NAME for part in got)
    for part, other in zip(got, expected, strict=True):
        torch.testing.assert_close(part.cpu(), other)


def test_tensors_and_generators_of_the_cpu_are_refused_but_single_numbers_are_not() -> None:
    there = torch.ones(3, device=NAME)
    with pytest.raises(RuntimeError, match=r"tensor \(3,\) of cpu"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="of cpu"):
        there[torch.tensor([0, 1])]
    with pytest.raises(RuntimeError, match="generator of cpu"):
        there.normal_(generator=torch.Generator())
    assert (there + torch.tensor(2.0)).tolist() == [3.0] * 3


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: bool(x.any()),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3)),
    ],
)
def test_what_the_host_waits_for_is_noted(ask: object) -> None:
    x = torch.ones(3, device=NAME)
    with waits() as noted:
        ask(x)  # type: ignore[operator]
    assert noted


def test_work_on_the_device_and_copies_that_nobody_waits_for_are_not() -> None:
    x = torch.ones(3, device=NAME)
    with waits() as noted:
        x += torch.ones(3).to(NAME, non_blocking=True) * x[torch.arange(3, device=NAME)]
        x.to(torch.float64).sum()
    assert noted == []


def test_memory_is_counted_and_runs_out() -> None:
    before = memory.used_bytes
    x = torch.ones(256, device=NAME)
    view = x[:128].view(2, 64)
    assert memory.used_bytes - before == 1024
    del x, view
    assert memory.used_bytes == before
    with limited(2048):
        kept = torch.ones(256, device=NAME)
        with pytest.raises(torch.OutOfMemoryError, match="1028 bytes"):
            torch.ones(257, device=NAME)
        kept = torch.cat([kept, kept.new_empty(0)])
    torch.ones(1024, device=NAME)
