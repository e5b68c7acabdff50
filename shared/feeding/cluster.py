"""`--engine ray`: shards written by the nodes of a Ray cluster, one task each, with the files of one process.

    tasks, in the plan's order -> a few for each processor of the cluster -> a node: has it the same releases, and does
    it see the folder? -> the function that writes one shard -> its result -> results in the order of the tasks

    a worker or a node ends       Ray runs its tasks elsewhere, RETRIES times
    a disk refuses on a node      no more tasks for that node; the error, if no other node is left
    this program is killed        what it had sent ends by itself (turns.py); the next call continues
    the cluster ends              one sentence; its port is looked at, since ray.init and ray.wait would wait for ever

Folders are those that all nodes see under the same path. Imports ray only where a task is sent, and no torch.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from shared.errors import DataError, Refusal, UsageError, plural
from shared.feeding.turns import Lapsed, at_work, turn
from shared.feeding.unfinished import remove_half_written
from shared.recipes.flags import Parser
from shared.versions import installed, own

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRIES = 5  # of a task whose worker or node ended
AHEAD = 2  # tasks for each processor, one at work and one waiting
LOOK = 5.0  # seconds between looks at the cluster
ANSWER = 30.0  # seconds for an answer of the cluster
MISSED = 3  # looks in a row without anybody at the port, until the cluster is said to have ended
HERE = "local"  # in place of an address: a cluster of this machine's processors, for this call
RELEASES = ("numpy", "pillow", "webdataset")  # packages that the bytes of shards may depend on


class Problem(NamedTuple):
    """What a task met on a node: a refusal, or an error of a disk."""

    node: str
    host: str
    error: Refusal | OSError


def add_engine_flags(flags: Parser) -> None:
    flags.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="what writes the shards: processes of this machine, or tasks on the nodes of a Ray cluster, which all see "
        "the folders under the same paths (default: processes)",
    )
    flags.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help=f"of the Ray cluster, as `ray start --head` prints it; '{HERE}' starts one on this machine (default: the "
        "environment variable RAY_ADDRESS)",
    )


def cluster_of(args: Namespace) -> str | None:
    """The address of the Ray cluster that the flags ask for; None for processes.

    Raises:
        UsageError: no address, or one of another kind; a package is missing; flags that exclude each other.
    """
    if args.engine != "ray":
        if args.ray_address is not None:
            raise UsageError("--ray-address goes with --engine ray; add it, or remove the address")
        return None
    if args.part is not None:
        raise UsageError("--engine ray gives shards to nodes by itself; remove --part, or --engine")
    check_installed()
    address = args.ray_address or os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if address != HERE and not (host and port.isdecimal() and "/" not in host):
        given = f"'{address}' is none" if address else "there is none"
        raise UsageError(
            f"--engine ray needs the address HOST:PORT of a cluster, and {given}; give --ray-address with what `ray "
            f"start --head` printed, or '{HERE}' for this machine alone"
        )
    return address


def check_installed() -> None:
    if find_spec("ray") is None:
        raise UsageError("--engine ray needs a package; pip install 'chordate[cluster]', or remove it")


def on_cluster(
    write: Callable[..., T],
    tasks: Sequence[Any],
    common: Any,
    *,
    address: str,
    partial: Path,
    done: Callable[[int], None],
) -> list[T]:
    """Call `write(task, common, tick)` for every task on some node -> the results, in the order of the tasks.

    Args:
        write: a function of a module that is installed on every node. It calls `tick()` often, which raises when this
            program has ended, and may raise OSError for a disk that refuses; it can be called again after any end.
        common: what all tasks need; sent to each node once.
        address: HOST:PORT of a cluster, or HERE.
        partial: the folder of the packing, seen by all nodes under this path.
        done: called with the number of each task that is done.

    Raises:
        DataError: no cluster there, or it ended; nodes that lack the folder or have other releases; a task whose worker
            ended too often; or from a task.
        OSError: every node has a disk that refuses.
    """
    check_installed()
    with turn(partial) as word, connected(address) as gcs:
        results = Sender(write, tasks, common, gcs, (str(partial), word, releases()), done).results()
    remove_half_written(partial)  # by tasks of nodes that were killed
    return results


@contextmanager
def connected(address: str) -> Iterator[str]:
    """Connect to a cluster -> its HOST:PORT. A connection that was there before is used, and stays."""
    import ray

    if before := ray.is_initialized():
        address = ray.get_runtime_context().gcs_address
    elif address != HERE and not answers(address):
        raise DataError(f"nothing listens at {address}, so there is no Ray cluster; start it, or give its address")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == HERE and not before:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
            ray.init(address=address, include_dashboard=False, **options)  # what it starts ends with this very thread
        elif not before:
            within(ANSWER, lambda: ray.init(address=address, **options))
    except TimeoutError:
        raise DataError(f"what listens at {address} does not answer as a Ray cluster; check the address") from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise DataError(
            f"cannot join the Ray cluster at {address} ({why}); run the command on one of its nodes, with the same "
            f"releases of ray and Python"
        ) from None
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        if not before:
            with suppress(TimeoutError):  # without a cluster it would wait for one
                within(LOOK, ray.shutdown)


class Sender:
    """Sends tasks and collects their results.

    Args:
        gcs: HOST:PORT of the cluster.
        here: what a node must agree with: folder, word of the turn, releases.
    """

    def __init__(
        self, write: Callable, tasks: Sequence, common: Any, gcs: str, here: tuple, done: Callable[[int], None]
    ) -> None:
        import ray

        self.ray, self.tasks, self.gcs, self.here, self.done = ray, tasks, gcs, here, done
        self.remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_on_a_node)
        self.write, self.common = write, ray.put(common)
        self.waiting: dict[Any, int] = {}  # reference -> number of the task
        self.refusing: dict[str, Problem] = {}  # by node
        self.room, self.missed, self.looked = AHEAD, 0, 0.0

    def results(self) -> list:
        found: dict[int, Any] = {}
        left = list(range(len(self.tasks)))[::-1]
        while left or self.waiting:
            self.look()
            while left and len(self.waiting) < self.room:
                self.send(left.pop())
            for ref in self.ray.wait(list(self.waiting), timeout=1.0)[0]:
                try:
                    result = self.result(ref, self.waiting[ref])
                except TimeoutError:
                    continue  # the result was lost with its node, and the task is done again
                number = self.waiting.pop(ref)
                if isinstance(result, Problem):
                    self.avoid(result)
                    left.append(number)
                else:
                    found[number] = result
                    self.done(number)
        return [found[number] for number in range(len(self.tasks))]

    def send(self, number: int) -> None:
        options = {"label_selector": {"ray.io/node-id": f"!in({','.join(self.refusing)})"}} if self.refusing else {}
        ref = self.remote.options(**options).remote(self.write, self.tasks[number], self.common, *self.here)
        self.waiting[ref] = number

    def result(self, ref: Any, number: int) -> Any:
        """The result of a task, or its problem with a disk. Raises what it was refused for."""
        from ray.exceptions import GetTimeoutError, RayError, RayTaskError

        try:
            result = self.ray.get(ref, timeout=ANSWER)
        except RayTaskError as error:
            if (last := str(error.cause).strip().rpartition("\n")[2]).startswith("ModuleNotFoundError"):
                why = f"a node of the Ray cluster lacks a module ({last.partition(': ')[2]})"
                raise DataError(f"{why}; install the same chordate on every node") from None
            raise error.cause from None
        except GetTimeoutError:
            raise
        except RayError as error:
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DataError(
                f"shard {number} of {len(self.tasks):,} was not written, since its worker or node ended "
                f"{plural(RETRIES + 1, 'time')} ({why}); run the command again, finished shards are kept"
            ) from None
        if isinstance(result, Problem) and isinstance(result.error, Refusal):
            raise result.error
        return result

    def avoid(self, problem: Problem) -> None:
        """Send no more tasks to a node. Raises the error if no other node is left."""
        if problem.node not in self.refusing:
            log.warning("%s cannot write (%s); other nodes do", problem.host, problem.error)
        self.refusing[problem.node] = problem
        self.look(now=True)

    def look(self, *, now: bool = False) -> None:
        """Every few seconds: whether the cluster is there, and how many processors it has."""
        if not now and time.monotonic() - self.looked < LOOK:
            return
        self.looked = time.monotonic()
        nodes: list[dict[str, Any]] = []
        try:
            nodes = within(ANSWER, self.ray.nodes) if answers(self.gcs) else []
            self.missed = 0 if nodes else self.missed + 1
        except TimeoutError:
            self.missed = MISSED
        if self.missed >= MISSED:
            raise DataError(
                f"the Ray cluster at {self.gcs} has ended or cannot be reached; finished shards are kept, start the "
                f"cluster and run the same command again"
            )
        if alive := {node["NodeID"]: node["Resources"].get("CPU", 0) for node in nodes if node["Alive"]}:
            left = {node: count for node, count in alive.items() if count and node not in self.refusing}
            if self.refusing and not left:
                raise next(reversed(self.refusing.values())).error
            if not left and self.room > 1:
                log.warning("the Ray cluster at %s has no node with a processor; waiting for one", self.gcs)
            self.room = max(1, int(AHEAD * sum(left.values())))  # a waiting task tells a cluster to grow


def _on_a_node(write: Callable, task: Any, common: Any, partial: str, word: str, driver: tuple[str, ...]) -> Any:
    """In a worker of the cluster: the result of the task, or a Problem."""
    import ray

    node, host = ray.get_runtime_context().get_node_id(), platform.node()
    try:
        if (mine := releases()) != driver:
            raise DataError(
                f"node {host} has {', '.join(mine)}, and this machine {', '.join(driver)}; install the same"
            )
        with at_work(Path(partial), word) as tick:
            return write(task, common, tick)
    except Lapsed:
        why = f"node {host} does not see {partial}, or no longer; the folders must be on a disk that all nodes share"
        return Problem(node, host, DataError(why))
    except (Refusal, OSError) as error:
        return Problem(node, host, error)


def releases() -> tuple[str, ...]:
    """What the bytes of shards may depend on, such as ('chordate 0.1.0', 'numpy 2.4.1')."""
    return (f"chordate {own()[0]}", *(f"{name} {installed(name)}" for name in RELEASES))


def answers(address: str) -> bool:
    """Whether somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK).close()
    except (OSError, OverflowError):
        return False
    return True


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call, or what it raises. Raises TimeoutError, and leaves the call alone, if it takes longer."""
    found: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            found.append((call(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise TimeoutError
    result, error = found[0]
    if error is not None:
        raise error
    return result  # pyright: ignore[reportReturnType] - the call ended well
