"""`pretrain push`: the files of a pushed backbone, in timm's layout where timm gives the same with them."""

from __future__ import annotations

import shutil
from pathlib import Path

from backbones.inherit import fill, kept_args, rebuild
from backbones.timm_layout import PREFIX, config_of, write_config
from pretrain.recipe import crop_share
from pretrain.weights.exporting import size_of
from shared.errors import UsageError
from shared.weights.card import Exported, expected_pixels
from shared.weights.carried import carry_out
from shared.weights.store import Store


def for_timm(exported: Exported, store: Store, folder: Path) -> str | None:
    """Write the export to a folder so that timm loads it; if that cannot be, a reason, and the folder is empty."""
    card = exported.card
    net = rebuild(card)
    fill(store, net, exported)
    size, share = size_of(card.recipe, net), crop_share(card.recipe)
    try:
        config = config_of(card.arch, net, expected_pixels(exported), args=kept_args(card), size=size, share=share)
        carry_out(exported, store, folder, prefix=PREFIX)
        write_config(folder, config, net)
    except UsageError as error:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return str(error)
    return None
