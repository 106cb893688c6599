import pytest
import torch
import torch.nn.functional as F

from krona.adapter.kron import kron_linear, num_kron_params, valid_factors
from krona.errors import KronaError

SD1_SHAPES = [(d, d) for d in (320, 640, 1280)] + [(d, 768) for d in (320, 640, 1280)]

# Both orders of the products, wide and narrow inner sizes, one-row and one-column factors.
FACTOR_SHAPES = [
    (2, 3, 4, 5),
    (6, 2, 3, 4),
    (2, 6, 4, 3),
    (1, 6, 5, 2),
    (6, 1, 2, 5),
    (2, 8, 2, 40),
]
FACTOR_SHAPES += [(8, 2, 20, 6), (3, 3, 30, 30)]


def make_layer(a1, a2, b1, b2, *, rows=(2, 7), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, dtype=dtype):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    x, weight, bias = draw(*rows, a2 * b2), draw(a1 * b1, a2 * b2), draw(a1 * b1)
    factor_dtype = torch.promote_types(dtype, torch.float32)
    A, B = draw(a1, a2, dtype=factor_dtype), draw(b1, b2, dtype=factor_dtype)
    return x.requires_grad_(), weight, bias, A.requires_grad_(), B.requires_grad_()


def dense(x, weight, bias, A, B, scale):
    return F.linear(x, weight + scale * torch.kron(A, B), bias)


def relative_error(got, expected):
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def test_two_by_one_example_worked_by_hand():
    A, B, x = torch.tensor([[1.0, 2]]), torch.tensor([[3.0], [4]]), torch.tensor([5.0, 7])
    zero = torch.zeros(2, 2)
    assert kron_linear(x, zero, None, A, B).tolist() == [57, 76]
    assert kron_linear(x, zero, torch.tensor([1.0, 2]), A, B, 2.0).tolist() == [115, 154]


def test_valid_factors_are_the_common_divisors_in_order():
    assert valid_factors([(4, 6), (8, 9)]) == [(1, 1), (2, 1), (1, 3), (4, 1), (2, 3), (4, 3)]


def test_valid_factors_of_stable_diffusion_1():
    pairs = valid_factors(SD1_SHAPES)
    assert {a1 for a1, _ in pairs} == {d for d in range(1, 321) if 320 % d == 0}
    assert {a2 for _, a2 in pairs} == {1, 2, 4, 8, 16, 32, 64}
    assert len(pairs) == 14 * 7


def test_no_layers_have_no_factors():
    assert valid_factors([]) == []


def test_parameter_count_of_a_320_layer():
    assert num_kron_params((320, 320), 64, 8) == 512 + 200
    with pytest.raises(KronaError, match=r"\(48, 8\) do not divide"):
        num_kron_params((320, 320), 48, 8)


@pytest.mark.parametrize("shape", FACTOR_SHAPES)
def test_equals_the_dense_product(shape):
    x, weight, bias, A, B = make_layer(*shape)
    torch.testing.assert_close(
        kron_linear(x, weight, bias, A, B, 0.7), dense(x, weight, bias, A, B, 0.7)
    )


@pytest.mark.parametrize("shape", FACTOR_SHAPES)
def test_gradients_equal_the_numerical_ones(shape):
    x, weight, bias, A, B = make_layer(*shape, rows=(3,))
    assert torch.autograd.gradcheck(
        lambda x, A, B: kron_linear(x, weight, bias, A, B, 0.7), (x, A, B)
    )


@pytest.mark.parametrize("shape", FACTOR_SHAPES)
def test_gradients_equal_those_of_torch_kron(shape):
    x, weight, bias, A, B = make_layer(*shape)
    grad = torch.randn(2, 7, weight.shape[0], dtype=torch.float64)
    got = torch.autograd.grad(kron_linear(x, weight, bias, A, B, -1.3), (x, A, B), grad)
    expected = torch.autograd.grad(dense(x, weight, bias, A, B, -1.3), (x, A, B), grad)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("shape", FACTOR_SHAPES)
def test_many_rows_give_the_same_as_few(shape):
    x, weight, bias, A, B = make_layer(*shape, rows=(4, 40))
    grad = torch.randn(4, 40, weight.shape[0], dtype=torch.float64)
    y = kron_linear(x, weight, bias, A, B, 0.7)
    expected = dense(x, weight, bias, A, B, 0.7)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(y, (x, A, B), grad)
    exact = torch.autograd.grad(expected, (x, A, B), grad)
    torch.testing.assert_close(got, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(8, 2, 4, 4), (2, 8, 4, 4)])
@pytest.mark.parametrize("lowers", ["autocast", "matmul precision"])
def test_no_weight_is_formed_where_products_round_it(shape, lowers, monkeypatch):
    formed = []
    monkeypatch.setattr("krona.adapter.kron._form", lambda weight, *_: formed.append(1) or weight)
    if lowers == "matmul precision":
        monkeypatch.setattr("torch.get_float32_matmul_precision", lambda: "high")
    inputs = make_layer(*shape, rows=(100,), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lowers == "autocast"):
        kron_linear(*inputs).sum().backward()
    assert formed == []
    monkeypatch.undo()
    monkeypatch.setattr("krona.adapter.kron._form", lambda weight, *_: formed.append(1) or weight)
    kron_linear(*inputs).sum().backward()
    assert formed == [1]


@pytest.mark.parametrize("rows", [(), (0,), (5,), (2, 3, 4)])
def test_takes_any_leading_shape(rows):
    x, weight, bias, A, B = make_layer(2, 3, 4, 5, rows=rows)
    y = kron_linear(x, weight, bias, A, B)
    assert y.shape == (*rows, 8)
    torch.testing.assert_close(y, dense(x, weight, bias, A, B, 1.0))
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("shape", FACTOR_SHAPES)
@pytest.mark.parametrize("rows", [(5,), (5, 3)])
def test_takes_strided_activations_and_gradients(rows, shape):
    x, weight, bias, A, B = make_layer(*shape, rows=rows)
    strided = x.detach().mT.contiguous().mT.requires_grad_()
    grad = torch.randn(*rows, weight.shape[0], dtype=torch.float64).mT.contiguous().mT
    assert not strided.is_contiguous()
    assert not grad.is_contiguous()
    inputs = strided, A, B
    got = torch.autograd.grad(kron_linear(strided, weight, bias, A, B), inputs, grad)
    expected = torch.autograd.grad(dense(strided, weight, bias, A, B, 1.0), inputs, grad)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_computes_only_the_gradients_that_are_needed(needed):
    x, weight, bias, A, B = make_layer(6, 2, 3, 4)
    inputs = [x, A, B]
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(i in needed)
    wanted = [inputs[i] for i in needed]
    y = kron_linear(x, weight.requires_grad_(), bias, A, B)
    y.sum().backward()
    expected = torch.autograd.grad(dense(x, weight, bias, A, B, 1.0).sum(), wanted)
    torch.testing.assert_close([tensor.grad for tensor in wanted], list(expected))
    assert all(inputs[i].grad is None for i in range(3) if i not in needed)
    assert weight.grad is None


def test_zero_factor_leaves_the_output_bit_equal():
    for shape in FACTOR_SHAPES:
        x, weight, bias, A, B = make_layer(*shape, dtype=torch.float32)
        y = kron_linear(x, weight, bias, A, torch.zeros_like(B))
        assert torch.equal(y, F.linear(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(8, 2, 20, 6), (2, 8, 4, 40)])
def test_float32_factors_work_over_half_precision_weights(dtype, shape):
    x, weight, bias, A, B = make_layer(*shape, dtype=dtype)
    y = kron_linear(x, weight, bias, A, B, 0.5)
    wide = [t.detach().double().requires_grad_() for t in (x, weight, bias, A, B)]
    expected = dense(*wide, 0.5)
    got = torch.autograd.grad(y.sum(), (x, A, B))
    exact = torch.autograd.grad(expected.sum(), (wide[0], wide[3], wide[4]))
    assert y.dtype == dtype
    assert [g.dtype for g in got] == [dtype, torch.float32, torch.float32]
    errors = [relative_error(y, expected), *map(relative_error, got, exact)]
    print(errors)
    assert max(errors) < 0.02


@pytest.mark.parametrize("shape", [(8, 2, 20, 6), (2, 8, 4, 40)])
def test_autocast_gives_its_dtype_and_float32_gradients(shape):
    x, weight, bias, A, B = make_layer(*shape, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = kron_linear(x, weight, bias, A, B)
    expected = dense(x, weight, bias, A, B, 1.0)
    got = torch.autograd.grad(y.sum(), (x, A, B))
    exact = torch.autograd.grad(expected.sum(), (x, A, B))
    assert y.dtype == torch.bfloat16
    assert {g.dtype for g in got} == {torch.float32}
    assert max(relative_error(y, expected), *map(relative_error, got, exact)) < 0.02


@pytest.mark.parametrize(
    ("a1", "a2", "share"), [(64, 8, 1 / 8), (8, 64, 1 / 8), (16, 32, 1 / 2), (16, 16, 0)]
)
def test_saves_beyond_x_only_an_inner_product_that_is_at_most_half_of_x(a1, a2, share):
    x, weight, bias, A, B = make_layer(a1, a2, 320 // a1, 320 // a2, rows=(64,))
    known = {t.untyped_storage().data_ptr() for t in (x, weight, A, B)}
    saved = 0

    def count(tensor):
        nonlocal saved
        if tensor.untyped_storage().data_ptr() not in known:
            saved += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        kron_linear(x, weight, bias, A, B)
    assert saved == x.numel() * share


def test_adapter_survives_a_bfloat16_base_that_would_swallow_it():
    x, weight, _, A, B = make_layer(8, 8, 8, 8, rows=(64,), dtype=torch.bfloat16)
    A, B = A.detach(), B.detach()
    scale = 2e-4 * (weight.float().norm() / torch.kron(A, B).norm()).item()
    x = torch.eye(64, dtype=torch.bfloat16)
    zero = torch.zeros_like(weight)
    applied = kron_linear(x, zero, None, A, B, scale)
    merged = (weight.float() + scale * torch.kron(A, B)).bfloat16().float() - weight.float()
    exact = scale * torch.kron(A, B)
    errors = relative_error(applied.T, exact), relative_error(merged, exact)
    print(errors)
    assert errors[0] <= 5e-3 < 0.5 < errors[1]
