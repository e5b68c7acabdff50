"""What is said about a checkpoint besides its tensors: network, image size, pixel mean and std.

    flags | card.json or config.json beside the file | arch, args and pretrained_cfg in it | the file's name

An earlier source is believed before a later one. `config.json` may be timm's or of transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import WeightsError
from shared.feeding.pixels import PixelStats

# timm's builder arguments that change what a network computes; others, such as drop rates, are for training only
TRAINING_ONLY = re.compile(r"drop|num_classes|pretrained|checkpoint_path|scriptable|in_chans|global_pool")


class Origin(NamedTuple):
    """What one source says; None where it says nothing.

    where: the source, for messages.
    arch: timm's name of the network, with or without a tag; of our own exports the name here.
    args: arguments of timm's builder.
    size: height and width of the images.
    pixels: mean and std of the pixels.
    library: "transformers" for a config.json of that library, with its model type; "chordate" for our own card.
    """

    where: str
    arch: str | None = None
    args: Mapping[str, Any] = {}
    size: tuple[int, int] | None = None
    pixels: PixelStats | None = None
    library: str = ""


class Origins(NamedTuple):
    """All sources, the most believed first."""

    sources: tuple[Origin, ...]

    @property
    def arch(self) -> Origin | None:
        return next((source for source in self.sources if source.arch), None)

    @property
    def pixels(self) -> Origin | None:
        return next((source for source in self.sources if source.pixels), None)

    @property
    def sizes(self) -> list[Origin]:
        return [source for source in self.sources if source.size]

    @property
    def transformers(self) -> Origin | None:
        return next((source for source in self.sources if source.library.startswith("transformers")), None)


def origins_of(
    file: Path, content: Any, *, trained_as: str | None = None, trained_size: tuple[int, int] | None = None
) -> Origins:
    """Everything that is said about a file.

    Args:
        content: what `read_checkpoint` returned.
        trained_as: --trained-as.
        trained_size: --trained-size.

    Raises:
        WeightsError: a config.json or card.json beside the file cannot be read.
    """
    sources = [Origin("--trained-as", arch=trained_as), Origin("--trained-size", size=trained_size)]
    sources += [*beside(file), *inside(content, file), of_name(file)]
    return Origins(tuple(source for source in sources if source.arch or source.size or source.pixels or source.library))


def beside(file: Path) -> Iterator[Origin]:
    """Our card.json, and config.json and preprocessor_config.json of timm and transformers."""
    card = read_json(file.with_name("card.json")) if file.name == "model.safetensors" else {}
    if card.get("arch"):
        args, stats = words(card.get("args")), words(card.get("pixels"))
        yield Origin("the card beside it", str(card["arch"]), {}, size_in(args), pixels_in(stats), "chordate")
    config = read_json(file.with_name("config.json"))
    if "architecture" in config or "pretrained_cfg" in config:
        yield timm_facts(config, f"the config.json beside {file.name}")
    elif "model_type" in config:
        processor = read_json(file.with_name("preprocessor_config.json"))
        pixels = pixels_in({"mean": processor.get("image_mean"), "std": processor.get("image_std")})
        library = f"transformers ({config['model_type']})"
        yield Origin(f"the config.json beside {file.name}", None, {}, size_in(config), pixels, library)


def inside(content: Any, file: Path) -> Iterator[Origin]:
    """Facts that training programs save with the tensors."""
    if not isinstance(content, Mapping):
        return
    facts = {name: words(value) for name, value in content.items() if isinstance(name, str)}
    where = file.name
    if isinstance(content.get("pretrained_cfg"), Mapping) or isinstance(content.get("arch"), str):
        yield timm_facts({**content, "architecture": content.get("architecture") or content.get("arch")}, where)
    for name in ("args", "config", "hyper_parameters", "hparams", "cfg", "model_config", "default_cfg"):
        told = facts.get(name, {})
        if told:
            yield timm_facts({"architecture": told.get("model") or told.get("arch"), "pretrained_cfg": told}, where)


def timm_facts(config: Mapping[str, Any], where: str) -> Origin:
    """timm's config: {architecture, pretrained_cfg: {mean, std, input_size, tag}, model_args: {...}}."""
    cfg, args = words(config.get("pretrained_cfg")), dict(words(config.get("model_args")))
    args = {name: value for name, value in args.items() if not TRAINING_ONLY.search(name)}
    size = size_in(args) or size_in(cfg)
    args.pop("img_size", None)
    arch, tag = config.get("architecture") or cfg.get("architecture"), cfg.get("tag")
    arch = known(f"{arch}.{tag}") or known(str(arch)) if isinstance(arch, str) else None
    published = known_cfg(arch) if arch and "." in arch else {}
    return Origin(where, arch, args, size, pixels_in(cfg) or pixels_in(published))


def of_name(file: Path) -> Origin:
    """A published file's name, or one that starts with timm's name: `tf_efficientnet_b0_aa-827b6e33.pth`."""
    import timm

    where = f"the name {file.name}"
    name = published_as(file.name)
    if name is None:
        ends = [match.start() for match in re.finditer(r"[-_.]|$", file.name)]
        stems = [file.name[:end] for end in reversed(ends) if end]
        name = next((stem for stem in stems if "." in stem and known_cfg(stem)), None)
        name = name or next((stem for stem in stems if "." not in stem and timm.is_model(stem)), None)
    if name is None:
        return Origin(where)
    cfg = known_cfg(name)
    return Origin(where, name, {}, size_in(cfg), pixels_in(cfg) if "." in name else None)


def published_as(file_name: str) -> str | None:
    """timm's name, with tag, of the weights that are published in a file of that name; None for no or several."""
    import timm
    from timm.models import get_pretrained_cfg

    found = [
        name
        for name in timm.list_pretrained()
        if (cfg := get_pretrained_cfg(name)) is not None and str(cfg.url or "").rpartition("/")[2] == file_name
    ]
    return found[0] if len(found) == 1 else None


def known(arch: str) -> str | None:
    """The name if timm has it, without a tag that it does not know."""
    import timm

    base, _, tag = arch.partition(".")
    if not timm.is_model(base):
        return None
    return arch if tag and known_cfg(arch) else base


def known_cfg(arch: str) -> dict[str, Any]:
    """timm's settings of a published network: mean, std, input_size; {} for an unknown tag."""
    import timm
    from timm.models import get_arch_pretrained_cfgs

    base, _, tag = arch.partition(".")
    if not timm.is_model(base):
        return {}
    cfgs = get_arch_pretrained_cfgs(base)
    found = cfgs.get(arch) if tag else next(iter(cfgs.values()), None)
    return found.to_dict() if found is not None else {}


# --- reading --------------------------------------------------------------------------------


def words(value: Any) -> Mapping[str, Any]:
    """A dict or argparse.Namespace as a dict; {} for anything else."""
    if isinstance(value, Mapping):
        return value
    return vars(value) if type(value).__name__ == "Namespace" else {}


def read_json(path: Path) -> dict[str, Any]:
    """{} if there is no such file, or one that holds no dict. Raises WeightsError if it cannot be read."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as JSON ({error}), and it says how the weights beside it compute; repair or move it"
        ) from None
    return content if isinstance(content, dict) else {}


def size_in(facts: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width from img_size, image_size, input_size; (channels, height, width) as timm gives it."""
    for name in ("img_size", "image_size", "input_size"):
        value = facts.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value, value
        if isinstance(value, (list, tuple)) and len(value) in (2, 3) and all(isinstance(v, int) for v in value):
            return value[-2], value[-1]
    return None


def pixels_in(facts: Mapping[str, Any]) -> PixelStats | None:
    """Mean and std, if both are three numbers."""
    try:
        mean, std = (tuple(float(value) for value in facts[name]) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        return None
    return PixelStats(mean, std) if len(mean) == len(std) == 3 and min(std) > 0 else None  # type: ignore[arg-type]
