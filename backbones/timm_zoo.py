"""timm's networks under the names of the recipes. Any other timm name works as well.

The columns give the differences of birder's and AWS's networks from timm's defaults; parameter counts are equal to
theirs in every row. `drop_path` is the default stochastic depth of the name. `aws` is what AWS's program built where
that differs from the paper; `--aws-compat` uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbones import backbone
from backbones.base import Backbone, MapInfo
from backbones.reach import map_reach, only_size
from backbones.timm_maps import has_maps, maps_of
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats


class Row(NamedTuple):
    """timm's name, arguments that differ from its defaults, and taps of the maps that differ from timm's.

    args: a callable value is called to get the argument, so that the table imports no timm.
    last_tap: (block, channels) of the coarsest map, for nets whose last timm feature includes a head convolution.
    after_neck: the single map is taken after the net's own neck.
    published: timm's name with weights, if those are of a different net than this row's.
    modify: changes the built network.
    aws: the network as AWS's program built it.
    vetted: its maps are known to have the reported shapes at any image size; other nets are checked when built.
    """

    timm_name: str
    args: dict[str, Any] = {}
    drop_path: float = 0.0
    last_tap: tuple[int, int] | None = None
    after_neck: bool = False
    published: str | None = None
    modify: Callable[[Any], None] | None = None
    aws: Row | None = None
    vetted: bool = True


def rms_norm() -> Any:
    from timm.layers.norm import RmsNorm

    return RmsNorm


def leaky_relu() -> Any:
    return partial(nn.LeakyReLU, negative_slope=0.1)  # the paper's slope; timm's is 0.01


def relu_before_upsampling(net: Any) -> None:
    """HRNet: a ReLU after every 1x1 convolution that leads to a finer branch."""
    for module in net.modules():
        into: Any
        for i, into in enumerate(getattr(module, "fuse_layers", None) or ()):
            for way in into[i + 1 :]:
                way[2] = nn.Sequential(nn.ReLU(inplace=True), way[2])


def without_first_convolution(net: Any) -> None:
    """DarkNet: the image goes straight into the first strided convolution."""
    first = net.stages[0].conv_down.conv
    net.stem[0] = nn.Identity()
    net.stages[0].conv_down.conv = type(first)(3, first.out_channels, 3, stride=2, padding=1, bias=False)


def convolution_in_first_shortcut(net: Any) -> None:
    """ResNet-D of basic blocks: a convolution in its first shortcut too, as RT-DETR's ResNet-18 and 34 have."""
    first = net.layer1[0]
    width = first.conv2.out_channels
    first.downsample = nn.Sequential(nn.Identity(), nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))


VIT_REG4_M16 = {
    "img_size": 224, "patch_size": 16, "embed_dim": 512, "depth": 12, "num_heads": 8, "class_token": False,
    "reg_tokens": 4, "no_embed_class": False, "global_pool": "avg", "fc_norm": False, "norm_layer": rms_norm,
    "init_values": None,
}  # fmt: skip
HIERADET_BASE = {
    "embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3), "global_att_blocks": (12, 16, 20),
    "window_spec": (8, 4, 14, 7), "global_pos_size": (14, 14),
}  # fmt: skip
VIT_DET_M16 = {
    "embed_dim": 512, "depth": 12, "num_heads": 8, "norm_layer": rms_norm, "neck_chans": 0, "use_abs_pos": True,
}  # fmt: skip

VIT_SAM = {"use_abs_pos": True, "neck_chans": 256}
STEM64 = {"stem_width": 64}
LEAKY = {"act_layer": leaky_relu}

# fmt: off
ZOO = {
    # birder's detection recipes
    "regnet_y_4g":                       Row("regnety_040", {"group_min_ratio": 0.9}),
    "rdnet_s":                           Row("rdnet_small", drop_path=0.35),
    "csp_resnet_50":                     Row("cspresnet50"),
    "tiny_vit_5m":                       Row("tiny_vit_5m_224"),
    "tiny_vit_11m":                      Row("tiny_vit_11m_224", drop_path=0.1),
    "vit_reg4_m16_rms_avg":              Row("vision_transformer", VIT_REG4_M16),
    "efficientnet_v1_b0":                Row("efficientnet_b0", drop_path=0.2),
    "efficientnet_v1_b3":                Row("efficientnet_b3", drop_path=0.2),
    "efficientnet_v2_s":                 Row("efficientnetv2_s", drop_path=0.2),
    "efficientnet_v2_m":                 Row("efficientnetv2_m", drop_path=0.2),
    "hieradet_base":                     Row("sam2_hiera_base_plus", HIERADET_BASE, drop_path=0.1),
    "convnext_v2_tiny":                  Row("convnextv2_tiny", drop_path=0.2),
    "mobilenet_v4_m":                    Row("mobilenetv4_conv_medium", drop_path=0.075, last_tap=(4, 256)),
    "mobilenet_v4_hybrid_m":             Row("mobilenetv4_hybrid_medium", drop_path=0.075, last_tap=(4, 256)),
    "mobilenet_v2":                      Row("mobilenetv2_100"),
    "rope_i_vit_reg1_s16_pn_npn_avg_c1": Row("vit_pe_spatial_small_patch16_512", {"img_size": 224}),
    "vit_det_m16_rms":                   Row("samvit_base_patch16_224", VIT_DET_M16, after_neck=True),
    "vit_sam_b16":                       Row("samvit_base_patch16_224", VIT_SAM, 0.1, after_neck=True),
    "resnet_v1_50":                      Row("resnet50"),
    "resnet18_vd":                       Row("resnet18d", modify=convolution_in_first_shortcut,
                                             published="resnet18d.ra2_in1k"),
    "resnet34_vd":                       Row("resnet34d", modify=convolution_in_first_shortcut,
                                             published="resnet34d.ra2_in1k"),
    # AWS's six backbones; V1_b strides in the 3x3, V1_d has a 64-64-128 stem and pooled shortcuts
    "hrnet_w32c":                        Row("hrnet_w32", aws=Row("hrnet_w32", modify=relu_before_upsampling)),
    "resnet50_v1b":                      Row("resnet50"),
    "resnet50_v1d":                      Row("resnet50d", STEM64, aws=Row("resnet50c", STEM64)),  # no pooling
    "resnet101_v1b":                     Row("resnet101"),
    "resnet101_v1d":                     Row("resnet101d", STEM64, aws=Row("resnet101c", STEM64)),
    "darknet53":                         Row("darknet53", LEAKY, published="darknet53.c2ns_in1k",
                                             aws=Row("darknet53", LEAKY, modify=without_first_convolution)),
}
# fmt: on
ASKED: dict[tuple[str, tuple], tuple[int, int] | None] = {}  # only_size by name and size, computed once
SIZE_FREE = ("dynamic_img_size", "strict_img_size")  # timm arguments that allow other image sizes


class TimmBackbone(Backbone):
    """Any timm network with feature maps and parameter groups.

    Args:
        row: timm's name and the differences.
        pretrained: load timm's published weights.
        drop_path: stochastic depth; None for the default of the name.
        img_size: height and width of position embeddings; None for the default of the name.
        aws_compat: the network as AWS's program built it, where that differs from the paper.
        dilation: dilation replaces the stride of the last stage (DC5).
    """

    one_pass = False  # `forward_both` runs the trunk once; `reach.join_passes` tries whether that is the same

    def __init__(
        self,
        row: Row,
        *,
        pretrained: bool = False,
        drop_path: float | None = None,
        img_size: tuple[int, int] | None = None,
        aws_compat: bool = False,
        dilation: bool = False,
    ) -> None:
        super().__init__()
        row = as_aws_has_it(row, pretrained) if aws_compat else row
        rate = row.drop_path if drop_path is None else drop_path
        sized = {"img_size": tuple(img_size)} if img_size else {}
        make = create_dilated if dilation else create
        self.net = make(row, pretrained, sized | ({"drop_path_rate": rate} if rate else {}))
        infos = [MapInfo(f["num_chs"], f["reduction"]) for f in getattr(self.net, "feature_info", None) or []]
        if not has_maps(self.net):
            raise UsageError(f"timm's {row.timm_name} has no feature maps; use another backbone")
        if row.last_tap:
            block, channels = row.last_tap
            self.net.stage_ends[-1], infos[-1] = block, MapInfo(channels, infos[-1].stride)
        apart = len(infos) - 1 if dilation else None  # the last stage, which shares its stride with the one before
        last_of_stride = {(info.stride, i == apart): i for i, info in enumerate(infos) if info.stride >= 4}
        self.taps = sorted(last_of_stride.values())
        self.maps = tuple(infos[i] for i in self.taps)
        self.after_neck = row.after_neck
        self.width = pooled_width(self.net)
        if row.after_neck and row.args["neck_chans"]:
            self.maps = (MapInfo(row.args["neck_chans"], self.maps[-1].stride),)
        cfg = self.net.pretrained_cfg if hasattr(self.net, "pretrained_cfg") else {}
        self.pixels = PixelStats(tuple(cfg["mean"]), tuple(cfg["std"])) if pretrained else None
        own = tuple(img_size or cfg.get("input_size", (224, 224))[-2:])
        if not row.vetted:
            if (row.timm_name, own) not in ASKED:
                ASKED[row.timm_name, own] = only_size(self, own)  # type: ignore[arg-type]
            self.only = ASKED[row.timm_name, own]

    def forward_features(self, x: Tensor) -> list[Tensor]:
        self.check_size(x.shape[-2:])
        if self.after_neck:
            return [self.net.forward_features(x)]
        return maps_of(self.net, x, self.taps)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x.shape[-2:])
        return self.net(x)

    def forward_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.one_pass:
            return super().forward_both(x)
        self.check_size(x.shape[-2:])
        last, maps = self.net.forward_intermediates(x, indices=[self.taps[-1]])
        return maps[-1], self.net.forward_head(last)

    def blocks(self) -> list[list[nn.Parameter]]:
        return self.grouped(coarse=False)

    def stages(self) -> list[list[nn.Parameter]]:
        if len(self.maps) == 1:  # a plain ViT has no stages; its blocks are used
            return self.blocks()
        reach = map_reach(self)
        weights, stem = dict(self.named_parameters()), {id(p) for p in self.blocks()[0]}
        nested = all(finer <= coarser for finer, coarser in pairwise(reach))
        if not nested or all(id(weights[name]) in stem for name in reach[0]):
            return self.grouped(coarse=True)  # parallel branches, as in HRNet, or a stem after the finest map
        staged: list[list[nn.Parameter]] = [[p for p in weights.values() if id(p) in stem]]
        seen = {name for name, p in weights.items() if id(p) in stem}
        for names in reach:
            staged.append([p for name, p in weights.items() if name in names - seen])
            seen |= names
        # parameters used only by the pooled vector
        staged[-1] += [p for name, p in weights.items() if name not in seen]
        return staged

    def grouped(self, *, coarse: bool) -> list[list[nn.Parameter]]:
        from timm.models._manipulate import group_parameters

        matcher = self.net.group_matcher(coarse=coarse) if hasattr(self.net, "group_matcher") else usual_groups(coarse)
        groups = group_parameters(self.net, matcher)
        weights = dict(self.net.named_parameters())
        return [[weights[name] for name in names] for _, names in sorted(groups.items()) if names]


def pooled_width(net: Any) -> int:
    """Channels of the pooled vector; of nets with a neck, timm before 1.0.31 reports those before it as hidden size."""
    behind_neck = isinstance(getattr(net, "neck", None), nn.Sequential)
    return int((None if behind_neck else getattr(net, "head_hidden_size", None)) or net.num_features)


def usual_groups(coarse: bool) -> dict[str, Any]:
    """Parameter groups of most timm networks, for those that do not define any."""
    blocks = r"^stages\.(\d+)" if coarse else [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)", (0,))]
    return {"stem": r"^stem", "blocks": blocks}


def as_aws_has_it(row: Row, pretrained: bool) -> Row:
    if row.aws is None:
        raise UsageError(f"AWS's program built {row.timm_name} as in the paper; remove --aws-compat")
    if pretrained:
        raise WeightsError("there are no published weights for --aws-compat networks; remove one of the two")
    return row.aws


def create(row: Row, pretrained: bool, args: dict[str, Any]) -> Any:
    """The timm network without classifier, for images of any size where timm has an option for that."""
    if pretrained and row.published:
        raise WeightsError(f"timm's published weights are of a slightly different net; use that one: {row.published}")
    net = call_timm(row, pretrained, {k: v() if callable(v) else v for k, v in row.args.items()} | args)
    if row.modify is not None:
        row.modify(net)
    embed: Any = getattr(net, "patch_embed", None)
    if hasattr(embed, "dynamic_img_pad"):  # images are padded to a multiple of the patch size
        embed.dynamic_img_pad = True
    return net


def create_dilated(row: Row, pretrained: bool, args: dict[str, Any]) -> Any:
    """The same with dilation in place of the last stage's stride, so that the coarsest map has stride 16.

    Raises:
        UsageError: timm does not support it for this network.
    """
    try:
        net = create(row, pretrained, args | {"output_stride": 16})
    except (AssertionError, TypeError) as error:  # timm's errors for nets without other strides
        if isinstance(error, TypeError) and "output_stride" not in str(error):
            raise
        net = None
    if net is None or [f["reduction"] for f in getattr(net, "feature_info", None) or []][-2:] != [16, 16]:
        raise UsageError(
            f"timm's {row.timm_name} cannot replace the stride of the last stage by dilation; remove "
            "--dilation, or use a ResNet, RegNet, EfficientNet or ConvNeXt"
        )
    return net


def call_timm(row: Row, pretrained: bool, args: dict[str, Any]) -> Any:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if row.timm_name == "vision_transformer":  # a ViT without an entry point in timm
        if pretrained:
            raise WeightsError("timm has no published weights for this ViT; give a --backbone-tag, or train one")
        return VisionTransformer(num_classes=0, dynamic_img_size=True, **args)
    strict: nn.Module | None = None
    for option in (*SIZE_FREE, None):
        extra: dict[str, Any] = {option: option == SIZE_FREE[0]} if option else {}
        try:
            made = timm.create_model(row.timm_name, pretrained=pretrained, num_classes=0, **args, **extra)
            if option == SIZE_FREE[0] and getattr(getattr(made, "patch_embed", None), "strict_img_size", False):
                strict = made  # timm 1.0.20's Swin ignores the first option without a word
                continue
            return made
        except TypeError as error:
            if "img_size" in args and "'img_size'" in str(error):
                raise UsageError(f"timm's {row.timm_name} has no option for an image size; remove the size") from None
            if strict is not None:
                return strict
            if option is None or option not in str(error):
                raise
        except Exception as error:
            if not pretrained or isinstance(error, AssertionError):
                raise
            reason = (str(error).strip().splitlines() or ["no reason given"])[0][:120]
            raise WeightsError(
                f"timm's published weights for {row.timm_name} could not be downloaded ({reason}); "
                f"put them into the hub's cache, give a --backbone-tag, or start from random weights"
            ) from None
    raise AssertionError("the last option always returns or raises")


@backbone.otherwise
def any_timm_net(name: str) -> partial | None:
    """A backbone by its timm name, such as `resnet18` or `convnext_tiny.fb_in22k`."""
    import timm

    return partial(TimmBackbone, Row(name, vetted=False)) if timm.is_model(name) else None


for name, row in ZOO.items():
    backbone(name)(partial(TimmBackbone, row))
