"""Forward passes that wait at a layer until it has its weights, and go on from there instead of from the input."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from threading import Semaphore, Thread
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.couplings import Layer
from ckrm_kernels.shrinking.inputs import tensors_in

AT_ONCE = 2**31
"""Bytes of activations that all passes that wait may hold; those beyond begin anew for each layer."""

MOST_WAITING = 32
"""Passes that may wait: each has a thread, and what that computes with has one for each core."""


class Batches(Protocol):
    """Inputs of forward passes: (arguments, keywords) of each; `calibration.Calibration`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]: ...

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]: ...


class Seen(NamedTuple):
    """A call of a module: what it was given first, and what it gave with the weights of then."""

    module: nn.Module
    input: Tensor
    output: Tensor


class ForwardPasses:
    """A network's forward passes on batches, front to back from layer to layer.

    A pass waits before a layer's module, and computes it with the weights that it has when the pass goes on. Of a layer
    that is called several times all calls come before its new weights, so that its passes begin anew, as do those whose
    activations would exceed `AT_ONCE`. The network is as it was, but for its weights, which the passes share.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], batches: Batches) -> None:
        """layers: where they can wait, in the order in which they first run"""
        self._network, self._batches = network, batches
        self._names = [layer.name for layer in layers]
        self._waiting: dict[int, ForwardPass] = {}
        self._idle: list[nn.Module] = []

    def calls(self, batch: int, layer: Layer) -> Generator[Seen, None, None]:
        """The calls of a layer's module on a batch, each valid until the next; layers in order.

        Closed before its end, it ends the pass.
        """
        running = self._waiting.pop(batch, None) or self._begun(batch)
        try:
            for _ in range(layer.calls):
                seen = running.next_call(layer.name)
                if seen is None:
                    return
                yield seen
                del seen  # which else is held
            has_room = len(self._waiting) < MOST_WAITING and self.held + running.held <= AT_ONCE
            if layer.calls == 1 and has_room:
                self._waiting[batch] = running
        finally:
            if batch not in self._waiting:
                self._end(running)

    @property
    def held(self) -> int:
        """Bytes of the activations that passes hold that wait."""
        return sum(each.held for each in self._waiting.values())

    def close(self) -> None:
        """Ends the passes that wait."""
        for running in self._waiting.values():
            self._end(running)
        self._waiting.clear()

    def _begun(self, batch: int) -> ForwardPass:
        # a copy for each that runs at a time, lest one finds what a module noted of another
        network = self._idle.pop() if self._idle else copied(self._network, share=True)
        return ForwardPass(network, self._names, *self._batches[batch])

    def _end(self, running: ForwardPass) -> None:
        running.end()
        self._idle.append(running.network)


class _Ended(BaseException):
    """Ends a forward pass; no Exception, lest the model's own code catches it."""


class ForwardPass:
    """One forward pass, in a thread of its own that runs only while another waits for it."""

    def __init__(
        self, network: nn.Module, names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """names: of the network's modules at which it can wait"""
        self.network = network
        self._made = _Made()
        self._go, self._stopped = Semaphore(0), Semaphore(0)
        self._wanted: str | None = None
        self._inside = self._ended = self._over = False
        self._seen: Seen | None = None
        self._error: BaseException | None = None
        self._handles = [handle for name in names for handle in self._hooked(name)]
        self._thread = Thread(target=copy_context().run, args=(self._run, _Settings(), args, kwargs), daemon=True)
        self._thread.start()

    def next_call(self, name: str) -> Seen | None:
        """Goes on to the next call of a module, and waits before it; None where the pass has no more."""
        self._wanted = name
        self._go_on()
        if self._error is not None:
            raise self._error
        seen, self._seen = self._seen, None
        return seen

    @property
    def held(self) -> int:
        """Bytes of the tensors that the pass made and still holds."""
        return self._made.bytes()

    def end(self) -> None:
        """Ends the pass, wherever it waits."""
        self._ended = True
        self._go_on()
        self._thread.join()
        for handle in self._handles:
            handle.remove()

    def _go_on(self) -> None:
        if not self._over:
            self._go.release()
            self._stopped.acquire()

    def _stop(self) -> None:
        self._stopped.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._ended:
            raise _Ended

    def _run(self, settings: _Settings, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        try:
            self._wait()
            with settings.entered(), self._made:
                self.network(*args, **kwargs)
        except _Ended:
            pass
        except BaseException as error:  # raised where the pass is asked to go on
            self._error = error
        finally:
            self._over = True
            self._stopped.release()

    def _hooked(self, name: str) -> Iterator[Any]:
        def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._ended:
                raise _Ended  # again, where the model's own code caught it
            if name == self._wanted and not self._inside:
                self._inside = True
                try:
                    module(*given, **named)
                finally:
                    self._inside = False
                self._stop()

        def after(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
            if name == self._wanted and self._inside:
                self._seen = Seen(module, given[0] if given else next(iter(named.values())), output)

        module = self.network.get_submodule(name)
        yield module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        yield module.register_forward_hook(after, with_kwargs=True)


class _Settings:
    """What torch keeps for each thread, as it is in the one that makes this."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._contexts: list[Callable[[], Any]] = [torch.no_grad]
        device = torch.get_default_device()
        if (
            device.type != "cpu"
        ):  # that is the default of a thread; entered, it would move what `torch.as_tensor` is given
            self._contexts.append(partial(torch.device, device))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                dtype = torch.get_autocast_dtype(kind)  # a cast that is kept would outlive the weight's change
                self._contexts.append(partial(torch.autocast, kind, dtype, cache_enabled=False))
        if torch.cuda.is_initialized():
            self._contexts.append(partial(torch.cuda.stream, torch.cuda.current_stream()))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """In another thread."""
        torch.set_num_threads(self._threads)
        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context())
            yield


class _Made(TorchDispatchMode):
    """Notes the memory of the tensors that operations make."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._storages: WeakSet[torch.UntypedStorage] = WeakSet()

    def bytes(self) -> int:
        """Of those that are still held."""
        return sum(storage.nbytes() for storage in self._storages)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        given = {storage.data_ptr() for storage in _storages((args, kwargs))}
        self._storages.update(each for each in _storages(result) if each.data_ptr() not in given)
        return result


def _storages(value: Any) -> Iterator[torch.UntypedStorage]:
    return (tensor.untyped_storage() for tensor in tensors_in(value) if tensor.layout == torch.strided)
