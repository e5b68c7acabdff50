"""Recipes as frozen dataclasses: one field is a YAML key, a flag, a line of `--help` and an entry of the card.

    fields in a dataclass  ->  keys in recipes/*.yaml  ->  flags on the command line

The names are the same: `lr_step_gamma` in Python, `lr_step_gamma: 0.1` in YAML and
`--lr-step-gamma 0.1` in a shell.  Precedence: dataclass default < base recipe < recipe < flag.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from shared.errors import UsageError, plural
from shared.recipes.nearest import suggest
from shared.recipes.values import Range, convert, in_range


def knob(
    default: Any,
    help: str,
    *aliases: str,
    metavar: str | None = None,
    spellings: dict[str, Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    count: tuple[int, ...] = (),
    reads: Callable[[Any], Any] | None = None,
    options: tuple[Any, str] | None = None,
    may_be_bare: Any = None,
    switches: dict[str, str] | None = None,
) -> Any:
    """A field of a recipe: default, line in `--help`, aliases of the flag, spellings of values, and range.

    Args:
        low, high: smallest and largest allowed value.
        above, below: values must be greater, or less, than this.
        count: allowed numbers of values of a tuple, such as (1, 2); () for any.
        reads: value -> value, for words of a certain form; its UsageError continues "--flag ".
        options: of a field of options: the `Offers` they are of, and the field that chooses one of its names.
        may_be_bare: the value of the flag without an argument, as in `--resume`.
        switches: words that, as the flag's value, turn on another field and leave this one as it is.
    """
    meta = {"help": help, "aliases": aliases, "metavar": metavar, "spellings": spellings or {}, "bare": may_be_bare}
    meta |= {"range": Range(low, high, above, below), "count": count, "reads": reads, "options": options}
    meta |= {"switches": switches or {}}
    return field(default_factory=default, metadata=meta) if callable(default) else field(default=default, metadata=meta)


def read_device(name: str) -> str:
    """'0' -> 'cuda:0'; auto, cpu, mps, cuda and cuda:N are kept."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        return name
    if re.fullmatch(r"\d{1,3}", name):
        return f"cuda:{name}"
    if re.fullmatch(r"(cuda:)?\d{1,3}(,\d{1,3})+,?", name):
        raise UsageError(
            f"is '{name}', and a process uses one device; give one, or start {name.count(',') + 1} processes with "
            f"`torchrun --nproc_per_node={name.count(',') + 1} -m ...`"
        )
    raise UsageError(f"is {name!r}; give cpu, cuda, cuda:1 or auto")


def read_interval(text: str) -> str:
    """'200' steps or '10m' minutes, as they are."""
    if re.fullmatch(r"0*[1-9]\d{0,8}m?|\d{0,6}\.\d{1,6}m", text) and float(text.rstrip("m")) > 0:
        return text
    raise UsageError(f"is {text!r}; give steps, such as 200, or minutes, such as 10m")


# --- sections shared by pretrain and detect --------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and parameter groups; read by shared.loop.optim."""

    opt: Literal["sgd", "nesterov", "adamw", "lars"] = knob("sgd", "optimizer", spellings={"sgd_nesterov": "nesterov"})
    lr: float = knob(
        0.02, "base learning rate; not scaled with the batch size unless --lr-batch is set", low=0, high=1000
    )
    lr_batch: int | None = knob(
        None,
        "batch size that --lr is meant for; learning rates are scaled linearly to the actual global batch size",
        low=1,
        high=10_000_000,
    )
    backbone_lr: float | None = knob(
        None, "learning rate of the backbone (default: --lr)", "--lr-backbone", low=0, high=1000
    )
    momentum: float = knob(0.9, "momentum of sgd, nesterov and lars", low=0, below=1)
    betas: tuple[float, ...] = knob(
        (0.9, 0.999), "betas of adamw", "--opt-betas", metavar="BETA", low=0, below=1, count=(2,)
    )
    wd: float = knob(1e-4, "weight decay", "--weight-decay", low=0, high=100)
    wd_end: float | None = knob(None, "final weight decay, reached on a half cosine", low=0, high=100)
    norm_wd: float | None = knob(
        None, "weight decay of normalization layers (default: --wd)", "--norm-weight-decay", low=0, high=100
    )
    bias_wd: float | None = knob(None, "weight decay of biases (default: --wd)", "--bias-weight-decay", low=0, high=100)
    layer_decay: float | None = knob(None, "layer-wise learning rate decay, per backbone block", above=0, high=1)
    clip_grad_norm: float | None = knob(None, "clip gradients to this total norm", "--clip-max-norm", above=0, high=1e9)
    compile_opt: bool = knob(False, "torch.compile the optimizer step")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Length of the run and learning rate schedule; read by shared.loop.schedule."""

    epochs: int = knob(26, "train for this many epochs", "--num-epochs", low=0, high=1_000_000)
    warmup_epochs: float = knob(0.0, "linear warm-up, in epochs (counted in optimizer steps)", low=0, high=1e6)
    warmup_steps: int | None = knob(
        None, "linear warm-up, in optimizer steps; with --warmup-epochs, the shorter of the two", low=0, high=1e9
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
    lr_step_size: float = knob(40, "step: decay every N epochs after warm-up", "--lr-drop", above=0, high=1e9)
    lr_steps: tuple[float, ...] = knob(
        (), "multistep: decay at these epochs of the run", metavar="EPOCH", low=0, high=1e9
    )
    lr_step_gamma: float = knob(0.1, "step and multistep: decay factor", "--lr-gamma", above=0, high=1)
    lr_cosine_min: float = knob(1e-6, "cosine: final learning rate", low=0, high=1000)


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Batch, precision, processes, folders, logging; read by shared.loop.trainer."""

    batch_size: int = knob(
        16,
        "images per process and forward pass; auto is --fit-batch with the recipe's number",
        "-b",
        low=1,
        high=1_000_000,
        switches={"auto": "fit_batch"},
    )
    grad_accum_steps: int = knob(1, "forward passes per optimizer step; gradients are averaged", low=1, high=1_000_000)
    fit_batch: bool = knob(
        False,
        "split the images of a step, --batch-size times --grad-accum-steps, into the largest forward passes that fit "
        "the GPU, found by a probe before the first step",
    )
    amp: bool = knob(False, "mixed precision: float16 or bfloat16 on a GPU, bfloat16 on a CPU that supports it")
    amp_dtype: Literal["float16", "bfloat16"] = knob(
        "float16", "dtype of mixed precision on a GPU", spellings={"fp16": "float16", "bf16": "bfloat16"}
    )
    channels_last: bool = knob(False, "channels-last memory format (always with --amp)")
    fast_matmul: bool = knob(False, "allow TF32 in float32 matrix products")
    compile: bool = knob(False, "torch.compile the whole model")
    compile_backbone: bool = knob(False, "torch.compile the backbone only")
    grad_checkpointing: bool = knob(
        False, "compute the blocks of backbone and transformers again in the backward pass: less memory, slower"
    )
    fsdp: bool = knob(False, "shard weights over the processes (FSDP), for models that do not fit on one device")
    use_deterministic_algorithms: bool = knob(
        False, "deterministic kernels, slower; an error where an operation has none"
    )
    sync_bn: bool = knob(False, "synchronize batch norm across processes")
    model_ema: bool = knob(False, "keep, evaluate and export an exponential moving average of the weights")
    model_ema_decay: float = knob(0.9998, "decay of --model-ema per optimizer step, after its warm-up", low=0, below=1)
    num_workers: int = knob(
        -1,
        "data loading workers per process; -1 chooses, 0 loads in the main process",
        "-j",
        "--workers",
        low=-1,
        high=1024,
    )
    max_bad_samples: float = knob(
        0.001, "stop when more than this fraction of the samples cannot be read", low=0, high=1
    )
    max_pixels: int | None = knob(
        None,
        "pixels of the largest image that is decoded (default: 50 million, and 20,000 on a side)",
        low=1,
        high=10_000_000_000,
    )
    seed: int = knob(0, "seed of order, augmentation, dropout and initial weights", low=0, high=2**31)
    threads: int = knob(0, "CPU threads of the training process; 0 keeps torch's default", low=0, high=1024)
    device: str = knob("auto", "cuda, cuda:1 (or 1), cpu or auto", reads=read_device)
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
        "10m",
        "save the training state every N steps (200) or N minutes (10m), and at epoch ends",
        metavar="N|Nm",
        reads=read_interval,
    )
    keep_states: int = knob(
        0, "keep the exact state of N random steps, which `audit` can replay to the same bits", low=0, high=1000
    )
    keep_best: bool = knob(
        False, "also export the epoch with the best main metric (box_ap, top1, or knn of --probe), beside the last"
    )
    patience: int | None = knob(
        None, "stop after N evaluations without a better main metric", metavar="N", low=1, high=1_000_000
    )
    eval_every: int = knob(1, "evaluate every N epochs, and at the end", low=1, high=1_000_000)
    log_every: int = knob(20, "log losses every N optimizer steps", "--print-freq", low=1, high=1e9)
    log_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = knob(
        (),
        "services that get the metrics too: wandb, mlflow, trackio (TensorBoard's files are always written)",
        metavar="SERVICE",
    )
    offline: bool = knob(False, "never download anything")
    dry_run: bool = knob(False, "print what the run would do, and how long it would take, then stop")
    dry_steps: int = knob(
        20,
        "steps that --dry-run takes on a copy to predict time and memory, for a minute at most; 0 for none",
        low=0,
        high=100_000,
    )


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


def read_section(cls: type, values: dict[str, Any]) -> Any:
    """Build one section of a recipe from words of a command line. Raises UsageError as `coerce` does."""
    hints, known = get_type_hints(cls), {f.name: f for f in fields(cls)}
    flag = {name: f"--{name.replace('_', '-')}" for name in values}
    return cls(**{name: coerce(value, hints[name], known[name], flag[name]) for name, value in values.items()})


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
        split[section][name] = coerce(value, hint, f, f"{source}: {name}")
    return recipe_cls(**{name: cls(**split[name]) for name, cls in sections(recipe_cls).items()})


def coerce(value: Any, hint: Any, f: Field, where: str) -> Any:
    """Convert a YAML scalar or command line word to the type of its field, and check its range.

    Raises:
        UsageError: another type, another number of values, or a number out of range.
    """
    meta = f.metadata
    value = in_range(convert(value, hint, where, spellings=meta["spellings"]), meta["range"], where)
    empty = (0,) if f.default == () else ()  # the default of "as in training"
    if isinstance(value, tuple) and meta["count"] and len(value) not in (*meta["count"], *empty):
        many = " or ".join(map(str, meta["count"]))
        raise UsageError(f"{where} has {plural(len(value), 'value')}; give {many}")
    if meta["reads"] is not None and value is not None:
        try:
            return meta["reads"](value)
        except UsageError as error:
            raise UsageError(f"{where} {error}") from None
    return value


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
