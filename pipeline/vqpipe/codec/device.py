"""The device that a codec runs on: which one it is, and what torch says when it fails."""

import contextlib
import sys
from collections.abc import Iterator
from subprocess import CalledProcessError

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
_BROKEN = ("illegal", "misaligned address", "launch failure", "uncorrectable", "_STATUS_")
"""What it says of such a device even where the compiler met it first. Other errors of CUDA there,
of images and of PTX, are about kernels that do not fit."""
_SHORT = (
    "can't allocate memory",
    "ALLOC_FAILED",
    "CUDA out of memory",
    *(
        f"{who}: out of memory"
        for who in ("CUDA error", "CUDA driver error", "Triton Error [CUDA]")
    ),
)
"""What it says of memory that is short."""
_NO_COMPILER = ("Failed to find C compiler", "No working C++ compiler")
"""What triton and Inductor say where there is no gcc."""


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
    except (RuntimeError, CalledProcessError) as error:
        explained = _explain(error)
        if explained is None:
            raise
        raise explained from error


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether memory is short: CUDA's allocator, the host's, or a library's own request.

    What torch's compiler meets on its way it wraps into an error of its own, of which the text
    alone says what it was.
    """
    return isinstance(error, torch.OutOfMemoryError) or _says(error, _SHORT)


def _explain(error: Exception) -> Exception | None:
    if is_out_of_memory(error):
        return MachineError(f"the device has no room left for the network: {in_one_line(error)}")
    is_broken = _says(error, _SICK) and _says(error, _BROKEN)
    if _is_of_compiler(error) and not is_broken:
        return _cannot_compile(error)
    accelerator_error = getattr(torch, "AcceleratorError", ())  # from torch 2.8 on
    if isinstance(error, accelerator_error) or _says(error, _SICK):
        return DeviceError(in_one_line(error))
    return None


def _is_of_compiler(error: Exception) -> bool:
    """Tells whether a compiler raised it; what has never been imported did not."""
    dynamo = sys.modules.get("torch._dynamo.exc")
    wrapped = getattr(dynamo, "TorchDynamoException", ())
    return isinstance(error, (CalledProcessError, wrapped)) or _says(error, _NO_COMPILER)


def _cannot_compile(error: Exception) -> ConfigError:
    said = " ".join(str(error).split("\n")[:2])  # which backend failed, and of what
    lacks_one = _says(error, _NO_COMPILER)
    way_out = "it needs a C compiler such as gcc. Install one, or add" if lacks_one else "add"
    return ConfigError(
        f"torch.compile cannot make kernels here: {said}; {way_out} --eager, which is slower"
    )


def _says(error: Exception, signs: tuple[str, ...]) -> bool:
    return any(sign in str(error) for sign in signs)
