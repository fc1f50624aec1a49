"""Checkpoints: tensors in safetensors, everything else in JSON, nothing pickled.

A checkpoint is a folder that is written and sealed under another name, and renamed when complete:
it is there whole or not at all. It is renamed again before it is removed.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as arrays_to_bytes
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from agent import sealed
from agent.agent import Agent, read_about
from agent.learner import Learner
from worldmodel.types import tree_leaves, tree_unflatten

FOLDER = "checkpoints"
PARTIAL, DROPPED = ".partial", ".dropped"


def save(
    folder: Path,
    agent: Agent,
    learner: Learner,
    state: dict[str, Any],
    step: int,
    keep: int = 2,
    score: float | None = None,
) -> Path:
    """Write checkpoints/step-N into a run's folder, and drop all but the last `keep` and the best.

    The run's folder has to be there: one that has vanished is not made anew.
    """
    final = folder / FOLDER / f"step-{step:010d}"
    partial = final.with_name(f".{final.name}{PARTIAL}")
    if not final.parent.exists():
        final.parent.mkdir()
        sealed.sync(folder)
    try:
        write(partial, agent, learner, state, score)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _publish(partial)
    top = best(folder)
    for old in complete(folder)[:-keep]:
        if old != top:
            _drop(old)
    return final


def write(
    path: Path, agent: Agent, learner: Learner, state: dict[str, Any], score: float | None = None
) -> None:
    """Write a checkpoint into a folder, which is emptied first."""
    shutil.rmtree(path, ignore_errors=True)
    agent.save(path)
    (path / "learner.safetensors").write_bytes(to_bytes(_learner_tensors(learner)))
    form, arrays = _split_arrays(state | _random_states())
    (path / "state.safetensors").write_bytes(arrays_to_bytes(arrays))
    (path / "state.json").write_text(json.dumps(form))
    sealed.seal(path, score=score)


def size(learner: Learner) -> int:
    """About the bytes of a checkpoint: all weights, and two moments of each parameter."""
    moments = [*learner.parameters()] * 2
    tensors = [*learner.state_dict().values(), *tree_leaves((learner.carry, learner.past))]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*tensors, *moments))


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = (folder / FOLDER).glob("step-*")
    return sorted(path for path in found if (path / "done").is_file() and _NAME.match(path.name))


def best(folder: Path) -> Path | None:
    """The complete checkpoint with the best score, the newest of equals; None without scores."""
    scores = [(sealed.about(path).get("score"), path) for path in complete(folder)]
    scored = [(score, path) for score, path in scores if isinstance(score, int | float)]
    return max(scored)[1] if scored else None


def settle(folder: Path) -> None:
    """Finish what a kill left half done: who calls holds the run's lock."""
    for partial in (folder / FOLDER).glob(f".step-*{PARTIAL}"):
        if (partial / sealed.DONE).is_file():
            _publish(partial)
        else:
            shutil.rmtree(partial)
    for dropped in (folder / FOLDER).glob(f".step-*{DROPPED}"):
        shutil.rmtree(dropped)


def put_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is none any more; its new name."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def _publish(partial: Path) -> None:
    final = partial.with_name(partial.name[1 : -len(PARTIAL)])
    if final.exists():
        _drop(final)
    partial.rename(final)
    sealed.sync(final.parent)


def _drop(path: Path) -> None:
    dropped = path.with_name(f".{path.name}{DROPPED}")
    shutil.rmtree(dropped, ignore_errors=True)
    path.rename(dropped)
    shutil.rmtree(dropped)


_NAME = re.compile(r"step-\d{10}$")


def load(path: Path, agent: Agent, learner: Learner) -> dict[str, Any]:
    """Restore agent and learner in place; returns the state that was saved with them.

    Raises:
        DamagedError: where a file is not what was written.
    """
    sealed.check(path)
    read_about(path)
    agent.load_state_dict(load_file(path / "agent.safetensors"))
    _load_learner_tensors(learner, load_file(path / "learner.safetensors"))
    form = json.loads((path / "state.json").read_text())
    state = _join_arrays(form, load_arrays(path / "state.safetensors"))
    torch.set_rng_state(torch.from_numpy(state.pop("torch_rng").copy()))
    on_gpu = state.pop("cuda_rng", None)
    if on_gpu is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(on_gpu.copy()))
    return state


def _random_states() -> dict[str, np.ndarray]:
    """Of torch, and of a GPU in use; all others are saved by those who draw from them."""
    states = {"torch_rng": torch.get_rng_state().numpy()}
    if torch.cuda.is_initialized():
        states["cuda_rng"] = torch.cuda.get_rng_state().numpy()
    return states


def _learner_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    """All that an agent does not hold: critics, scales, optimisers and the rows' carries."""
    tensors = {name: value for name, value in learner.state_dict().items() if _beyond_agent(name)}
    for kind, optimiser in learner.optimisers.items():
        tensors |= optimiser_tensors(optimiser, f"optimiser/{kind}/")
    # Copies, since leaves of an initial carry may share memory, which safetensors refuses.
    leaves = enumerate(tree_leaves((learner.carry, learner.past)))
    tensors |= {f"carry/{i}": leaf.clone().contiguous() for i, leaf in leaves}
    return tensors | {"updates": torch.tensor(learner.updates)}


def _load_learner_tensors(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    weights = {name: value for name, value in tensors.items() if _beyond_agent(name)}
    missing = learner.load_state_dict(weights, strict=False).missing_keys
    assert not [name for name in missing if _beyond_agent(name)], missing
    for kind, optimiser in learner.optimisers.items():
        load_optimiser(optimiser, f"optimiser/{kind}/", tensors)
    rows = (learner.carry, learner.past)
    leaves = [tensors[f"carry/{i}"].to(leaf.device) for i, leaf in enumerate(tree_leaves(rows))]
    learner.carry, learner.past = tree_unflatten(rows, leaves)
    learner.updates = int(tensors["updates"])


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """What an optimiser has gathered of each parameter, named PREFIX<parameter>/<slot>."""
    return {
        f"{prefix}{index}/{slot}": value
        for index, slots in optimiser.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, prefix: str, tensors: dict[str, torch.Tensor]
) -> None:
    """Put back what `optimiser_tensors` took; other tensors are left alone."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, slot = name.removeprefix(prefix).split("/")
            state.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def _beyond_agent(name: str) -> bool:
    return name.startswith(("behaviour.critic.", "behaviour.slow.", "behaviour.scale."))


def _split_arrays(tree: Any, arrays: dict[str, np.ndarray] | None = None):
    """A tree of plain values, with its arrays taken out and replaced by their names."""
    arrays = {} if arrays is None else arrays
    if isinstance(tree, dict):
        return {key: _split_arrays(value, arrays)[0] for key, value in tree.items()}, arrays
    if isinstance(tree, list | tuple):
        return [_split_arrays(value, arrays)[0] for value in tree], arrays
    if isinstance(tree, np.ndarray | np.generic):
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(tree)
        return {"array": name, "shape": list(np.shape(tree))}, arrays
    return tree, arrays


def _join_arrays(form: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(form, dict):
        if form.keys() == {"array", "shape"}:
            return arrays[form["array"]].reshape(form["shape"])
        return {key: _join_arrays(value, arrays) for key, value in form.items()}
    if isinstance(form, list):
        return [_join_arrays(value, arrays) for value in form]
    return form
