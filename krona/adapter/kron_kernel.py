"""Tensors on a GPU in, Kronecker products out: the update and the factors' gradients, each fused.

Legend: row t of X is a (q, n) matrix, of G and out a (p, m) one; L (p, q) and R (m, n) are the
factors, of any strides, cast to X's dtype as they are read. A program takes a few rows at a time
and keeps what lies between two products in registers, so that no kernel writes it to memory. Sums
are float32 and, for float32, without TF32. BP, BQ, BM, BN are sizes padded to powers of two, BT is
the number of rows at a time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of the largest tile that a program holds: beyond it registers spill.
_MAX_TILE = 16384
# Elements of the tile that the rows at a time are chosen for.
_TILE = 2048
# Programs that share the rows of a gradient; each has a partial sum, so that equal runs stay equal.
_NUM_PARTS = 256


def can_fuse(A: Tensor, B: Tensor) -> bool:
    """Whether the tiles of A (a1, a2) and B (b1, b2) fit, for the update and both gradients."""
    (a1, a2), (b1, b2) = (map(_pad, factor.shape) for factor in (A, B))
    return max(a1 * a2, b1 * b2, a1 * b1, a2 * b2) <= _MAX_TILE


def add_update(out: Tensor, X: Tensor, L: Tensor, R: Tensor, scale: float) -> None:
    """Add scale·L·X_t·Rᵀ to out_t: out (T, p, m), contiguous, and X (T, q, n)."""
    (num_rows, q, n), (p, m) = X.shape, out.shape[1:]
    tiles = {"BP": _pad(p), "BQ": _pad(q), "BM": _pad(m), "BN": _pad(n)}
    if q * m <= p * n:
        kernel, tile = _add_right_first, tiles["BQ"] * tiles["BM"]
        tiles |= {"BP": min(tiles["BP"], 64), "BN": min(tiles["BN"], 64)}
    else:
        kernel, tile = _add_left_first, tiles["BP"] * tiles["BN"]
        tiles |= {"BQ": min(tiles["BQ"], 64), "BM": min(tiles["BM"], 64)}
    rows = max(1, _TILE // tile)
    kernel[(triton.cdiv(num_rows, rows),)](
        out, X.contiguous(), L, R, scale, num_rows, p, q, m, n, *L.stride(), *R.stride(), rows,
        **tiles, num_warps=8,
    )  # fmt: skip


def factor_gradients(G: Tensor, X: Tensor, L: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the gradients of L and R over rows: Σ G_t·R·X_tᵀ (p, q) and Σ G_tᵀ·L·X_t (m, n), float32.

    G (T, p, m) is the gradient of L·X_t·Rᵀ, X is (T, q, n).
    """
    (num_rows, p, m), (_, q, n) = G.shape, X.shape
    if q * m > p * n:
        grad_l, grad_r = factor_gradients(X, G, L.T, R.T)
        return grad_l.T, grad_r.T
    rows = max(1, _TILE // max(_pad(q) * _pad(n), _pad(p) * _pad(m)))
    num_parts = min(_NUM_PARTS, triton.cdiv(num_rows, rows))
    grad_l = torch.empty(num_parts, p, q, device=G.device)
    grad_r = torch.empty(num_parts, m, n, device=G.device)
    _sum_gradients[(num_parts,)](
        grad_l, grad_r, G.contiguous(), X.contiguous(), L, R, num_rows, p, q, m, n,
        *L.stride(), *R.stride(), rows, _pad(p), _pad(q), _pad(m), _pad(n), num_warps=8,
    )  # fmt: skip
    return grad_l.sum(0), grad_r.sum(0)


def _pad(size: int) -> int:
    """The next power of two, at least 16: the least that tl.dot multiplies."""
    return max(16, 1 << (size - 1).bit_length())


@triton.jit
def _load(start, rows, columns, num_rows, num_columns, row_stride, column_stride):
    """A tile of a matrix, zero outside it."""
    inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    offsets = rows[:, None] * row_stride + columns[None, :] * column_stride
    return tl.load(start + offsets, mask=inside, other=0.0)


@triton.jit
def _load_stacked(X, t, q, n, T, Q, N):
    """(rows, columns) of X (T, Q, N), where a row is a pair (t, q)."""
    inside = ((t < T) & (q < Q))[:, None] & (n < N)[None, :]
    return tl.load(X + (t * Q * N + q * N)[:, None] + n[None, :], mask=inside, other=0.0)


@triton.jit
def _load_side_by_side(X, t, q, n, T, Q, N):
    """(rows, columns) of X (T, Q, N), where a column is a pair (t, n)."""
    inside = (q < Q)[:, None] & ((t < T) & (n < N))[None, :]
    return tl.load(X + (q * N)[:, None] + (t * Q * N + n)[None, :], mask=inside, other=0.0)


@triton.jit
def _dot(a, b, acc=None):
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _add_right_first(
    out, X, L, R, scale, T, P, Q, M, N, l_p, l_q, r_m, r_n,
    BT: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """out += scale·L·(X·Rᵀ) for BT rows; p and n are walked in blocks, q and m are whole."""
    dtype = X.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * BT
    m, stacked, side = tl.arange(0, BM), tl.arange(0, BT * BQ), tl.arange(0, BT * BM)
    inner = tl.zeros((BT * BQ, BM), tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        x = _load_stacked(X, first + stacked // BQ, stacked % BQ, n, T, Q, N)
        inner = _dot(x, _load(R, n, m, N, M, r_n, r_m).to(dtype), inner)
    inner = tl.reshape(inner.to(dtype), (BT, BQ, BM))
    inner = tl.reshape(tl.permute(inner, (1, 0, 2)), (BQ, BT * BM))
    t, column = first + side // BM, side % BM
    for start in range(0, P, BP):
        p = start + tl.arange(0, BP)
        update = _dot(_load(L, p, tl.arange(0, BQ), P, Q, l_p, l_q).to(dtype), inner)
        inside = (p < P)[:, None] & ((t < T) & (column < M))[None, :]
        place = out + (p * M)[:, None] + (t * P * M + column)[None, :]
        sum_ = tl.load(place, mask=inside, other=0.0).to(tl.float32) + scale * update
        tl.store(place, sum_.to(dtype), mask=inside)


@triton.jit
def _add_left_first(
    out, X, L, R, scale, T, P, Q, M, N, l_p, l_q, r_m, r_n,
    BT: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """out += scale·(L·X)·Rᵀ for BT rows; q and m are walked in blocks, p and n are whole."""
    dtype = X.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * BT
    n, stacked, side = tl.arange(0, BN), tl.arange(0, BT * BP), tl.arange(0, BT * BN)
    inner = tl.zeros((BP, BT * BN), tl.float32)
    for start in range(0, Q, BQ):
        q = start + tl.arange(0, BQ)
        x = _load_side_by_side(X, first + side // BN, q, side % BN, T, Q, N)
        inner = _dot(_load(L, tl.arange(0, BP), q, P, Q, l_p, l_q).to(dtype), x, inner)
    inner = tl.reshape(inner.to(dtype), (BP, BT, BN))
    inner = tl.reshape(tl.permute(inner, (1, 0, 2)), (BT * BP, BN))
    t, row = first + stacked // BP, stacked % BP
    for start in range(0, M, BM):
        m = start + tl.arange(0, BM)
        update = _dot(inner, _load(R, n, m, N, M, r_n, r_m).to(dtype))
        inside = ((t < T) & (row < P))[:, None] & (m < M)[None, :]
        place = out + (t * P * M + row * M)[:, None] + m[None, :]
        sum_ = tl.load(place, mask=inside, other=0.0).to(tl.float32) + scale * update
        tl.store(place, sum_.to(dtype), mask=inside)


@triton.jit
def _sum_gradients(
    grad_l, grad_r, G, X, L, R, T, P, Q, M, N, l_p, l_q, r_m, r_n,
    BT: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """This program's share of Σ G_t·(X_t·Rᵀ)ᵀ and Σ (Lᵀ·G_t)ᵀ·X_t, for all of p, q, m and n."""
    dtype = X.dtype.element_ty
    part = tl.program_id(0).to(tl.int64)
    p, q, m, n = tl.arange(0, BP), tl.arange(0, BQ), tl.arange(0, BM), tl.arange(0, BN)
    stacked, side = tl.arange(0, BT * BQ), tl.arange(0, BT * BM)
    right = _load(R, n, m, N, M, r_n, r_m).to(dtype)
    left = _load(L, q, p, Q, P, l_q, l_p).to(dtype)
    sum_l, sum_r = tl.zeros((BP, BQ), tl.float32), tl.zeros((BM, BN), tl.float32)
    for first in range(part * BT, T, tl.num_programs(0) * BT):
        x = _load_stacked(X, first + stacked // BQ, stacked % BQ, n, T, Q, N)
        g = _load_side_by_side(G, first + side // BM, p, side % BM, T, P, M)
        after_r = tl.reshape(_dot(x, right).to(dtype), (BT, BQ, BM))
        after_r = tl.reshape(tl.permute(after_r, (0, 2, 1)), (BT * BM, BQ))
        after_l = tl.reshape(_dot(left, g).to(dtype), (BQ, BT, BM))
        after_l = tl.reshape(tl.permute(after_l, (2, 1, 0)), (BM, BT * BQ))
        sum_l, sum_r = _dot(g, after_r, sum_l), _dot(after_l, x, sum_r)
    in_l = (p < P)[:, None] & (q < Q)[None, :]
    in_r = (m < M)[:, None] & (n < N)[None, :]
    tl.store(grad_l + part * P * Q + p[:, None] * Q + q[None, :], sum_l, mask=in_l)
    tl.store(grad_r + part * M * N + m[:, None] * N + n[None, :], sum_r, mask=in_r)
