"""Errors a user can fix, and what disks refuse: one sentence on stderr and an exit code that a script can act on.

    2  usage or recipe      a flag, a value or a recipe that cannot be understood
    3  data                 images, annotations or shards that cannot be used
    4  weights              weights that do not exist or do not match
    5  parted               what was exported does not give the results of what it was made from
    75 stopped              stopped by a signal; the state is saved, continue with --resume
    130 interrupted         stopped by Ctrl-C; a training run saves its state first
    1  anything else

Every message is one sentence that ends with what to do. `guarded` prints it; nothing else does.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable

from shared.text import say


class Refusal(Exception):
    """The run cannot continue; the message says why and what to do."""

    exit_code = 1


class UsageError(Refusal, ValueError):
    """A flag, a value or a recipe that cannot be understood."""

    exit_code = 2


class DataError(Refusal):
    """Data that cannot be used."""

    exit_code = 3


class WeightsError(Refusal):
    """Weights that do not exist or do not match."""

    exit_code = 4


class Parted(Refusal):
    """An exported file does not give the results of the network that it was made from."""

    exit_code = 5


class Stopped(Refusal):
    """The run was stopped by a signal; its state is saved."""

    exit_code = 75


class Interrupted(Stopped):
    """The run was stopped by Ctrl-C; its state is saved."""

    exit_code = 130


class BadSample(ValueError):
    """A sample that cannot be read. The feed logs it, counts it and takes the next one of the plan instead.

    Args:
        name: file name, or shard and key.
        reason: why it cannot be read, a few words.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def guarded(prog: str) -> Callable[[Callable[[list[str]], int]], Callable[..., int]]:
    """Decorate a command's `main(argv) -> exit code`: one sentence on stderr, no traceback without --debug."""

    def decorate(main: Callable[[list[str]], int]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            argv = sys.argv[1:] if argv is None else argv
            debug = "--debug" in argv
            try:
                return main([word for word in argv if word != "--debug"])
            except Refusal as refusal:
                if debug:
                    raise
                say(f"{prog}: {refusal}", stream=sys.stderr)
                return refusal.exit_code
            except KeyboardInterrupt:
                say(f"{prog}: interrupted", stream=sys.stderr)
                return 130
            except BrokenPipeError:  # `detect list | head` closes the pipe early
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 0
            except Exception as error:
                if debug:
                    raise
                sentence = about_disk(error) if isinstance(error, OSError) else None
                if sentence is not None:
                    say(f"{prog}: {sentence}", stream=sys.stderr)
                    return 1
                first = (str(error).strip().splitlines() or [""])[0]
                say(
                    f"{prog}: {type(error).__name__}: {first} (run again with --debug for the traceback)",
                    stream=sys.stderr,
                )
                return 1

        return run

    return decorate


def about_disk(error: OSError, then: str = "run the command again") -> str | None:
    """One sentence about a full or read-only disk, or a path that cannot be used; None for other errors.

    Args:
        then: what to do after some space is free.
    """
    path = "a file" if error.filename is None else os.fsdecode(error.filename)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        why = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
        reason = why.get(error.errno, "it exceeds the largest file size allowed here")
        return f"{path} cannot be written, since {reason}; free some space and {then}"
    if error.errno == errno.EROFS:
        return f"{path} cannot be written, since its disk is read-only; give a folder on another one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path} cannot be used, since permission is denied; change its permissions or give another path"
    if error.errno == errno.EIO:
        return f"{path} cannot be read or written, since its disk has an input/output error; check the disk and {then}"
    if error.filename is not None and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        return f"{path} cannot be used ({os.strerror(error.errno).lower()}); check the path"
    return None


def plural(count: int, noun: str) -> str:
    """'1 class', '2 classes', '1,000 images': a count with its noun."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{count:,} {noun}{ending}"
