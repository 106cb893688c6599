"""The fused kernels against torch.kron: interpreted on the CPU, compiled where CUDA is."""

import os
import subprocess
import sys

import pytest
import torch

from krona.adapter.kron import kron_linear

pytest.importorskip("triton")

# (a1, a2, b1, b2, rows): both orders, odd sizes, several blocks of p, q, m and n, one-row factors.
SHAPES = [(64, 8, 5, 40, 7), (8, 64, 5, 7, 5), (3, 2, 17, 33, 9), (6, 1, 2, 5, 3), (1, 6, 5, 2, 3)]
SHAPES += [(16, 16, 20, 20, 4), (70, 3, 2, 80, 3), (3, 70, 70, 2, 130)]
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def relative_errors(shape, dtype, device):
    """Of out + 0.7·A·X·Bᵀ, the gradient of X, those of A and B; against torch.kron in float64."""
    from krona.adapter.kron_kernel import add_update, factor_gradients

    a1, a2, b1, b2, rows = shape
    generator = torch.Generator().manual_seed(0)
    X, G, out = (
        torch.randn(rows, *size, generator=generator).to(device, dtype)
        for size in ((a2, b2), (a1, b1), (a1, b1))
    )
    A, B = (torch.randn(size, generator=generator).to(device) for size in ((a1, a2), (b1, b2)))
    x, g, a, b = (t.double().requires_grad_() for t in (X, G, A, B))
    y = (x.flatten(1) @ torch.kron(a, b).T).view_as(out)
    expected = [out.double() + 0.7 * y, *torch.autograd.grad(y, (x, a, b), g)]
    grad_x = torch.zeros_like(X)
    add_update(out, X, A, B, 0.7)
    add_update(grad_x, G, A.T, B.T, 1.0)
    got = [out, grad_x, *factor_gradients(G, X, A, B)]
    return [((p - q).norm() / q.norm()).item() for p, q in zip(got, expected, strict=True)]


def check(shapes, dtypes, device):
    for dtype in dtypes:
        for shape in shapes:
            errors = relative_errors(shape, dtype, device)
            print(shape, dtype, errors)
            assert max(errors) <= TOLERANCE[dtype]


def test_kernels_equal_torch_kron_in_the_interpreter():
    """In a process of its own: Triton reads TRITON_INTERPRET once, when it is imported.

    Without bfloat16, whose bits Triton 3.9's interpreter multiplies as integers.
    """
    result = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_equal_torch_kron_on_cuda():
    check([*SHAPES, (64, 8, 20, 160, 1000)], TOLERANCE, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("is_fused", [False, True])
def test_layer_is_the_same_whichever_wins(is_fused, monkeypatch):
    monkeypatch.setattr("krona.adapter.kron.are_kernels_faster", lambda *_: is_fused)
    x, weight, A, B = (
        torch.randn(size, device="cuda", requires_grad=True)
        for size in ((2, 50, 320), (320, 320), (64, 8), (5, 40))
    )
    grad = torch.randn(2, 50, 320, device="cuda")
    got = torch.autograd.grad(kron_linear(x, weight, None, A, B), (x, A, B), grad)
    expected = torch.autograd.grad(x @ (weight + torch.kron(A, B)).T, (x, A, B), grad)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_are_measured_where_sampling_asks_first(monkeypatch, recwarn):
    monkeypatch.setattr("krona.adapter.fused._is_faster", {})
    x, weight, A, B = (
        torch.randn(size, device="cuda") for size in ((2, 50, 320), (320, 320), (64, 8), (5, 40))
    )
    with torch.inference_mode():
        kron_linear(x, weight, None, A, B)
    assert not [w for w in recwarn if "fused kernels" in str(w.message)]


if __name__ == "__main__":
    # Enough of the layer for its autograd node to take the kernels' way too.
    import krona.adapter.kron

    check(SHAPES, (torch.float32, torch.float16), "cpu")
    krona.adapter.kron.are_kernels_faster = lambda *_: True
    x, weight, A, B = (
        torch.randn(size, requires_grad=True) for size in ((2, 3, 48), (60, 48), (6, 4), (10, 12))
    )
    got = torch.autograd.grad(kron_linear(x, weight, None, A, B, 0.5).sin().sum(), (x, A, B))
    dense = x @ (weight + 0.5 * torch.kron(A, B)).T
    expected = torch.autograd.grad(dense.sin().sum(), (x, A, B))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
