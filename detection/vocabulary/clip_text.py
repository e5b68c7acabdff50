"""CLIP's text tower, of open_clip_torch, with weights from a file.

    RN50's tensors -> the text tower's, by name -> encode: sentences -> (N, D)
                   -> identity: clip:RN50 if it gives the vectors that come with the program

A name is told in 81 sentences: the name with a full stop, and the 80 that CLIP was evaluated on ImageNet with,
in Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
A name's vector is their mean, as in Wang et al., "Detecting Everything in the Open World", CVPR 2023.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.copies import state_dicts
from backbones.foreign import read_checkpoint
from detection.vocabulary.shipped import CLIP, shipped
from detection.vocabulary.text_models import NAME, TextModel, speak
from shared.errors import WeightsError
from shared.files import file_digest

# numbers of blocks of the convolutional image towers, which name the model
TOWERS = {
    (3, 4, 6, 3): "RN50",
    (3, 4, 23, 3): "RN101",
    (4, 6, 10, 6): "RN50x4",
    (6, 8, 18, 8): "RN50x16",
    (3, 15, 36, 10): "RN50x64",
}
SIZES = {768: "B", 1024: "L", 1280: "H"}  # widths of the transformers
TEXT_TENSOR = re.compile(
    r"(token_embedding\.weight|positional_embedding|ln_final\.\w+|text_projection|transformer\.resblocks\..+)"
)
PROBES = ("person", "zebra", "couch")  # names that tell whose space a text tower speaks


def open_clip_text(path: Path, device: torch.device | None = None, *, gelu: bool = False) -> TextModel:
    """CLIP's text tower from a file: its own, OpenAI's or open_clip's state_dict, RegionCLIP's `lang_encoder`.

    Args:
        gelu: it was trained with GELU; OpenAI's were with x * sigmoid(1.702 x).

    Raises:
        WeightsError: open_clip_torch is not installed, or the file has no text tower.
    """
    path = Path(path).expanduser()
    tensors, others = text_tensors(read_checkpoint(path), path)
    if importlib.util.find_spec("open_clip") is None:
        raise WeightsError("CLIP's text tower needs open_clip_torch; install it with pip install 'chordate[text]'")
    from open_clip import OPENAI_IMAGENET_TEMPLATES, SimpleTokenizer
    from open_clip.transformer import QuickGELU, TextTransformer

    width, projection = len(tensors["ln_final.weight"]), tensors["text_projection"]
    blocks = {name.split(".")[2] for name in tensors if name.startswith("transformer.resblocks.")}
    tower = TextTransformer(
        context_length=len(tensors["positional_embedding"]),
        vocab_size=len(tensors["token_embedding.weight"]),
        width=width,
        heads=max(1, width // 64),
        layers=len(blocks),
        output_dim=projection.shape[1],
        act_layer=torch.nn.GELU if gelu else QuickGELU,
    )
    try:
        tower.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        first = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} holds another text tower than CLIP's ({first}); give CLIP's weights") from None
    tower = tower.to(device or "cpu").eval()
    mask = tower.attn_mask
    tokenizer = SimpleTokenizer(context_length=tower.context_length)

    @torch.inference_mode()
    def encode(sentences: list[str]) -> Tensor:
        tokens = tokenizer(sentences)
        used = int(tokens.argmax(1).max()) + 1  # attention looks back only: what follows the last word changes nothing
        tower.attn_mask = None if mask is None else mask[:used, :used]
        return tower(tokens[:, :used].to(next(tower.parameters()).device))

    templates = (NAME + ".", *(template(NAME) for template in OPENAI_IMAGENET_TEMPLATES))
    made = TextModel("clip", encode, templates, file_digest(path), f"{path.name}, read by open_clip_torch")
    identity = identity_of(made, others, projection)
    return replace(made, identity=identity, license="MIT" if identity == CLIP else "that of the weights file")


def text_tensors(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the text tower in a checkpoint, without prefix, and all tensors beside them.

    Raises:
        WeightsError: there is no text tower, such as in files of the image tower alone.
    """
    for _, tensors in state_dicts(content):
        for name in tensors:
            if name.endswith("token_embedding.weight"):
                prefix = name.removesuffix("token_embedding.weight")
                own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
                text = {n: t for n, t in own.items() if TEXT_TENSOR.fullmatch(n)}
                missing = {"positional_embedding", "ln_final.weight", "text_projection"} - text.keys()
                if missing:
                    raise WeightsError(f"the text tower of {path} lacks {min(missing)}; save the complete state_dict()")
                return text, own
    raise WeightsError(f"{path} has no text tower of CLIP, only other tensors; give a file that has both towers")


def identity_of(model: TextModel, tensors: Mapping[str, Tensor], projection: Tensor) -> str:
    """clip:RN50 for the model whose vectors come with the program, as its own vectors show; for others the
    architecture and a digest of the text tower, since two of one architecture have spaces of their own."""
    table = shipped(CLIP)
    if table is not None and projection.shape[1] == table.width:
        some = [row for row, name in enumerate(table.names) if name in PROBES]
        mine = speak(model, [table.spoken[row] for row in some]).vectors
        if bool((F.cosine_similarity(mine, table.vectors[some]) > 0.99).all()):
            return CLIP
    digest = hashlib.sha256(projection.half().contiguous().numpy().tobytes()).hexdigest()
    return f"clip:{architecture(tensors)}-{digest[:8]}"


def architecture(tensors: Mapping[str, Tensor]) -> str:
    """The name of the image tower beside the text tower: RN50, ViT-B-32; `text` if there is none."""
    stages = [{n.split(".")[2] for n in tensors if n.startswith(f"visual.layer{k}.")} for k in (1, 2, 3, 4)]
    if all(stages):
        return TOWERS.get(tuple(map(len, stages)), "RN")  # type: ignore[call-overload]
    patches = tensors.get("visual.conv1.weight")
    if patches is None:
        return "text"
    return f"ViT-{SIZES.get(len(patches), len(patches))}-{patches.shape[-1]}"
