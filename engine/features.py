"""A frozen, truncated backbone and the patch features made of its maps.

- Stages are named by stride: 1 = 4, 2 = 8, 3 = 16, 4 = 32 pixels, whatever a backbone calls them, and nothing
  past the last stage asked for is built or run. A transformer's maps all have one stride: there a stage is a
  block, 1 = the first, and its map is the block's tokens laid out as they lie in the picture.
- Weights are matched name by name: a parameter that the file lacks is an error, never a random number.
- Averaging over a neighbourhood and over channels is linear and commutes with bilinear upsampling, so all of
  it happens at each map's own resolution and only the result is upsampled. The published code upsamples
  first, with the same outcome at up to 36 times the memory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.backbones.resolve import SHIPPED, Backbone, at_hand, build, timm_with_ours
from engine.config import STAGE_CHOICES, SimpleNetConfig
from engine.errors import ShapeMismatch, UnknownBackbone, WeightsMismatch
from engine.images import RGB, preprocess

_NO_MAPS = f"Backbone '{{name}}' gives no maps of its stages. Choose another, for instance {SHIPPED}."


class FeatureExtractor(nn.Module):
    """The frozen backbone up to the last stage asked for.

    Args:
        backbone: from `engine.backbones.resolve.resolve_backbone`.
        stages: for instance (2, 3).
        device: where it runs.
        dtype: torch.float32 or torch.bfloat16.
    Attributes:
        stages: rising.
        channels: per stage.
        patch: side in pixels of what a transformer makes one token of; 1 for other backbones.
        mean, std: of the backbone's pretraining, for `preprocess`.
        weights_digest: the backbone's.
    Raises:
        UnknownBackbone: the backbone has no such stage or block.
        WeightsMismatch: a parameter is missing in the file or has another shape.
    """

    def __init__(
        self,
        backbone: Backbone,
        stages: Sequence[int],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        from safetensors.torch import load_file

        self.backbone = backbone
        self.weights_digest = backbone.digest
        self.stages = tuple(sorted(set(stages)))
        state = load_file(backbone.weights)
        net, self._indices, self.channels, self.patch = _truncated(backbone.name, state, self.stages)
        self.net: nn.Module = net
        # Of transformers that can't stretch what they know of places.
        fixed = net.pretrained_cfg.get("fixed_input_size")
        self._only_size = tuple(net.pretrained_cfg["input_size"][1:]) if fixed else None
        self.mean: tuple[float, ...] = tuple(net.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(net.pretrained_cfg["std"])
        _fill(self.net, state, backbone)
        self.device = device
        self.dtype = dtype
        # channels_last is the layout in which the CPU's and GPU's convolution kernels work without
        # reordering.
        self.net.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def fitting(self, height: int, width: int) -> tuple[int, int]:
        """Give the size nearest to a canvas that the backbone takes: of a transformer, whole patches."""
        sides = [max(1, round(side / self.patch)) * self.patch for side in (height, width)]
        return sides[0], sides[1]

    def prepare(self, images: Sequence[RGB], height: int, width: int, resize: str = "squash") -> Tensor:
        """Lay pictures on a canvas and normalise them as this backbone was pretrained.

        Returns:
            (B, 3, height, width) float32 on the extractor's device, channels last in memory.
        """
        return preprocess(
            images, height, width, resize=resize, mean=self.mean, std=self.std, device=self.device
        )

    @torch.inference_mode()
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Compute the maps of the stages.

        Args:
            images: (B, 3, H, W), as `prepare` gives them, on any device.
        Returns:
            Per stage (B, C, h, w) float32 on the extractor's device.
        Raises:
            ShapeMismatch: the backbone does not take pictures of this size.
        """
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        # All that timm's models have in common beyond nn.Module is known at run time only.
        forward: Any = self.net.forward_intermediates
        try:
            maps = forward(images, indices=self._indices, intermediates_only=True)
        except (AssertionError, IndexError, RuntimeError) as error:
            size = tuple(images.shape[-2:])
            if self._only_size in (None, size):
                raise
            raise ShapeMismatch(
                f"Backbone {self.backbone.name!r} does not take pictures of {size[0]}×{size[1]} px ({error}). "
                f"Set the size to {self._only_size[0]}×{self._only_size[1]}, or choose another backbone."
            ) from error
        return {stage: values.float() for stage, values in zip(self.stages, maps, strict=True)}


def _truncated(
    name: str, state: Mapping[str, Tensor], stages: Sequence[int]
) -> tuple[Any, list[int], dict[int, int], int]:
    """Build a backbone without weights, cut after the last stage.

    Returns:
        the network, the indices of its maps, the channels per stage, the side of a transformer's patch or 1.
    """
    # A fork of the generator: timm draws initial weights, which the file replaces and nobody's seed feels.
    with torch.random.fork_rng(devices=[]):
        net: Any = build(name, state)
    if not hasattr(net, "forward_intermediates"):
        raise UnknownBackbone(_NO_MAPS.format(name=name))
    offered = _maps_by_stage(net)
    for stage in stages:
        if stage not in offered:
            raise UnknownBackbone(
                f"Backbone {name!r} has no {'block' if _is_isotropic(net) else 'stage'} {stage}; it has "
                f"{', '.join(map(str, sorted(offered)))}. Choose other layers or another backbone."
            )
    indices = [offered[stage][0] for stage in stages]
    channels = {stage: offered[stage][1] for stage in stages}
    patch = int(net.feature_info[0]["reduction"]) if _is_isotropic(net) else 1
    return net, list(net.prune_intermediate_layers(indices, prune_norm=True)), channels, patch


def _is_isotropic(net: Any) -> bool:
    """Whether all maps have one stride, as a plain transformer's."""
    return len(net.feature_info) > 1 and len({info["reduction"] for info in net.feature_info}) == 1


def _maps_by_stage(net: Any) -> dict[int, tuple[int, int]]:
    """Per stage, or block of a transformer: the index of its map among the network's, and its channels."""
    maps = [(int(info["reduction"]), int(info["num_chs"])) for info in net.feature_info]
    if _is_isotropic(net):
        return {index + 1: (index, channels) for index, (_, channels) in enumerate(maps)}
    by_stride = {2 ** (stage + 1): stage for stage in range(1, 5)}
    # Of several maps with one stride the last is taken, as timm's own list of features does.
    return {
        by_stride[stride]: (index, channels)
        for index, (stride, channels) in enumerate(maps)
        if stride in by_stride
    }


def stages_of(name: str) -> tuple[int, ...]:
    """Give the stages that a backbone has, or the numbers of a transformer's blocks.

    Raises:
        UnknownBackbone: there is no such model, or it gives no maps.
    """
    return _described(at_hand(name).name)[0]


def layer_choices(name: str) -> tuple[tuple[int, ...], ...]:
    """Give the choices of layers worth comparing: of stages, the paper's and those around it; of a transformer, in
    place of stages 1, 2 and 3 the blocks at a quarter, half and three quarters of its depth.

    Raises:
        UnknownBackbone: as `stages_of`.
    """
    stages, isotropic = _described(at_hand(name).name)
    if not isotropic:
        # Some begin at stage 3.
        inside = tuple(choice for choice in STAGE_CHOICES if set(choice) <= set(stages))
        return inside or (stages[:2],)
    return tuple(dict.fromkeys(_in_place_of(choice, len(stages)) for choice in STAGE_CHOICES))


def default_layers(name: str) -> tuple[int, ...]:
    """Give the paper's layers 2 and 3, or a transformer's blocks in their place.

    Raises:
        UnknownBackbone: as `stages_of`.
    """
    stages, isotropic = _described(at_hand(name).name)
    if isotropic:
        return _in_place_of((2, 3), len(stages))
    return (2, 3) if {2, 3} <= set(stages) else stages[:2]


def has_blocks(name: str) -> bool:
    """Whether a backbone's layers are the blocks of a transformer.

    Raises:
        UnknownBackbone: as `stages_of`.
    """
    return _described(at_hand(name).name)[1]


def _in_place_of(choice: Sequence[int], blocks: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, blocks * stage // 4) for stage in choice}))


@lru_cache(maxsize=64)
def _described(name: str) -> tuple[tuple[int, ...], bool]:
    """The stages of a backbone, and whether they are a transformer's blocks."""
    with torch.device("meta"):
        net = timm_with_ours().create_model(name, num_classes=0)
    if not hasattr(net, "forward_intermediates") or not _maps_by_stage(net):
        raise UnknownBackbone(_NO_MAPS.format(name=name))
    return tuple(sorted(_maps_by_stage(net))), _is_isotropic(net)


def _fill(net: nn.Module, state: Mapping[str, Tensor], backbone: Backbone) -> None:
    wanted = net.state_dict()
    # Counters of batch norm say nothing to a frozen network, and converters leave them out.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise WeightsMismatch(
            f"{backbone.origin} lacks {len(missing)} of the {len(wanted)} parameters of {backbone.name!r}, "
            f"first {missing[0]!r}. Give the weights of this backbone, in timm's names."
        )
    try:
        net.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    except RuntimeError as error:
        raise WeightsMismatch(f"{backbone.origin} does not fit {backbone.name!r}: {error}") from error


def fitted(config: SimpleNetConfig, extractor: FeatureExtractor) -> SimpleNetConfig:
    """Give the configuration with the canvas that the backbone takes: of a transformer, whole patches."""
    height, width = extractor.fitting(config.height, config.width)
    return replace(config, height=height, width=width)


def feature_count(channels: Mapping[int, int], layers: Sequence[int], feature_dim: int | None = None) -> int:
    """Give the length of a patch feature: the sum of the layers' channels, or `feature_dim`."""
    return feature_dim if feature_dim is not None else sum(channels[layer] for layer in layers)


def aggregate(
    maps: Mapping[int, Tensor],
    layers: Sequence[int],
    patch_size: int = 3,
    feature_dim: int | None = None,
    *,
    layer_dim: int | None = None,
) -> Tensor:
    """Make one feature per position of the finest layer out of the neighbourhoods in all layers.

    Without `feature_dim` each layer gives the means of its channels over the neighbourhood, side by side.
    With it, a neighbourhood's channels and positions are pooled to `layer_dim` numbers per layer and these to
    `feature_dim`, as published (there both are 1536). Positions outside the map count as zeros, as published.

    Args:
        maps: per layer (B, C, h, w) float32; h and w halve from layer to layer.
        layers: finest first.
        patch_size: odd.
        layer_dim: default `feature_dim`.
    Returns:
        (B, h, w, D) float32 on the grid of the first of `layers`.
    Raises:
        ShapeMismatch: a layer is missing in `maps`.
    Source: SimpleNet, Liu et al., CVPR 2023, equations 1 to 3; the pooling is PatchCore's, Roth et al., CVPR
        2022.
    """
    absent = [layer for layer in layers if layer not in maps]
    if absent or not layers:
        raise ShapeMismatch(
            f"Layers {list(layers)} are wanted and {sorted(maps)} are there. Extract the missing ones."
        )
    grid = maps[layers[0]].shape[-2:]
    if feature_dim is None:
        pooled = [upsample(neighbourhood_mean(maps[layer], patch_size), grid) for layer in layers]
        return torch.cat(pooled, dim=1).permute(0, 2, 3, 1).contiguous()
    first = maps[layers[0]]
    features = first.new_zeros(len(first), feature_dim, *grid).to(memory_format=torch.channels_last)
    poolings = _poolings(
        tuple(int(maps[layer].shape[1]) for layer in layers),
        patch_size,
        layer_dim or feature_dim,
        feature_dim,
        first.device,
    )
    for layer, pooling in zip(layers, poolings, strict=True):
        values = F.conv2d(maps[layer], pooling.weight, padding=patch_size // 2, groups=pooling.groups)
        features[:, pooling.rows] += upsample(values, grid)
    return features.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class _Pooling:
    """What a layer gives to the patch features, as a convolution of its map."""

    rows: slice  # of the features
    weight: Tensor  # (rows, C / groups, patch_size, patch_size)
    groups: int


@lru_cache(maxsize=16)
def _poolings(
    channels: tuple[int, ...], patch_size: int, layer_dim: int, feature_dim: int, device: torch.device
) -> tuple[_Pooling, ...]:
    """Put both adaptive poolings of the paper into one convolution per layer.

    The first averages runs of a neighbourhood's channels and positions to `layer_dim` numbers, the second runs of
    all layers' numbers to `feature_dim`. Runs are short, so each number comes from few channels: where channels and
    numbers divide alike, the convolution falls into many small groups.
    """
    means = [_runs(count * patch_size**2, layer_dim) for count in channels]
    poolings = []
    # Per feature, the numbers that it averages: of one layer, at most of two.
    features = _runs(len(channels) * layer_dim, feature_dim)
    for index, count in enumerate(channels):
        low, high = index * layer_dim, (index + 1) * layer_dim
        own = [row for row, (start, stop) in enumerate(features) if start < high and stop > low]
        weight = np.zeros((len(own), count * patch_size**2), np.float32)
        for place, row in enumerate(own):
            start, stop = features[row]
            for number in range(max(start, low), min(stop, high)):
                begin, end = means[index][number - low]
                weight[place, begin:end] += 1 / ((end - begin) * (stop - start))
        groups = math.gcd(count, len(own))
        blocks = weight.reshape(groups, len(own) // groups, groups, -1)
        diagonal = blocks[np.arange(groups), :, np.arange(groups)]
        if np.count_nonzero(diagonal) != np.count_nonzero(blocks):  # runs reach across the groups' borders
            groups, diagonal = 1, blocks
        kernel = torch.from_numpy(diagonal.reshape(len(own), count // groups, patch_size, patch_size).copy())
        kernel = kernel.to(device, memory_format=torch.channels_last)
        poolings.append(_Pooling(slice(own[0], own[-1] + 1), kernel, groups))
    return tuple(poolings)


def _runs(length: int, outputs: int) -> list[tuple[int, int]]:
    """Give start and stop of what each output of an adaptive average pooling averages."""
    return [(row * length // outputs, -(-(row + 1) * length // outputs)) for row in range(outputs)]


def neighbourhood_mean(values: Tensor, patch_size: int) -> Tensor:
    """Average (B, C, h, w) over patch_size × patch_size positions around each; outside counts as zero."""
    if patch_size == 1:
        return values
    return F.avg_pool2d(values, patch_size, stride=1, padding=patch_size // 2)


def upsample(values: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly to `size`, pixel centres aligned."""
    if values.shape[-2:] == tuple(size):
        return values
    return F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)


def extract(
    extractor: FeatureExtractor, images: Sequence[RGB], height: int, width: int, resize: str = "squash"
) -> dict[int, Tensor]:
    """Prepare pictures and compute their maps, in one call."""
    if not images:
        raise ShapeMismatch("No picture was given; features need at least one.")
    maps: dict[int, Tensor] = extractor(extractor.prepare(images, height, width, resize))
    return maps
