"""Key layouts of DETR, Deformable DETR, DINO and SMCA, as their authors' programs save them.

Labels are COCO's category ids, including the unused ids such as 0; all rows of the class head are kept, so that the
softmax does not change. The last row of DETR is no object. SMCA has an untrained row for it; ours has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from backbones.copies import Tensors
from detection.published.layout import Layout, Options, Rules, count_of
from shared.errors import WeightsError


def mlp(theirs: str, ours: str) -> Rules:
    """Linear layers: theirs are numbered 0, 1, 2; ours 0, 2, 4, as the ReLUs between them are counted."""
    return tuple((rf"^{theirs}\.layers\.{i}\.", rf"{ours}.{2 * i}.") for i in range(3))


def layers(side: str, renamed: Mapping[str, str]) -> Rules:
    """Rules for the modules of a layer, after `COMMON` has shortened the prefix to `encoder.0.` or `decoder.0.`."""
    both = {**renamed, "linear1": "feed.0", "linear2": "feed.3"}
    return tuple((rf"^({side}\.\d+)\.{theirs}\.", rf"\1.{ours}.") for theirs, ours in both.items())


COMMON: Rules = (
    (r"^backbone\.0\.body\.", "backbone.net."),
    (r"^transformer\.(en|de)coder\.layers\.", r"\1coder."),
    *layers("encoder", {"self_attn": "attention", "norm1": "around_attention.norm", "norm2": "around_feed.norm"}),
)
NORMS = {"norm1": "around_self.norm", "norm2": "around_cross.norm", "norm3": "around_feed.norm"}
DETR: Rules = (
    *COMMON,
    *layers("decoder", {"self_attn": "self_attention", "multihead_attn": "cross_attention", **NORMS}),
    (r"^transformer\.(en|de)coder\.norm\.", r"\1coder_norm."),
    (r"^backbone\.1\.row_embed\.weight$", "positions.rows"),
    (r"^backbone\.1\.col_embed\.weight$", "positions.columns"),
    (r"^input_proj\.", "narrow."),
    (r"^query_embed\.", "queries."),
    (r"^class_embed\.", "classify."),
    *mlp("bbox_embed", "locate"),
)
MASKS: Rules = (
    *DETR,
    (r"^bbox_attention\.q_linear\.", "masks.query."),
    (r"^bbox_attention\.k_linear\.", "masks.key."),
    *(
        (rf"^mask_head\.{theirs}{i + 1}\.", f"masks.{part}.{ours}.")
        for theirs, ours in (("lay", "conv"), ("gn", "norm"))
        for i, part in enumerate(("first", "second", "up.0", "up.1", "up.2"))
    ),
    *((rf"^mask_head\.adapter{i + 1}\.", f"masks.lateral.{i}.") for i in range(3)),
    (r"^mask_head\.out_lay\.", "masks.mask."),
)
SMCA: Rules = (
    *((rf"^transformer\.decoder\.layers\.0\.point1\.layers\.{i}\.", f"refer.{2 * i}.") for i in range(3)),
    *(
        (rf"^transformer\.decoder\.layers\.(\d+)\.{theirs}\.", rf"gaussians.\1.{ours}.")
        for theirs, ours in (("norm4", "norm"), ("point2", "move"), ("point3", "scale"))
    ),
    *DETR,
)
MULTISCALE: Rules = (
    *COMMON,
    *layers(
        "decoder",
        {
            "self_attn": "self_attention",
            "cross_attn": "cross_attention",
            "norm1": "around_cross.norm",
            "norm2": "around_self.norm",
            "norm3": "around_feed.norm",
        },
    ),
    (r"^transformer\.level_embed$", "level_of"),
    (r"^input_proj\.", "levels.levels."),
)
DINO: Rules = (
    *MULTISCALE,
    (r"^transformer\.tgt_embed\.", "queries."),
    (r"^transformer\.enc_output\.", "look.0."),
    (r"^transformer\.enc_output_norm\.", "look.1."),
    (r"^transformer\.enc_out_class_embed\.", "classify_cells."),
    *mlp(r"transformer\.enc_out_bbox_embed", "locate_cells"),
    *mlp(r"transformer\.decoder\.ref_point_head", "place"),
    (r"^transformer\.decoder\.norm\.", "decoder_norm."),
    (r"^label_enc\.", "labels."),
    (r"^class_embed\.(\d+)\.", r"of layer.\1.classify."),
    (r"^transformer\.decoder\.class_embed\.(\d+)\.", r"again.\1.classify."),
    *mlp(r"bbox_embed\.(\d+)", r"of layer.\1.locate"),
    *mlp(r"transformer\.decoder\.bbox_embed\.(\d+)", r"again.\1.locate"),
)
DEFORMABLE: Rules = (
    *MULTISCALE,
    (r"^transformer\.reference_points\.", "start.references."),
    (r"^transformer\.enc_output\.", "start.look.0."),
    (r"^transformer\.enc_output_norm\.", "start.look.1."),
    (r"^transformer\.pos_trans\.", "start.tell.0."),
    (r"^transformer\.pos_trans_norm\.", "start.tell.1."),
    (r"^class_embed\.", "classify."),
    *mlp(r"bbox_embed\.(\d+)", r"locate.\1"),
    (r"^transformer\.decoder\.(class|bbox)_embed\.", r"again.\1_embed."),
    *mlp(r"again\.bbox_embed\.(\d+)", r"again.locate.\1"),
    (r"^again\.class_embed\.", "again.classify."),
)


def of_transformer(tensors: Tensors) -> Options:
    """Options of every transformer. The number of attention heads cannot be read from shapes."""
    first = tensors["transformer.encoder.layers.0.linear1.weight"]
    return {
        "width": first.shape[1],
        "feedforward": first.shape[0],
        "encoder_layers": count_of(tensors, r"transformer\.encoder\.layers\.(\d+)\."),
        "decoder_layers": count_of(tensors, r"transformer\.decoder\.layers\.(\d+)\."),
    }


def of_detr(tensors: Tensors) -> Options:
    options = of_transformer(tensors) | {"num_queries": len(tensors["query_embed.weight"])}
    if "transformer.encoder.norm.weight" in tensors:
        options["pre_norm"] = True
    if "backbone.1.row_embed.weight" in tensors:
        options["position_embedding"] = "learned"
    return options


def of_smca(tensors: Tensors) -> Options:
    heads = len(tensors["transformer.decoder.layers.0.point2.weight"]) // 2
    scales = tensors.get("transformer.decoder.layers.0.point3.weight")
    kind = 1 if scales is None else 1 + len(scales) // heads
    return of_detr(tensors) | {"heads": heads, "dynamic_scale": f"type{kind}"}


def of_deformable(tensors: Tensors) -> Options:
    options = of_transformer(tensors) | {"num_levels": len(tensors["transformer.level_embed"])}
    if "query_embed.weight" in tensors:
        options["num_queries"] = len(tensors["query_embed.weight"])
    if "transformer.decoder.bbox_embed.0.layers.0.weight" in tensors:
        options["network"] = "deformable_detr_boxref"
    if "transformer.enc_output.weight" in tensors:
        options["two_stage"] = True
    return options


def of_dino(tensors: Tensors) -> Options:
    """The network of five scales begins at stride 4."""
    levels = len(tensors["transformer.level_embed"])
    options = of_transformer(tensors) | {
        "num_levels": levels,
        "num_queries": len(tensors["transformer.tgt_embed.weight"]),
    }
    return (
        options
        | ({"finest_stride": 4} if levels == 5 else {})
        | ({} if "label_enc.weight" in tensors else {"denoising": 0})
    )


def without_no_object(tensors: Tensors) -> Tensors:
    """Remove the last row of the class head."""
    return tensors | {name: tensors[name][:-1] for name in ("classify.weight", "classify.bias")}


def once(tensors: Tensors) -> Tensors:
    """Remove duplicates: Deformable DETR saves its heads again under the decoder, and a shared head once per layer.

    Raises:
        WeightsError: the duplicates differ.
    """
    made = {name: value for name, value in tensors.items() if not name.startswith("again.")}
    for name in tensors.keys() - made.keys():
        insist_equal(made, name.removeprefix("again."), tensors[name])
    if not any(name.startswith("again.locate.") for name in tensors):
        for name in [name for name in made if re.match(r"(classify|locate)\.[1-9]", name)]:
            insist_equal(made, re.sub(r"^(\w+)\.\d+", r"\1.0", name), made.pop(name))
    if "query_embed.weight" in made:
        made["start.positions.weight"], made["start.states.weight"] = made.pop("query_embed.weight").chunk(2, 1)
    return made


def of_all_layers(tensors: Tensors) -> Tensors:
    """Remove duplicates: DINO saves the heads of all layers once for each layer, and again under the decoder.

    Raises:
        WeightsError: the duplicates differ.
    """
    made = {name: value for name, value in tensors.items() if not name.startswith(("of layer.", "again."))}
    for name in tensors.keys() - made.keys():
        once = name.split(".", 2)[2]
        made.setdefault(once, tensors[name])
        insist_equal(made, once, tensors[name])
    if "labels.weight" in made:  # there, its last row is never used; here it is padding
        made["labels.weight"] = torch.cat((made["labels.weight"][:-1], torch.zeros_like(made["labels.weight"][-1:])))
    return made


def insist_equal(tensors: Tensors, name: str, value: torch.Tensor) -> None:
    if name not in tensors or not torch.equal(tensors[name], value):
        raise WeightsError(f"the file has two different tensors for {name}; save the state_dict() of the network again")


CLASSES = "class_embed.weight"
LAYOUTS = [
    Layout(
        "dino", r"transformer\.enc_out_class_embed\.", "dino_detr", DINO,
        ("transformer.enc_out_class_embed.weight", 1, 0), False, of_dino, of_all_layers,
    ),
    Layout(
        "deformable detr", r"transformer\.level_embed$", "deformable_detr", DEFORMABLE, ("class_embed.0.weight", 1, 0),
        False, of_deformable, once,
    ),
    Layout(
        "smca", r"transformer\.decoder\.layers\.0\.point2\.", "smca_detr", SMCA, (CLASSES, 1, 1), False, of_smca,
        without_no_object,
    ),
    Layout("detr with masks", r"bbox_attention\.", "detr_panoptic", MASKS, (CLASSES, 1, 1), False, of_detr),
    Layout("detr", r"transformer\.decoder\.layers\.0\.", "detr", DETR, (CLASSES, 1, 1), False, of_detr),
]  # fmt: skip
