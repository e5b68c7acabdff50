"""VICReg: invariance between two views of an image, with variance and covariance regularization.

Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", 2022.

    image -> two crops -> color augmentation of each -> backbone -> vector -> expander -> embeddings z, z'

    invariance    mean squared distance of z and z', within each process
    variance      hinge loss on the standard deviation of each dimension, target 1  } over the images
    covariance    squares of the covariances between different dimensions           } of all processes

Color augmentation runs on the device, crops in the loader. Shape letters: B images of a process, N of all, D
dimensions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from backbones.base import Backbone
from pretrain.joint.pair import Pair, blur_range, has_batch_norm, insist_on_two
from pretrain.methods import Facts, Method, View, method
from pretrain.views.color import Color
from pretrain.views.crops import ResizeCenterCrop
from shared.devices import dist
from shared.feeding.pixels import Normalize
from shared.recipes.values import Layers, Probability, Share, Weight, Width

EPSILON = 1e-4  # keeps the gradient of the standard deviation finite at 0


TRAINED = {
    "by": "its paper",
    "opt": "lars",
    "lr": 0.2,
    "lr_batch": 256,
    "wd": 1e-6,
    "norm_wd": 0,
    "bias_wd": 0,
    "lr_scheduler": "cosine",
    "epochs": 1000,
    "warmup_epochs": 10,
    "warmup_start": 0,
    "sync_bn": True,
}


@method("vicreg", trained=TRAINED)
class VICReg(Method):
    """
    Args:
        expander_width: width of the embedding and of the layers before it.
        expander_layers: linear layers of the expander, with batch norm and ReLU between them.
        sim_coeff: weight of the invariance term.
        std_coeff: weight of the variance term; with 0 it collapses.
        cov_coeff: weight of the covariance term.
        crop_scale: smallest area of a view as a fraction of the image.
        hflip: probability of a horizontal flip.
        jitter: probability of color jitter.
        gray: probability of grayscale.
        blur_first: probability of Gaussian blur of the first view, std 0.1 to 2 pixels at 224 and proportional
            otherwise.
        blur_second: the same for the second view.
        solarize_first: probability of solarization of the first view.
        solarize_second: the same for the second view.
    """

    needs = "any backbone; two images or more in a batch"
    compares_images = True
    graphs = ("look",)

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        expander_width: Width = 8192,
        expander_layers: Layers = 3,
        sim_coeff: Weight = 25.0,
        std_coeff: Weight = 25.0,
        cov_coeff: Weight = 1.0,
        crop_scale: Share = 0.08,
        hflip: Probability = 0.5,
        jitter: Probability = 0.8,
        gray: Probability = 0.2,
        blur_first: Probability = 1.0,
        blur_second: Probability = 0.1,
        solarize_first: Probability = 0.0,
        solarize_second: Probability = 0.2,
    ) -> None:
        super().__init__()
        self.backbone, self.expander = backbone, expander(backbone.width, expander_width, expander_layers)
        self.normalize = Normalize(facts.pixels)
        self.sim_coeff, self.std_coeff, self.cov_coeff = sim_coeff, std_coeff, cov_coeff
        same: dict[str, Any] = {"jitter": jitter, "gray": gray, "sigma": blur_range(facts.size)}
        first = Color(blur=blur_first, solarize=solarize_first, **same)
        second = Color(blur=blur_second, solarize=solarize_second, **same)
        self.pair = Pair(facts.size, first, second, crop_scale, hflip)

    def view(self) -> View:
        return self.pair.crops()

    def val_view(self) -> View:
        return ResizeCenterCrop(self.pair.size)

    def check_batch(self, images: int) -> None:
        insist_on_two("VICReg", images, alone=has_batch_norm(self.expander))

    def forward(self, batch: tuple[tuple[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """Two views (B, 3, H, W) uint8 of the same images, and labels, which are ignored."""
        crops, _ = batch
        self.check_batch(len(crops[0]))
        x, y = self.pair(crops, self.normalize)
        # separately, so that batch norm statistics are per view
        z, z_ = self.look(x), self.look(y)
        with torch.autocast(z.device.type, enabled=False):
            return self.compare(z.float(), z_.float())

    def look(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)"""
        return self.embed(self.backbone(x))

    def embed(self, vectors: Tensor) -> Tensor:
        return self.expander(vectors)

    def compare(self, z: Tensor, z_: Tensor) -> dict[str, Tensor]:
        """Two embeddings (B, D) of the same images -> the three weighted terms."""
        one, other = spread(dist.gather_rows(z)), spread(dist.gather_rows(z_))
        return {
            "invariance": self.sim_coeff * F.mse_loss(z, z_),
            "variance": self.std_coeff * (one.variance + other.variance) / 2,
            "covariance": self.cov_coeff * (one.covariance + other.covariance),
        }


def expander(inside: int, width: int, layers: int) -> nn.Sequential:
    """(B, inside) -> (B, width). All linear layers but the last have biases."""
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(inside, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        inside = width
    return nn.Sequential(*modules, nn.Linear(inside, width, bias=False))


# --- variance and covariance ----------------------------------------------------------------------


class Spread(NamedTuple):
    """Variance and covariance terms of a matrix: (), ()."""

    variance: Tensor
    covariance: Tensor


def spread(z: Tensor) -> Spread:
    """(N, D) -> mean hinge of the standard deviations below 1; sum of squared off-diagonal covariances over D."""
    return Spread(*_Spread.apply(z))  # type: ignore[misc]


class _Spread(torch.autograd.Function):
    """Both terms with an explicit backward pass, in the cheaper of two equal forms.

    With X the centered rows, the covariances are C = X'X / (N - 1), D x D. When N < D the products of the rows, XX',
    N x N, give the same sum: sum of all C_ij^2 = sum of all (XX')_ij^2 / (N - 1)^2. The diagonal of C is the
    variance. Both gradients are linear in X, so one matrix product makes them.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        count, width = z.shape
        x = z - z.mean(0)
        variances = x.square().sum(0) / (count - 1)
        deviations = (variances + EPSILON).sqrt()
        if count < width:
            products = x @ x.T / (count - 1)
            squares = products.square().sum() - variances.square().sum()
        else:
            products = (x.T @ x / (count - 1)).fill_diagonal_(0)
            squares = products.square().sum()
        ctx.save_for_backward(x, variances, deviations, products)
        return F.relu(1 - deviations).mean(), squares / width

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_variance: Tensor, to_covariance: Tensor) -> Tensor:  # type: ignore[override]
        x, variances, deviations, products = ctx.saved_tensors
        count, width = x.shape
        short = (deviations < 1) / deviations
        of_x = -to_variance / (width * (count - 1)) * short
        slope = 4 * to_covariance / (width * (count - 1))
        if count < width:
            return (x * (of_x - slope * variances)).addmm_(products * slope, x)
        return (x * of_x).addmm_(x * slope, products)
