"""`--log-to`: the metrics of a run to Weights & Biases, MLflow or Trackio too. Training never waits for them.

    RunLog.metrics -> Tracker.log -> a queue -> a thread that talks to the service
                                     trackers.json in the run's folder: ids, with which a resumed run goes on

What fails costs one warning: metrics.jsonl, results.csv and TensorBoard have everything. Servers, projects and logins
are those of each service's own settings (WANDB_*, MLFLOW_*, TRACKIO_*). Importing this page imports none of them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from shared.errors import UsageError
from shared.files import write_json

log = logging.getLogger(__name__)
PROJECT = "chordate"  # where the service's own settings name none
IDS = "trackers.json"
START, END = 30.0, 60.0  # seconds that a run waits for a service, before its first step and after its last


@dataclass(frozen=True)
class About:
    """A run, as the services see it.

    known: the id under which it was logged before; None for a new run.
    keep: stores the id.
    config: the recipe, flat.
    """

    run_dir: Path
    known: str | None
    keep: Callable[[str], None]
    config: dict[str, Any]
    offline: bool


Write = Callable[[int, dict[str, float]], object]  # of a step
End = Callable[[bool], object]  # with whether the run failed


def check_installed(kinds: Sequence[str]) -> None:
    """Raise UsageError for a service whose package is absent."""
    for kind in kinds:
        if kind in OPENERS and find_spec(kind) is None:
            raise UsageError(f"--log-to {kind} needs a package; pip install 'chordate[{kind}]', or remove it")


class Tracker:
    """One service. `log` and `close` never raise; `log` never waits, `close` at most END seconds.

    Args:
        kind: a name of OPENERS.
        run_dir: the run's folder, with its recipe.yaml and the ids of earlier parts of the run.
        offline: nothing may use the network.
    """

    def __init__(self, kind: str, run_dir: Path, *, offline: bool = False) -> None:
        self.kind, self.broken, self.ready = kind, False, Event()
        self.rows: SimpleQueue[tuple[int, dict[str, float]] | bool] = SimpleQueue()
        ids = read_ids(run_dir)
        about = About(run_dir, ids.get(kind), lambda new: keep_id(run_dir, kind, new), read_config(run_dir), offline)
        self.thread = Thread(target=self.work, args=(about,), name=f"log-to-{kind}", daemon=True)
        self.thread.start()
        if not self.ready.wait(START):
            log.warning("%s does not answer yet; training begins without waiting for it", kind)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if not self.broken:
            self.rows.put((step, dict(values)))

    def close(self, *, failed: bool = False) -> None:
        self.rows.put(failed)
        opened = self.ready.is_set() and not self.broken
        self.thread.join(END if opened else 0)
        if self.thread.is_alive() and not self.broken:  # that was said already
            log.warning("%s did not take everything in time; metrics.jsonl has all of it", self.kind)

    def work(self, about: About) -> None:
        try:
            write, end = OPENERS[self.kind](about)
            self.ready.set()
            while not isinstance(row := self.rows.get(), bool):
                write(*row)
            end(row)
        except Exception as error:
            self.broken = True
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
            log.warning("%s cannot be logged to (%s); the run goes on, metrics.jsonl has everything", self.kind, reason)
        finally:
            self.ready.set()


# --- the run's folder ------------------------------------------------------------------------


def read_ids(run_dir: Path) -> dict[str, str]:
    """Ids by service; {} if there are none."""
    try:
        ids = json.loads((run_dir / IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {kind: value for kind, value in ids.items() if isinstance(value, str)} if isinstance(ids, dict) else {}


def keep_id(run_dir: Path, kind: str, new: str) -> None:
    write_json(run_dir / IDS, read_ids(run_dir) | {kind: new})


def read_config(run_dir: Path) -> dict[str, Any]:
    """The run's recipe; {} if it has none."""
    import yaml

    path = run_dir / "recipe.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def new_name(about: About) -> str:
    """The run's name with some digits, since other output folders may have the same."""
    return f"{about.run_dir.resolve().name}-{uuid.uuid4().hex[:6]}"


# --- the services ----------------------------------------------------------------------------


def open_wandb(about: About) -> tuple[Write, End]:
    import wandb  # pyright: ignore[reportMissingImports] - an extra

    mode = "offline" if about.offline else os.environ.get("WANDB_MODE")
    if mode is None and not wandb.login(prompt=False):
        mode = "offline"
        log.warning("wandb has no login here, so the run is kept in %s; upload it with `wandb sync`", about.run_dir)
    known = about.known or new_name(about)
    about.keep(known)
    # metrics and recipe are sent, and neither code nor what is printed
    quiet = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, save_code=False, init_timeout=90
    )
    run: Any = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        id=known,
        name=about.run_dir.resolve().name,
        resume="allow",
        dir=str(about.run_dir),
        config=about.config,
        mode=mode,  # type: ignore[arg-type]
        settings=quiet,
    )
    run.define_metric("*", step_metric="step")  # wandb's own step only grows, and a resumed run goes back

    def write(step: int, values: dict[str, float]) -> None:
        run.log({**values, "step": step})

    return write, lambda failed: run.finish(exit_code=int(failed))


def open_mlflow(about: About) -> tuple[Write, End]:
    import mlflow  # pyright: ignore[reportMissingImports] - an extra
    from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports] - an extra

    address = mlflow.get_tracking_uri()
    if about.offline and not address.startswith(("file:", "sqlite:", "/")):
        raise UsageError(f"--offline, and its server is {address}")
    client: Any = mlflow.MlflowClient()
    known = about.known
    if known is None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if found is None else found.experiment_id
        known = client.create_run(experiment, run_name=about.run_dir.resolve().name).info.run_id
        about.keep(known)
        params = [Param(key, str(value)[:500]) for key, value in about.config.items()]
        for first in range(0, len(params), 100):  # as many as a request may have
            client.log_batch(known, params=params[first : first + 100])
    else:
        client.update_run(known, status="RUNNING")

    def write(step: int, values: dict[str, float]) -> None:
        now = round(time.time() * 1000)
        client.log_batch(known, metrics=[Metric(allowed(name), value, now, step) for name, value in values.items()])

    return write, lambda failed: client.set_terminated(known, status="FAILED" if failed else "FINISHED")


def allowed(name: str) -> str:
    """A name of a metric as MLflow accepts it."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)


def open_trackio(about: About) -> tuple[Write, End]:
    import trackio  # pyright: ignore[reportMissingImports] - an extra

    if about.offline and os.environ.get("TRACKIO_SPACE_ID"):
        raise UsageError("--offline, and TRACKIO_SPACE_ID names a Space")
    known, resume = about.known or new_name(about), "allow" if about.known else "never"
    run: Any = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT") or PROJECT, name=known, resume=resume, config=about.config
    )
    about.keep(known)

    def write(step: int, values: dict[str, float]) -> None:
        run.log(values, step=step)

    return write, lambda failed: run.finish()


OPENERS: dict[str, Callable[[About], tuple[Write, End]]] = {
    "wandb": open_wandb,
    "mlflow": open_mlflow,
    "trackio": open_trackio,
}
