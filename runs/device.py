"""Where to compute and how, by name; a name that cannot be had here is refused."""

import torch

from worldmodel.kernel import choose, kernel_error


def pick_device(name: str) -> torch.device:
    """The device of a name; 'auto' is CUDA where there is one.

    Raises:
        ValueError: where the device is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device = {name!r} cannot be used here: {error}") from error
    return torch.device(name)


def pick_scan(name: str, device: torch.device) -> str:
    """The body of the scan that a name stands for on a device.

    Raises:
        ValueError: where mamba-ssm is asked for and cannot run.
    """
    if name == "mamba-ssm" and (cause := kernel_error(device)):
        raise ValueError(
            f"scan = 'mamba-ssm' cannot be used here: {cause}. Leave it at scan = auto, or install "
            "it where there is an NVIDIA GPU: pip install --no-build-isolation 'clew[cuda]'."
        )
    return choose(name, device)


def check_threads(threads: int) -> None:
    """ValueError where a number of threads is none."""
    if threads < 0:
        raise ValueError(f"threads = {threads} must not be negative.")


def use_threads(threads: int) -> None:
    """Compute by so many CPU threads; 0 changes nothing."""
    if threads:
        torch.set_num_threads(threads)
