"""A call in; out, its memory, a CUDA graph of it, or krona's products by torch or the kernels."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import nn

from krona.planning.trace import trace_forward

_NUM_WARM_UPS = 3


def peak_bytes(run: Callable[[], object], modules: Iterable[nn.Module], device: str) -> int:
    """Most bytes alive at once of what run() makes, beside those that were there.

    By the allocator on CUDA; on a CPU by observing the operators, where those of `modules` do not
    count.
    """
    if device != "cuda":
        return trace_forward(torch.enable_grad()(run), modules)
    before = resident_bytes((), device)
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def resident_bytes(modules: Iterable[nn.Module], device: str) -> int:
    """Bytes that are allocated on CUDA, or on a CPU those of the modules."""
    if device != "cuda":
        held = ((*module.parameters(), *module.buffers()) for module in modules)
        return sum(tensor.nbytes for tensors in held for tensor in tensors)
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def captured(run: Callable[[], object], modules: Iterable[nn.Module]) -> Callable[[], None]:
    """run() as a CUDA graph, to be replayed; gradients that it makes are those of the replay.

    Raises: RuntimeError if there is no CUDA, or run() cannot be captured.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("needs CUDA")
    modules = list(modules)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_NUM_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    for module in modules:
        module.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


@contextmanager
def kernels(are_used: bool) -> Iterator[None]:
    """Have krona's layers take the fused kernels, or torch's operators, whichever is faster."""
    with patch("krona.adapter.kron.are_kernels_faster", lambda *_: are_used):
        yield
