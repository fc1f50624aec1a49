"""Reference agents that come with clew: `clew evaluate hub:tmaze` needs no training first.

runs/agents/<name>/ is a run's folder without what only training needs: config.json and the newest
agent. Asked for, it is copied to outputs/, for a run's folder is where its evaluations go.
"""

import difflib
import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agent import sealed
from agent.agent import FILES
from runs import folder
from runs.folder import CONFIG

AGENTS = Path(__file__).parent / "agents"
MARK = "hub:"
LARGEST = 5_000_000  # bytes of an agent that is kept


def names() -> list[str]:
    """What there is."""
    return sorted(path.parent.name for path in AGENTS.glob(f"*/{CONFIG}"))


def local(run: str | Path, out: Path = Path("outputs")) -> Path:
    """The folder of a run; of `hub:NAME` the copy in `out`, which is made where there is none.

    Raises:
        ValueError: where no reference agent has this name.
    """
    if not str(run).startswith(MARK):
        return Path(run)
    name = str(run).removeprefix(MARK)
    if name not in names():
        near = difflib.get_close_matches(name, names(), cutoff=0.4) or names()
        raise ValueError(f"There is no reference agent {name!r}. Nearest: {', '.join(near)}.")
    copy = out / f"hub-{name}"
    if not (copy / CONFIG).is_file():
        partial = out / f".hub-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(AGENTS / name, partial)
        partial.rename(copy)
    return copy


def keep(run: Path, name: str, agents: Path = AGENTS) -> Path:
    """Make a run's newest agent the reference agent of this name.

    Raises:
        ValueError: where the folder is no run, or its agent is too large to be kept.
    """
    folder.read_config(run)
    newest = folder.newest_checkpoint(run)
    size = sum((newest / file).stat().st_size for file in FILES)
    if size > LARGEST:
        raise ValueError(f"The agent of {run} has {size:,} bytes, more than {LARGEST:,}.")
    path = folder.place(agents, name)
    shutil.rmtree(path, ignore_errors=True)
    kept = path / "checkpoints" / newest.name
    kept.mkdir(parents=True)
    for file in FILES:
        shutil.copyfile(newest / file, kept / file)
    sealed.seal(kept)
    shutil.copyfile(run / CONFIG, path / CONFIG)
    return path


def show(console: Console) -> None:
    """List what there is."""
    table = Table("agent", "learned in", "steps", "seed")
    for name in names():
        config, _ = folder.read_config(AGENTS / name)
        task = " ".join([config.env, *(f"{k}={v}" for k, v in config.env_kwargs.items())])
        steps = folder.step_of(folder.newest_checkpoint(AGENTS / name))
        table.add_row(MARK + name, task, f"{steps:,}", str(config.seed))
    console.print(table)
    console.print("Measure one: clew evaluate hub:tmaze. Used first, it is copied to outputs/.")
