"""LPIPS (Zhang et al. 2018), where its weights are already on this machine; none are downloaded."""

import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

WEIGHTS = "alexnet-owt-7be5be79.pth"  # as torchvision names what it downloads
AT_ONCE = 256


def present() -> bool:
    """Whether LPIPS can be measured."""
    return not _lack()


def about() -> str:
    """Whether it is measured, and else why not."""
    return _lack() or "measured, by AlexNet"


def _lack() -> str:
    if find_spec("torchvision") is None:
        return "not measured: it needs torchvision and the weights of its AlexNet"
    weights = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not weights.is_file():
        return f"not measured: its weights are not there ({weights})"
    return "" if _are_weights(weights) else f"not measured: {weights} holds more than weights"


@cache
def _are_weights(path: Path) -> bool:
    """Whether a pickle builds tensors and nothing else: torchvision would run whatever it says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # anything, where a file is no pickle at all
        return False
    return True


@cache
def _network():
    from torchmetrics.functional.image.lpips import _LPIPS

    return _LPIPS(net="alex").eval()


@torch.no_grad()
def distance(truth: Tensor, pictures: Tensor, scale: float) -> Tensor:
    """LPIPS of each picture (n, height, width, 3), 0 for the same one."""
    pairs = zip(truth.split(AT_ONCE), pictures.split(AT_ONCE), strict=True)
    return torch.cat([_network()(*(_planes(a, scale) for a in pair)).flatten() for pair in pairs])


def _planes(pictures: Tensor, scale: float) -> Tensor:
    return pictures.float().movedim(-1, 1) / scale * 2 - 1
