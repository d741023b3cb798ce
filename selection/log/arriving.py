"""Numbers on their way from the device to the host, which works on meanwhile."""

import torch
from torch import Tensor


class Arriving:
    """A copy of a tensor as it is now. On a GPU: in pinned memory, complete when the device has come so far."""

    def __init__(self, tensor: Tensor):
        self._values = tensor.detach().to("cpu", non_blocking=True, copy=True)
        self._complete = None
        if tensor.is_cuda:
            self._complete = torch.cuda.Event()
            self._complete.record()

    @property
    def shape(self) -> torch.Size:
        return self._values.shape

    @property
    def at_once(self) -> bool:
        """Whether there is nothing to wait for, by the kind of device: the same on every rank."""
        return self._complete is None

    def values(self) -> Tensor:
        """On the host; waits for the device where it has not come so far."""
        if self._complete is not None:
            self._complete.synchronize()
        return self._values
