"""Where a stream lives: in this process, or in one of its own that may die without us.

Unusual: both take a call by `send` and answer it by `receive`, so that processes work side by side
between the two. Not Gymnasium's vector environments: when one of their processes hangs or dies, all
are lost.
"""

import logging
import math
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from gymnasium.vector.utils import CloudpickleWrapper

from envs import contract
from envs.contract import ContractError
from envs.stream import Stream

BEGINNING = 300.0  # seconds that a process may take to start and to make its environment
PATIENCE = 5.0  # seconds that all processes together may take to close theirs


class EnvFailure(Exception):  # noqa: N818 (no error yet: the environment is begun anew)
    """An environment failed at what it was asked for; `trace` is the traceback, if it has one."""

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason)
        self.trace = trace


MakeStream = Callable[[int], Stream]


class Here:
    """A stream in this process; `close` it after `send("close")`, as the other kind."""

    def __init__(self, make_stream: MakeStream, stream: Stream | None = None) -> None:
        self._make = make_stream
        self._stream = stream or make_stream(0)

    def send(self, name: str, *arguments: Any) -> None:
        """Keep a call for `receive`."""
        self._call = name, arguments

    def receive(self) -> Any:
        """Make the call; raises EnvFailure, and ContractError, which no restart would help."""
        name, arguments = self._call
        try:
            if self._stream is None:
                self._stream = self._make(self._first)
            return getattr(self._stream, name)(*arguments)
        except ContractError:
            raise
        except (Exception, SystemExit) as error:
            raise EnvFailure(_reason(error), traceback.format_exc()) from error

    def restart(self, first: int) -> None:
        """Let go of the environment; the next call makes another."""
        self._first = first
        try:
            self.close()
        except Exception:  # it is broken: that it cannot even be closed changes nothing
            self._stream = None

    def close(self, deadline: float = math.inf) -> None:
        """Close the environment; nothing can be done about one that takes too long."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


class Worker:
    """A stream in a process of its own, which may take `timeout` seconds for an answer.

    A script that asks for one needs the usual `if __name__ == "__main__":`.
    """

    def __init__(self, make_stream: MakeStream, timeout: float | None) -> None:
        self._make, self._timeout = make_stream, timeout
        self._start(0)

    def _start(self, first: int) -> None:
        # Not fork: with torch's threads it can hang.
        known = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in known else "spawn"
        )
        self._pipe, theirs = context.Pipe()
        make_stream: Any = self._make
        task: Any = CloudpickleWrapper(make_stream)
        self._process = context.Process(target=_serve, args=(theirs, task, first), daemon=True)
        self._process.start()
        self._ready = False
        theirs.close()

    def send(self, name: str, *arguments: Any) -> None:
        """Ask the process; that it is dead is noticed when its answer is awaited."""
        self._sent, self._asked = time.monotonic(), name
        with suppress(OSError):
            self._pipe.send((name, arguments))

    def receive(self) -> Any:
        """The answer of the process; raises what `Here` does."""
        if not self._ready:
            limit = BEGINNING if self._timeout else None
            self._await(limit, f"its process was not ready within {BEGINNING:g} s")
            self._ready, self._sent = True, time.monotonic()
        # A whole episode is played again to restore it, however long it was.
        if self._timeout is None or self._asked == "restore":
            return self._await(None, "")
        left = max(0.0, self._sent + self._timeout - time.monotonic())
        late = f"its process gave no answer within {self._timeout:g} s (--env-timeout)"
        return self._await(left, late)

    def _await(self, seconds: float | None, failed: str) -> Any:
        outcome, *answer = self._hear(seconds, failed)
        while outcome == "told":  # by the other processes, too, and to be said once
            contract.tell(*answer)
            outcome, *answer = self._hear(seconds, failed)
        if outcome == "contract":
            raise ContractError(*answer)
        if outcome == "failed":
            raise EnvFailure(*answer)
        return answer[0]

    def _hear(self, seconds: float | None, failed: str) -> tuple[Any, ...]:
        """The next message of the process."""
        try:
            if seconds is not None and not self._pipe.poll(seconds):
                raise EnvFailure(failed)
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(PATIENCE)
            raise EnvFailure(f"its process died ({_death(self._process.exitcode)})") from error

    def restart(self, first: int) -> None:
        """End the process, however busy it is, and start another."""
        self._process.kill()
        self._end()
        self._start(first)

    def close(self, deadline: float) -> None:
        """See that the process ends, which was sent "close" before."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
        self._end()

    def _end(self) -> None:
        self._process.join()
        self._process.close()
        self._pipe.close()


class _ToParent(logging.Handler):
    """Hands what a process would tell to the one that asked it."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send what `contract.tell` was called with."""
        _reply(self._pipe, "told", *(record.args or ()))


def _serve(pipe: Connection, task: Any, first: int) -> None:
    """What a process does: answer until it is told to close, or nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who saves
    contract.logger.addHandler(_ToParent(pipe))
    contract.logger.propagate = False
    try:
        stream: Stream = task.fn(first)
        _reply(pipe, "done", None)
        while (call := pipe.recv())[0] != "close":
            _answer(pipe, stream, *call)
        stream.close()
    except (EOFError, BrokenPipeError):
        return
    except (Exception, SystemExit) as error:
        _reply(pipe, *_failed(error))


def _answer(pipe: Connection, stream: Stream, name: str, arguments: tuple[Any, ...]) -> None:
    try:
        answer = "done", getattr(stream, name)(*arguments)
    except (Exception, SystemExit) as error:
        answer = _failed(error)
    _reply(pipe, *answer)


def _reply(pipe: Connection, *answer: Any) -> None:
    with suppress(BrokenPipeError):
        pipe.send(answer)


def _failed(error: BaseException) -> tuple[str, ...]:
    if isinstance(error, ContractError):
        return "contract", str(error)
    return "failed", _reason(error), traceback.format_exc()


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"
