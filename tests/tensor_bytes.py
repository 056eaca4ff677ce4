"""The bytes of all tensors that are alive together, on any device: what a formula of bytes is held to where there is no GPU.
Buffers within an operation do not count."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorBytes(TorchDispatchMode):
    """Counts, while it is entered, the storages that operations return: `peak` is the most bytes at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._alive = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage):
        key = storage._cdata
        if key in self._alive or not storage.nbytes():
            return
        n_bytes = storage.nbytes()
        self._alive[key] = weakref.ref(storage, lambda _: self._remove(key, n_bytes))
        self.now += n_bytes
        self.peak = max(self.peak, self.now)

    def _remove(self, key, n_bytes):
        if self._alive.pop(key, None) is not None:
            self.now -= n_bytes
