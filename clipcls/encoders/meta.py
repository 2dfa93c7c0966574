"""Models built without weights, which then take a checkpoint's as they lie in its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch.nn import Module, Parameter
from torch.nn.modules.module import register_module_parameter_registration_hook


@contextmanager
def awaiting_weights() -> Iterator[None]:
    """What this thread builds meanwhile has shapes for parameters, and ``load_state_dict`` gives it tensors for them.

    To fill a large model with random numbers takes longer than to read it, and to copy the checkpoint over them takes
    its size in memory twice. Tensors of a safetensors file, given as they are, stay in the file until they are used.

    Buffers are made as ever: those that no checkpoint holds (attention masks, positions) would be lost otherwise.
    """
    thread = get_ident()
    handles: list[Any] = []

    def forgo(module: Module, name: str, parameter: Parameter) -> Parameter | None:
        if get_ident() != thread or name in module._parameters:  # the latter is a tensor of the checkpoint
            return None
        handles.append(module.register_load_state_dict_pre_hook(_take_as_they_are))  # type: ignore[no-untyped-call]
        return Parameter(parameter.to("meta"), parameter.requires_grad)

    handles.append(register_module_parameter_registration_hook(forgo))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def lacks_weights(model: Module) -> bool:
    """Whether parameters or buffers have shapes but no numbers."""
    return any(tensor.is_meta for part in (model.parameters(), model.buffers()) for tensor in part)


def _take_as_they_are(module: Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any) -> None:
    """Have a module given its tensors, not a copy; only in another precision or order there has to be one."""
    metadata["assign_to_params_buffers"] = True
    for name, own in (*module._parameters.items(), *module._buffers.items()):
        given = state.get(prefix + name)
        if own is not None and isinstance(given, torch.Tensor):
            state[prefix + name] = given.to(own.dtype).contiguous()
