"""Recipes as frozen dataclasses: one field is a YAML key, a flag, a line of `--help` and an entry of the card.

    fields in a dataclass  ->  keys in recipes/*.yaml  ->  flags on the command line

The names are the same: `lr_step_gamma` in Python, `lr_step_gamma: 0.1` in YAML and
`--lr-step-gamma 0.1` in a shell.  Precedence: dataclass default < base recipe < recipe < flag.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from shared.errors import UsageError
from shared.recipes.registry import suggest


def knob(
    default: Any,
    help: str,
    *aliases: str,
    metavar: str | None = None,
    spellings: dict[str, Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    may_be_bare: Any = None,
) -> Any:
    """A field of a recipe: default, line in `--help`, aliases of the flag, spellings of values, and range.

    Args:
        low, high: smallest and largest allowed value.
        above: values must be greater than this.
        may_be_bare: the value of the flag without an argument, as in `--resume`.
    """
    meta = {"help": help, "aliases": aliases, "metavar": metavar, "spellings": spellings or {}, "bare": may_be_bare}
    meta |= {"low": low, "high": high, "above": above}
    return field(default_factory=default, metadata=meta) if callable(default) else field(default=default, metadata=meta)


# --- sections shared by pretrain and detect --------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and parameter groups; read by shared.loop.optim."""

    opt: Literal["sgd", "nesterov", "adamw", "lars"] = knob("sgd", "optimizer", spellings={"sgd_nesterov": "nesterov"})
    lr: float = knob(0.02, "base learning rate; not scaled with the batch size unless --lr-batch is set", low=0)
    lr_batch: int | None = knob(
        None,
        "batch size that --lr is meant for; learning rates are scaled linearly to the actual global batch size",
        low=1,
    )
    backbone_lr: float | None = knob(None, "learning rate of the backbone (default: --lr)", "--lr-backbone", low=0)
    momentum: float = knob(0.9, "momentum of sgd, nesterov and lars", low=0, high=1)
    betas: tuple[float, ...] = knob((0.9, 0.999), "betas of adamw", "--opt-betas", metavar="BETA", low=0, high=1)
    wd: float = knob(1e-4, "weight decay", "--weight-decay", low=0)
    wd_end: float | None = knob(None, "final weight decay, reached on a half cosine", low=0)
    norm_wd: float | None = knob(
        None, "weight decay of normalization layers (default: --wd)", "--norm-weight-decay", low=0
    )
    bias_wd: float | None = knob(None, "weight decay of biases (default: --wd)", "--bias-weight-decay", low=0)
    layer_decay: float | None = knob(None, "layer-wise learning rate decay, per backbone block", above=0, high=1)
    clip_grad_norm: float | None = knob(None, "clip gradients to this total norm", "--clip-max-norm", above=0)
    compile_opt: bool = knob(False, "torch.compile the optimizer step")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Length of the run and learning rate schedule; read by shared.loop.schedule."""

    epochs: int = knob(26, "train for this many epochs", "--num-epochs", low=0)
    warmup_epochs: float = knob(0.0, "linear warm-up, in epochs (counted in optimizer steps)", low=0)
    warmup_steps: int | None = knob(
        None, "linear warm-up, in optimizer steps; with --warmup-epochs, the shorter of the two", low=0
    )
    warmup_start: float = knob(
        0.01, "share of the learning rate at which warm-up starts", "--lr-warmup-decay", low=0, high=1
    )
    lr_scheduler: Literal["constant", "step", "multistep", "cosine"] = knob(
        "constant",
        "learning rate schedule",
        "--schedule",
        spellings={"cosineannealinglr": "cosine", "multisteplr": "multistep", "steplr": "step"},
    )
    lr_step_size: float = knob(40, "step: decay every N epochs after warm-up", "--lr-drop", above=0)
    lr_steps: tuple[float, ...] = knob((), "multistep: decay at these epochs of the run", metavar="EPOCH", low=0)
    lr_step_gamma: float = knob(0.1, "step and multistep: decay factor", "--lr-gamma", above=0)
    lr_cosine_min: float = knob(1e-6, "cosine: final learning rate", low=0)


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Batch, precision, processes, folders, logging; read by shared.loop.trainer."""

    batch_size: int = knob(16, "images per process and forward pass", "-b", low=1)
    grad_accum_steps: int = knob(1, "forward passes per optimizer step; gradients are averaged", low=1)
    amp: bool = knob(False, "mixed precision: float16 or bfloat16 on a GPU, bfloat16 on a CPU that supports it")
    amp_dtype: Literal["float16", "bfloat16"] = knob(
        "float16", "dtype of mixed precision on a GPU", spellings={"fp16": "float16", "bf16": "bfloat16"}
    )
    channels_last: bool = knob(False, "channels-last memory format (always with --amp)")
    fast_matmul: bool = knob(False, "allow TF32 in float32 matrix products")
    compile: bool = knob(False, "torch.compile the whole model")
    compile_backbone: bool = knob(False, "torch.compile the backbone only")
    fsdp: bool = knob(False, "shard weights over the processes (FSDP), for models that do not fit on one device")
    use_deterministic_algorithms: bool = knob(
        False, "deterministic kernels, slower; an error where an operation has none"
    )
    sync_bn: bool = knob(False, "synchronize batch norm across processes")
    model_ema: bool = knob(False, "keep, evaluate and export an exponential moving average of the weights")
    model_ema_decay: float = knob(0.9998, "decay of --model-ema per optimizer step, after its warm-up", low=0, high=1)
    num_workers: int = knob(
        -1, "data loading workers per process; -1 chooses, 0 loads in the main process", "-j", "--workers", low=-1
    )
    max_bad_samples: float = knob(
        0.001, "stop when more than this fraction of the samples cannot be read", low=0, high=1
    )
    seed: int = knob(0, "seed of order, augmentation, dropout and initial weights", low=0, high=2**31)
    threads: int = knob(0, "CPU threads of the training process; 0 keeps torch's default", low=0)
    device: str = knob("auto", "cuda, cpu or auto")
    output_dir: Path = knob(Path("runs"), "folder of the runs")
    weights_dir: Path = knob(Path("weights"), "folder of the exported weights")
    name: str | None = knob(None, "folder of this run under --output-dir (default: made from the model and tag)")
    resume: str | None = knob(
        None,
        "continue a run at its exact step: a run folder, or no value for the newest run of this name",
        metavar="RUN",
        may_be_bare="newest",
    )
    save_every: str | None = knob(
        "10m", "save the training state every N steps (200) or N minutes (10m), and at epoch ends", metavar="N|Nm"
    )
    eval_every: int = knob(1, "evaluate every N epochs, and at the end", low=1)
    log_every: int = knob(20, "log losses every N optimizer steps", "--print-freq", low=1)
    offline: bool = knob(False, "never download anything")
    dry_run: bool = knob(False, "print what the run would do, then stop")


# --- dataclass <-> YAML --------------------------------------------------------


@cache
def sections(recipe_cls: type) -> dict[str, type]:
    """{'optim': OptimConfig, ...} for a recipe class made of sections."""
    return {name: hint for name, hint in get_type_hints(recipe_cls).items() if is_dataclass(hint)}  # type: ignore[misc]


@cache
def all_knobs(recipe_cls: type) -> dict[str, tuple[str, Field, Any]]:
    """{'lr': ('optim', <Field>, float), ...}; a name lives in exactly one section."""
    table: dict[str, tuple[str, Field, Any]] = {}
    for section, cls in sections(recipe_cls).items():
        hints = get_type_hints(cls)
        for f in fields(cls):
            if f.name in table:
                raise TypeError(f"{recipe_cls.__name__}: '{f.name}' is in both {table[f.name][0]} and {section}")
            table[f.name] = (section, f, hints[f.name])
    return table


def make(recipe_cls: type, values: dict[str, Any], source: str = "flags") -> Any:
    """Build a recipe from flat values. Raises UsageError for unknown keys and values out of range."""
    table = all_knobs(recipe_cls)
    split: dict[str, dict[str, Any]] = {name: {} for name in sections(recipe_cls)}
    for name, value in values.items():
        if name not in table:
            raise UsageError(
                f"{source}: no key '{name}'{suggest(name, list(table))}; `list` and --help show what there is"
            )
        section, f, hint = table[name]
        split[section][name] = in_range(coerce(value, hint, f, f"{source}: {name}"), f, f"{source}: {name}")
    return recipe_cls(**{name: cls(**split[name]) for name, cls in sections(recipe_cls).items()})


def coerce(value: Any, hint: Any, f: Field, where: str) -> Any:
    """Convert a YAML scalar or command line word to the type of its field; ints may stand for floats, lists for
    tuples.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = next(a for a in args if a is not NoneType)
        return None if value is None or (value == "none" and inner is not str) else coerce(value, inner, f, where)
    if origin is Literal:
        value = f.metadata.get("spellings", {}).get(value, value)
        if value in args:
            return value
        raise UsageError(
            f"{where} is {value!r}{suggest(str(value), list(args))}; it can be {', '.join(map(str, args))}"
        )
    if origin is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(v, args[0], f, where) for v in values)
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where} is {value!r}; give options by name, such as {{width: 64}}")
        return {str(key).replace("-", "_"): option for key, option in value.items()}
    return scalar(value, hint, where)


def scalar(value: Any, hint: type, where: str) -> Any:
    if hint is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    if hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if hint is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if type(value) is hint and hint is not float:
        return value
    if hint in (int, float) and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-4 as a string, and command line values are strings
            number = float(value)
            if hint is float and math.isfinite(number):
                return number
            if hint is int and number.is_integer():
                return int(number)
        except (ValueError, OverflowError):
            pass
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Path: "a path"}
    raise UsageError(f"{where} is {value!r}; give {kinds.get(hint, hint.__name__)}")


def in_range(value: Any, f: Field, where: str) -> Any:
    """Return the value if it (or each item) is in the range of its field; raises UsageError."""
    low, high, above = (f.metadata.get(key) for key in ("low", "high", "above"))
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if (low is not None and number < low) or (high is not None and number > high):
            raise UsageError(f"{where} is {number}; it must be {span(low, high)}")
        if above is not None and number <= above:
            raise UsageError(f"{where} is {number}; it must be greater than {above}")
    return value


def span(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    return f"{low:g} or more" if low is not None else f"{high:g} or less"


@dataclass(frozen=True)
class Resolved:
    """A recipe with the origin of each value: `default`, `base NAME`, `recipe NAME` or `flag`."""

    recipe: Any
    origins: dict[str, str]


def flat(recipe: Any) -> dict[str, Any]:
    """All values of a recipe by name."""
    return {name: getattr(getattr(recipe, section), name) for name, (section, _, _) in all_knobs(type(recipe)).items()}


def plain(value: Any) -> Any:
    """A value as YAML and JSON can represent it."""
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def dump(recipe: Any) -> str:
    """The resolved recipe as YAML, section by section; `--recipe thatfile.yaml` repeats the run."""
    import yaml

    lines: list[str] = []
    for section, cls in sections(type(recipe)).items():
        part = getattr(recipe, section)
        lines.append(f"# {section}")
        lines.append(yaml.safe_dump({f.name: plain(getattr(part, f.name)) for f in fields(cls)}, sort_keys=False))
    return "\n".join(lines)
