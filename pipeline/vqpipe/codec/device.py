"""The device that a codec runs on: which one it is, and what torch says when it fails."""

import contextlib
from collections.abc import Iterator

import torch

from vqpipe.codec.config import Device
from vqpipe.errors import ConfigError, DeviceError, MachineError, in_one_line

_SICK = (
    "CUDA error",
    "CUDA driver error",
    "Triton Error [CUDA]",
    *(
        f"{library}_STATUS_{status}"
        for library in ("CUDNN", "CUBLAS")
        for status in ("EXECUTION_FAILED", "INTERNAL_ERROR", "NOT_INITIALIZED", "MAPPING_ERROR")
    ),
)
"""What torch says of a device after which nothing works there any more in this process."""


def choose_device(device: Device, *, promised: bool = False) -> str:
    """Returns the device to use on this machine.

    Args:
        device: What was asked for.
        promised: Whether a GPU of this machine has been set aside for this process.

    Raises:
        ConfigError: If CUDA is asked for and there is none.
        DeviceError: If a promised GPU cannot be seen by a torch that could use it.
    """
    has_cuda = torch.cuda.is_available()
    if promised and not has_cuda and torch.version.cuda:
        raise DeviceError(f"Ray gave a GPU, but torch {torch.__version__} sees no CUDA device")
    if device == "cuda" and not has_cuda:
        raise ConfigError("--device cuda, but torch sees no CUDA device here; use --device cpu")
    return "cuda" if has_cuda and device != "cpu" else "cpu"


def device_name(device: str) -> str:
    """Returns what a person calls the device."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu x{torch.get_num_threads()}"


@contextlib.contextmanager
def watch_device() -> Iterator[None]:
    """Turns what torch raises in a block into errors of ours where they say what to do.

    Raises:
        DeviceError: If the device fails.
        MachineError: If it has no room, and no batch to halve.
        ConfigError: If kernels could not be compiled.
    """
    try:
        yield
    except RuntimeError as error:
        explained = _explain(error)
        if explained is None:
            raise
        raise explained from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tells whether memory is short: CUDA's allocator, the host's, or a library's own request."""
    signs = ("can't allocate memory", "ALLOC_FAILED", "CUDA error: out of memory")
    is_short = any(sign in str(error) for sign in signs)
    return isinstance(error, torch.OutOfMemoryError) or is_short


def _explain(error: RuntimeError) -> Exception | None:
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 (takes a second)

    if isinstance(error, TorchDynamoException):
        said = " ".join(str(error).split("\n")[:2])  # which backend failed, and of what
        return ConfigError(
            f"torch.compile cannot make kernels here: {said}; it needs a C compiler such as gcc. "
            "Install one, or add --eager, which is slower"
        )
    if is_out_of_memory(error):
        return MachineError(f"the device has no room left for the network: {in_one_line(error)}")
    accelerator_error = getattr(torch, "AcceleratorError", ())  # from torch 2.8 on
    if isinstance(error, accelerator_error) or any(sign in str(error) for sign in _SICK):
        return DeviceError(in_one_line(error))
    return None
