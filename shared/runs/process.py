"""A run inside somebody's program: what a training run sets for its process, the process gets back as it was.

    random states of Python, NumPy and torch · threads, precision, determinism · environment · loggers · the run's lock

`detect train` is a process of its own and needs none of this; `chordate.train` does.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from shared.logs.console import PROJECT
from shared.runs.run import release

VARIABLES = ("HF_HUB_OFFLINE", "CUBLAS_WORKSPACE_CONFIG", "CHORDATE_MAX_PIXELS")  # that a run may set


@contextmanager
def given_back() -> Iterator[None]:
    """Restore the settings of the process at the end, whatever happened inside."""
    environment = {name: os.environ.get(name) for name in VARIABLES}
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    exact, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    levels = {name: logging.getLogger(name).level for name in PROJECT}
    handlers = {name: [*logging.getLogger(name).handlers] for name in PROJECT}
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)
        torch.use_deterministic_algorithms(exact)
        torch.backends.cudnn.benchmark = benchmark
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name in PROJECT:
            logger = logging.getLogger(name)
            for handler in [each for each in logger.handlers if each not in handlers[name]]:
                logger.removeHandler(handler)
                handler.close()
            logger.setLevel(levels[name])
        release()
