"""PyTorch on one thread, for many small tensors: a second one would mostly be waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """`with one_torch_thread():`, or `@one_torch_thread()` on a function."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
