"""The whole Scan operation beside Mamba-2 in torch as the transformers package has it.

The same weights, shapes and tokens, one sequence, forward and backward. Both compute the same, and
that is checked before they are timed. transformers is run as it comes, in chunks of 256 tokens, and
in shorter ones, which are faster on a CPU: tuned means its fastest. Its releases differ a lot in
speed; which one it was is reported.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from statistics import median
from typing import Any

import torch
from torch import Tensor

from runs.bench.figures import Found, Say, Scale
from runs.bench.timing import Job, interleave, ratio
from worldmodel.layers import Scan, Sizes

Form = Callable[[Tensor], Tensor]

GRID = (4, 4)
DEFAULT, CHUNKS = 256, (32, 64, 128, 256)  # tokens, of transformers
TOLERANCE = 1e-3
NEEDS = "pip install transformers (or 'clew[bench]')"


@dataclass(frozen=True)
class Shape:
    """Sizes of the operation."""

    width: int
    head: int
    state: int


SHAPES = {
    "scan_over_transformers": Shape(64, 16, 16),
    "scan_over_transformers_wide": Shape(256, 64, 64),
}


def peer(scale: Scale, say: Say) -> Found:
    """Speed of a scan over that of transformers."""
    say(f"scan: {scale.tokens:,} tokens, beside transformers")
    try:
        transformers = import_module("transformers")
        mamba = import_module("transformers.models.mamba2.modeling_mamba2")
    except ImportError as error:
        keys = [key + which for key in SHAPES for which in ("", "_tuned")]
        return Found(dict.fromkeys(keys, f"{NEEDS}: {error}"), {})
    transformers.logging.set_verbosity_error()  # it would name kernels that only a GPU could use
    values: dict[str, float | str] = {}
    series: dict[str, Any] = {"transformers": transformers.__version__}
    for key, shape in SHAPES.items():
        taken, about = _compare(transformers, mamba, shape, scale)
        fastest = min(CHUNKS, key=lambda chunk: median(taken[str(chunk)]))
        values[key] = ratio(taken[str(DEFAULT)], taken["scan"])
        values[f"{key}_tuned"] = ratio(taken[str(fastest)], taken["scan"])
        series[key] = about | {"fastest_chunk": fastest, "seconds": taken}
    return Found(values, {"peer": series})


def _compare(transformers: Any, mamba: Any, shape: Shape, scale: Scale):
    """Seconds of our operation and of theirs by its chunk, and what was compared."""
    x = torch.randn(1, scale.tokens // 16, 16, shape.width, requires_grad=True)
    scan = Scan(Sizes(GRID, shape.width, shape.head, shape.state), GRID)
    forms: dict[str, Form] = {"scan": partial(_scan, scan)}
    for chunk in CHUNKS:
        forms[str(chunk)] = _mixer(transformers, mamba, scan, shape, chunk)
    differences = _differences(forms, x)
    jobs: dict[str, Job] = {name: partial(_train, form, x) for name, form in forms.items()}
    for job in jobs.values():
        job()
    taken = interleave(jobs, scale.short_repetitions)
    about = {"shape": asdict(shape), "tokens": scale.tokens, "relative_difference": differences}
    return taken, about


def _scan(scan: Scan, x: Tensor) -> Tensor:
    is_first = torch.zeros(x.shape[:2], dtype=torch.bool)
    return scan(x, scan.initial(len(x)), is_first)[0].flatten(1, 2)


def _mixer(transformers: Any, mamba: Any, scan: Scan, shape: Shape, chunk: int) -> Form:
    """Mamba-2 of transformers with the weights of a scan."""
    config = transformers.Mamba2Config(
        hidden_size=shape.width,
        expand=2,
        num_heads=scan.heads,
        head_dim=shape.head,
        state_size=shape.state,
        conv_kernel=scan.conv1d.kernel_size[0],
        n_groups=1,
        chunk_size=chunk,
        num_hidden_layers=1,
    )
    mixer = mamba.Mamba2Mixer(config, layer_idx=0)
    mixer.load_state_dict(scan.state_dict())
    # Releases before 5 name it; later ones take it wherever there is no kernel.
    forward = getattr(mixer, "torch_forward", mixer)
    return lambda x: forward(x.flatten(1, 2))


def _train(form: Form, x: Tensor) -> None:
    """Forward and backward, to the input and to every weight."""
    y = form(x)
    y.backward(torch.ones_like(y))


def _differences(forms: dict[str, Form], x: Tensor) -> dict[str, float]:
    """How far the outputs of the others are from ours, relative to their size.

    Raises:
        RuntimeError: where they are not the same; there is nothing to compare, then.
    """
    with torch.no_grad():
        ours, *others = (form(x) for form in forms.values())
    apart = [float((ours - theirs).abs().max() / theirs.abs().max()) for theirs in others]
    if max(apart) > TOLERANCE:
        raise RuntimeError(f"Scan and Mamba-2 of transformers differ by {max(apart):.1e}")
    return dict(zip(list(forms)[1:], apart, strict=True))
