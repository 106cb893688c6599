"""The cache computes once, survives damage and concurrent writers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from krona.errors import KronaError
from krona.storage.cache import Cache


class _Counter:
    """A computation that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"x": torch.arange(6.0).reshape(2, 3).T, "half": torch.ones(2, dtype=torch.bfloat16)}


def test_a_hit_does_not_compute(cache: Cache) -> None:
    compute = _Counter()
    first = cache.get({"a": 1, "b": (2, 3)}, compute)
    again = Cache(cache.root).get({"b": [2, 3], "a": 1}, compute)
    assert compute.calls == 1
    assert again.keys() == first.keys()
    for name in first:
        assert torch.equal(first[name], again[name])


def test_another_key_is_another_entry(cache: Cache) -> None:
    compute = _Counter()
    for key in ({"a": 1}, {"a": 2}, {"a": "1"}):
        cache.get(key, compute)
    assert compute.calls == 3


@pytest.mark.parametrize("position", [0, 30, -1])
def test_a_damaged_entry_is_computed_anew(cache: Cache, position: int) -> None:
    compute = _Counter()
    expected = cache.get({"a": 1}, compute)["x"]
    (path,) = cache.root.iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 0xFF
    path.write_bytes(damaged)
    assert torch.equal(cache.get({"a": 1}, compute)["x"], expected)
    assert compute.calls == 2
    cache.get({"a": 1}, compute)
    assert compute.calls == 2


def test_a_truncated_entry_is_computed_anew(cache: Cache) -> None:
    compute = _Counter()
    cache.get({"a": 1}, compute)
    (path,) = cache.root.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    cache.get({"a": 1}, compute)
    assert compute.calls == 2


def test_concurrent_writers_leave_one_whole_entry(cache: Cache) -> None:
    value = torch.arange(1 << 16)

    def write(_: int) -> bool:
        entry = Cache(cache.root).get({"a": 1}, lambda: {"x": value.clone()})
        return torch.equal(entry["x"], value)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(40)))
    assert [path.suffix for path in cache.root.iterdir()] == [".safetensors"]


def test_an_unwritable_root_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KronaError, match=r"cannot be written.*KRONA_CACHE"):
        Cache(tmp_path / "file" / "cache").get({"a": 1}, _Counter())
