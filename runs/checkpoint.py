"""Checkpoints: tensors in safetensors, everything else in JSON, nothing pickled.

A checkpoint is a folder written under another name and renamed when complete, with a file `done`
written last: it is there whole or not at all.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from agent.agent import Agent, read_about
from agent.learner import Learner
from worldmodel.types import tree_leaves, tree_unflatten

KEEP = 2


def save(folder: Path, agent: Agent, learner: Learner, state: dict[str, Any], step: int) -> Path:
    """Write checkpoints/step-N into a run's folder, and drop all but the last few."""
    final = folder / "checkpoints" / f"step-{step:010d}"
    partial = final.with_name(f".{final.name}.partial")
    write(partial, agent, learner, state)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in complete(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def write(path: Path, agent: Agent, learner: Learner, state: dict[str, Any]) -> None:
    """Write a checkpoint into a folder, which is emptied first."""
    shutil.rmtree(path, ignore_errors=True)
    agent.save(path)
    save_file(_learner_tensors(learner), path / "learner.safetensors")
    form, arrays = _split_arrays(state | {"torch_rng": torch.get_rng_state().numpy()})
    save_arrays(arrays, path / "state.safetensors")
    (path / "state.json").write_text(json.dumps(form))
    (path / "done").touch()


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = (folder / "checkpoints").glob("step-*")
    return sorted(path for path in found if (path / "done").is_file() and _NAME.match(path.name))


_NAME = re.compile(r"step-\d{10}$")


def load(path: Path, agent: Agent, learner: Learner) -> dict[str, Any]:
    """Restore agent and learner in place; returns the state that was saved with them."""
    read_about(path)
    agent.load_state_dict(load_file(path / "agent.safetensors"))
    _load_learner_tensors(learner, load_file(path / "learner.safetensors"))
    form = json.loads((path / "state.json").read_text())
    state = _join_arrays(form, load_arrays(path / "state.safetensors"))
    torch.set_rng_state(torch.from_numpy(state.pop("torch_rng").copy()))
    return state


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
