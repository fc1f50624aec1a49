"""The command `clew`: which command, and what its end means to the shell.

Exit codes: 0 done, 1 the run itself failed, 2 refused (a mistake in what was asked for, found
before anything was written), 130 interrupted. What is heavy is imported when it is needed.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

COMMANDS = (
    "train",
    "evaluate",
    "compare",
    "report",
    "baseline",
    "collect",
    "bench",
    "check-env",
    "recipes",
    "hub",
    "doctor",
)

USAGE = """\
usage: clew COMMAND [OPTIONS]

Train agents that find their way by remembering.

  clew train RECIPE             train by a recipe; any setting can follow, such as --seed 1
  clew train --env ID           train in any environment (an id, module:Id, or file.py:Class)
  clew train --dataset ID       train a world model alone, on recorded episodes
  clew train --resume RUN       go on with a run that was interrupted, or for more --steps
  clew evaluate RUN             what it earns, and how far back it remembers (--suite)
  clew compare RUN RUN ...      runs side by side, and seeds together
  clew report results           the table of what is solved, rebuilt from runs/results/
  clew baseline KIND --env ID   PPO, RecurrentPPO, random or oracle, evaluated alike
  clew bench context            what a long context costs here, all backbones side by side
  clew bench patterns           what all patterns of layers remember of a maze, compared
  clew collect ENV              record episodes as a Minari dataset, by --policy
  clew check-env ID             what clew makes of an environment, and what is wrong with it
  clew recipes                  list the recipes
  clew hub                      list the agents that need no training: clew evaluate hub:tmaze
  clew doctor                   what this machine offers
  clew doctor RUN/crash         why a run ended whose numbers were not finite
  clew --version

`clew train --help` and `clew train RECIPE --help` list every setting."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        return _version()
    if arguments[0] not in COMMANDS:
        near = difflib.get_close_matches(arguments[0], COMMANDS, cutoff=0.4) or list(COMMANDS)
        return _say(f"There is no command {arguments[0]!r}. Nearest: {', '.join(near)}.", 2)
    return _run(arguments[0], arguments[1:])


def _run(command: str, arguments: list[str]) -> int:
    """A command, with the ends that are no fault of ours told without a traceback."""
    _be_found()
    from agent.learner import NonFiniteError
    from envs import ContractError, EnvFailedError
    from envs.dataset import DatasetError
    from runs import commands
    from runs.folder import RefusalError
    from runs.storage import StorageError

    try:
        return getattr(commands, command.replace("-", "_"))(arguments)
    except RefusalError as error:
        return _say(str(error), 2)
    except DatasetError as error:
        return _say(f"{error}.", 1)
    except ContractError as error:
        return _say(f"{error} clew check-env tells what else is wrong.", 1)
    except (NonFiniteError, EnvFailedError, StorageError) as error:
        return _say(str(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains again as it ends
        return _say("Nobody reads the output any more.", 1)
    except KeyboardInterrupt:
        return _say("Interrupted.", 130)
    except SystemExit as done:  # tyro's way to end after --help or a mistake
        return done.code if isinstance(done.code, int) else 2


def _be_found() -> None:
    """See that our packages are found, not a user's of the same name that PYTHONPATH leads to."""
    root = Path(__file__).resolve().parents[1]
    for name in ("agent", "envs", "worldmodel"):
        spec = None if name in sys.modules else find_spec(name)
        if spec is not None and Path(spec.origin or "").parent != root / name:
            sys.path.insert(0, str(root))
            return


def _version() -> int:
    from runs.folder import version

    print(f"clew {version()}")
    return 0


def _say(message: str, code: int) -> int:
    print(f"clew: {message}", file=sys.stderr)
    return code
