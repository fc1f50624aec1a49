"""Commands in processes of their own, forked from one that has imported everything already.

What kills them is real: SIGKILL at a line of the code that writes, or any signal at some moment.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch.utils.tensorboard
from runs.cli import main
from runs.recipes import RECIPES
from runs.session import Trainer

WRITERS = ("checkpoint.py", "replay.py", "sealed.py", "telemetry.py")

def killer(line):
    left = [line]
    def lines(frame, event, argument):
        left[0] -= event == "line"
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return lines
    def calls(frame, event, argument):
        return lines if frame.f_code.co_filename.endswith(WRITERS) else None
    return calls

def child(asked):
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for statement in asked["before"]:
        exec(statement)
    if asked["line"]:
        sys.settrace(killer(asked["line"]))
    code = main(asked["arguments"])
    sys.settrace(None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

with TemporaryDirectory() as folder:  # what is imported late is imported here
    trainer = Trainer(RECIPES["debug"].config, Path(folder) / "run")
    trainer.start()
    trainer.close()
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        child(asked)
    if asked["seconds"]:
        time.sleep(asked["seconds"])
        os.kill(pid, asked["signal"])
    began = time.monotonic()
    _, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status), time.monotonic() - began
    print(json.dumps(ended), flush=True)
"""


class Sittings:
    """Runs commands of `clew`, one after another, each in a fork of a prepared process."""

    def __init__(self, log: Path) -> None:
        self.log, self.seconds = log, 0.0
        command = [sys.executable, "-c", SERVER]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[2], text=True, **pipes)

    def __enter__(self) -> "Sittings":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.communicate()

    def __call__(
        self,
        *arguments: str,
        line: int = 0,
        seconds: float = 0.0,
        signal: int = 9,
        before: tuple[str, ...] = (),
    ) -> int:
        """The exit code of a command (negative: of what killed it), after statements of Python.

        It is killed at the so-manieth `line` of what writes, or gets a signal after some `seconds`;
        `self.seconds` then says how long it went on.
        """
        asked = {"arguments": arguments, "line": line, "seconds": seconds, "signal": signal}
        assert self.process.stdin
        assert self.process.stdout
        print(
            json.dumps(asked | {"log": str(self.log), "before": before}),
            file=self.process.stdin,
            flush=True,
        )
        code, self.seconds = json.loads(self.process.stdout.readline())
        return code
