"""How much memory one update takes, on short and on long contexts.

The whole update of the learner, dreams of the policy included. Each context has a process of its
own, which learns once from a tiny one first, so that libraries, gradients and the optimiser's state
are there before. The replayed batch is made before, too: the memory of the update does not count
it, the memory of the process does.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from agent.actor_critic import BehaviourConfig
from agent.agent import Agent
from agent.learner import Learner, OptimiserConfig
from runs.bench.figures import Found, Say, Scale
from runs.bench.subject import ACTIONS, IMAGES, random_records
from runs.bench.timing import ratio
from worldmodel.long_context import LongContextConfig
from worldmodel.model import ModelConfig
from worldmodel.types import Records, tree_leaves

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
STARTS = 16


@dataclass(frozen=True)
class Request:
    """What a process has to measure."""

    context: int
    window: int
    gradient: int
    threads: int = 1


def footprint(scale: Scale, say: Say) -> Found:
    """Memory of an update on long contexts, over that on short ones."""
    least, most = min(scale.memory_contexts), max(scale.memory_contexts)
    cut = [Request(n, scale.window, scale.window) for n in scale.memory_contexts]
    across = [Request(n, scale.window, scale.gradient) for n in (least, most)]
    taken: dict[Request, list[dict[str, Any]]] = {request: [] for request in (*cut, *across)}
    say(f"memory: contexts of {scale.memory_contexts} frames, each in a process of its own")
    for i in range(scale.repetitions):
        say(f"  round {i + 1} of {scale.repetitions}")
        for request, found in taken.items():
            found.append(_in_a_process(request))
    updates = {r: [part["peak"] - part["before"] for part in f] for r, f in taken.items()}
    whole = {request: [part["peak"] for part in found] for request, found in taken.items()}
    values: dict[str, float | str] = {
        "peak_memory_4096_over_512": ratio(updates[cut[-1]], updates[cut[0]]),
        "peak_memory_4096_over_512_recomputed": ratio(updates[across[1]], updates[across[0]]),
        "peak_rss_4096_over_512": ratio(whole[cut[-1]], whole[cut[0]]),
    }
    series = {
        "contexts": list(scale.memory_contexts),
        "update_bytes": [median(updates[request]) for request in cut],
        "process_bytes": [median(whole[request]) for request in cut],
        "batch_bytes": [taken[request][0]["batch"] for request in cut],
        "processes": [asdict(request) | {"found": found} for request, found in taken.items()],
    }
    return Found(values, {"memory": series})


def _in_a_process(request: Request) -> dict[str, Any]:
    asked = json.dumps(asdict(request) | {"threads": torch.get_num_threads()})
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-m", "runs.bench.footprint", asked]
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"measuring memory failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def measure(request: Request) -> dict[str, Any]:
    """Bytes of this process before one update and at its peak."""
    torch.set_num_threads(request.threads)
    torch.manual_seed(0)
    starts = min(STARTS, request.window)
    context = LongContextConfig(window=request.window, gradient=request.gradient)
    agent = Agent(IMAGES, ACTIONS, ModelConfig())
    learner = Learner(agent, BehaviourConfig(starts=starts), OptimiserConfig(), context, 1)
    began = torch.zeros(1, dtype=torch.bool)
    learner.update(random_records(1, starts), began)
    records = random_records(1, request.context)
    _give_back()
    reset, before = _reset_peak(), _resident()
    learner.update(records, began)
    batch = _bytes(records)
    return {"before": before, "peak": _peak(), "batch": batch, "peak_was_reset": reset}


def _bytes(records: Records) -> int:
    """What the replayed batch itself takes."""
    parts = [*records.observation.values(), *tree_leaves(records[1:])]
    return sum(part.numel() * part.element_size() for part in parts)


def _give_back() -> None:
    """Return to the system what is free, so that it is counted when it is used again."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim:
            trim(0)


def _reset_peak() -> bool:
    """Let the peak begin anew, where the system can do that."""
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _resident() -> int:
    return _status("VmRSS") if STATUS.exists() else _most()


def _peak() -> int:
    return _status("VmHWM") if STATUS.exists() else _most()


def _status(name: str) -> int:
    """A size in bytes from what Linux says of this process."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def _most() -> int:
    """The peak since the process began; macOS says it in bytes, others in KiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


if __name__ == "__main__":
    print(json.dumps(measure(Request(**json.loads(sys.argv[1])))))
