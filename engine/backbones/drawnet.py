"""Drawnet: the backbone that ships with the product, small, and trained on drawn pictures only.

Three residual stages at strides 4, 8 and 16; a 1×1 convolution after each turns the stage into the features
it was trained to predict: those of an ImageNet network, on their own scale. It is
registered with timm, so that everything that takes a timm backbone takes this one. docs/backbone.md says
how it was trained and what it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STEM_WIDTH = 24
WIDTHS = (48, 96, 224)
BLOCKS = (1, 1, 2)
CHANNELS = (64, 128, 256)  # of the maps that it gives; of the shipped weights, and of their teacher
STRIDES = (4, 8, 16)
LICENCE = "bsd-3-clause"  # of the weights: the teacher's
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures' channels, as it is trained


class Drawnet(nn.Module):
    """The network; `forward_intermediates` and `prune_intermediate_layers` are timm's interface.

    Args:
        channels: of the maps it gives, one number per stage.
        norm: with batch norm behind every convolution but the last, as it is trained; `fold` takes it out.
        num_classes, in_chans: what `timm.create_model` passes; it has no classifier, and 3 input channels.
    """

    def __init__(
        self,
        channels: Sequence[int] = CHANNELS,
        norm: bool = False,
        num_classes: int = 0,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        if num_classes or in_chans != 3:
            raise ValueError(
                f"Drawnet has no classifier and takes 3 channels, not {num_classes} and {in_chans}."
            )
        self.num_classes = num_classes
        self.feature_info = [
            {"num_chs": count, "reduction": stride, "module": f"heads.{index}"}
            for index, (count, stride) in enumerate(zip(channels, STRIDES, strict=True))
        ]
        self.stem = nn.Sequential(
            _conv(3, STEM_WIDTH, 3, 2, norm), nn.ReLU(inplace=True),
            _conv(STEM_WIDTH, WIDTHS[0], 3, 2, norm), nn.ReLU(inplace=True),
        )  # fmt: skip
        stages, before = [], WIDTHS[0]
        for index, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            strides = [2 if index else 1, *[1] * (blocks - 1)]
            stages.append(
                nn.Sequential(
                    *(_Block(before if not k else width, width, s, norm) for k, s in enumerate(strides))
                )
            )
            before = width
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(nn.Conv2d(w, c, 1) for w, c in zip(WIDTHS, channels, strict=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Give the maps of all stages: (B, 3, H, W) to (B, channels, H / stride, W / stride) each."""
        return self.forward_intermediates(images)

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | None = None, **_: Any
    ) -> list[Tensor]:
        """Give the maps of the stages `indices`; the heads of the others are not run.

        timm's other options would change nothing here: there is no norm, and nothing but maps is given.
        """
        wanted = range(len(self.stages)) if indices is None else indices
        maps = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in wanted:
                maps.append(self.heads[index](x))
        return maps

    def prune_intermediate_layers(self, indices: Sequence[int], **_: Any) -> list[int]:
        """Drop the stages behind the last of `indices`."""
        kept = max(indices) + 1
        self.stages, self.heads = self.stages[:kept], self.heads[:kept]
        return list(indices)


class _Block(nn.Module):
    """Two 3×3 convolutions and a shortcut. Source: He et al., Deep residual learning, CVPR 2016."""

    def __init__(self, before: int, width: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.first = _conv(before, width, 3, stride, norm)
        self.second = _conv(width, width, 3, 1, norm)
        same = stride == 1 and before == width
        self.shortcut = nn.Identity() if same else _conv(before, width, 1, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        # In place: at stride 4 the passes over memory cost as much as the arithmetic.
        return torch.relu_(self.second(torch.relu_(self.first(x))).add_(self.shortcut(x)))


def _conv(before: int, width: int, kernel: int, stride: int, norm: bool) -> nn.Module:
    conv = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=not norm)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(width)) if norm else conv


def fold(net: nn.Module) -> None:
    """Fold every batch norm of a trained network into the convolution before it, in place."""
    net.eval()
    for name, child in list(net.named_children()):
        if isinstance(child, nn.Sequential) and isinstance(child[-1], nn.BatchNorm2d):
            conv: Any = child[0]
            setattr(net, name, fuse_conv_bn_eval(conv, child[-1]))
        else:
            fold(child)


def channels_of(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Read from weights how many maps each stage gives: as many as the teacher they were distilled from."""
    heads = [state.get(f"heads.{index}.weight") for index in range(len(CHANNELS))]
    # A saved model has the stages it needs and no later ones.
    return tuple(count if head is None else len(head) for count, head in zip(CHANNELS, heads, strict=True))


default_cfgs = generate_default_cfgs(
    {
        "drawnet.v1": {
            "url": "",
            "license": LICENCE,
            "num_classes": 0,
            "input_size": (3, 256, 256),
            "mean": MEAN,
            "std": STD,
            "first_conv": "stem.0",
            "classifier": (),
        }
    }
)


@register_model
def drawnet(pretrained: bool = False, **kwargs: Any) -> Drawnet:
    """Build Drawnet without its weights; `engine.backbones.resolve` knows where they are."""
    net: Drawnet = build_model_with_cfg(Drawnet, "drawnet", pretrained, **kwargs)
    return net
