"""A frozen, truncated backbone and the patch features made of its maps.

- Stages are named by stride: 1 = 4, 2 = 8, 3 = 16, 4 = 32 pixels, whatever a backbone calls them, and nothing
  past the last stage asked for is built or run.
- Weights are matched name by name: a parameter that the file lacks is an error, never a random number.
- Averaging over a neighbourhood and over channels is linear and commutes with bilinear upsampling, so all of
  it happens at each map's own resolution and only the result is upsampled. The published code upsamples
  first, with the same outcome at up to 36 times the memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.backbones.resolve import SHIPPED, Backbone, build
from engine.errors import ShapeMismatch, UnknownBackbone, WeightsMismatch
from engine.images import RGB, preprocess


class FeatureExtractor(nn.Module):
    """The frozen backbone up to the last stage asked for.

    Args:
        backbone: from `engine.backbones.resolve.resolve_backbone`.
        stages: for instance (2, 3).
        device: where it runs.
        dtype: torch.float32 or torch.bfloat16.
    Attributes:
        stages: rising.
        channels, strides: per stage, as timm states them.
        mean, std: of the backbone's pretraining, for `preprocess`.
        weights_digest: the backbone's.
    Raises:
        UnknownBackbone: the backbone has no map of a stage's stride.
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
        self.strides = {stage: 2 ** (stage + 1) for stage in self.stages}
        state = load_file(backbone.weights)
        net, self._indices, self.channels = _truncated(backbone.name, state, self.strides)
        self.net: nn.Module = net
        self.mean: tuple[float, ...] = tuple(net.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(net.pretrained_cfg["std"])
        _fill(self.net, state, backbone)
        self.device = device
        self.dtype = dtype
        # channels_last is the layout in which the CPU's and GPU's convolution kernels work without
        # reordering.
        self.net.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def prepare(self, images: Sequence[RGB], height: int, width: int) -> Tensor:
        """Squash and normalise pictures as this backbone was pretrained.

        Returns:
            (B, 3, height, width) float32, on the CPU.
        """
        return torch.stack(
            [preprocess(image, height, width, mean=self.mean, std=self.std) for image in images]
        )

    @torch.inference_mode()
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Compute the maps of the stages.

        Args:
            images: (B, 3, H, W), as `prepare` gives them, on any device.
        Returns:
            Per stage (B, C, h, w) float32 on the extractor's device.
        """
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        # All that timm's models have in common beyond nn.Module is known at run time only.
        forward: Any = self.net.forward_intermediates
        maps = forward(images, indices=self._indices, intermediates_only=True)
        return {stage: values.float() for stage, values in zip(self.stages, maps, strict=True)}


def _truncated(
    name: str, state: Mapping[str, Tensor], strides: Mapping[int, int]
) -> tuple[Any, list[int], dict[int, int]]:
    """Build a backbone without weights, cut after the last stage.

    Returns:
        the network, the indices of its maps, the channels per stage.
    """
    # A fork of the generator: timm draws initial weights, which the file replaces and nobody's seed feels.
    with torch.random.fork_rng(devices=[]):
        net: Any = build(name, state)
    if not hasattr(net, "forward_intermediates"):
        raise UnknownBackbone(
            f"Backbone {name!r} gives no maps of its stages. Choose another, for instance {SHIPPED}."
        )
    # Of several maps with one stride the last is taken, as timm's own list of features does.
    by_stride = {info["reduction"]: (index, info["num_chs"]) for index, info in enumerate(net.feature_info)}
    for stage, stride in strides.items():
        if stride not in by_stride:
            have = ", ".join(str(stride) for stride in sorted(by_stride))
            raise UnknownBackbone(
                f"Backbone {name!r} has no map of stride {stride} (stage {stage}); it has strides {have}. "
                "Choose other layers or another backbone."
            )
    indices = [by_stride[stride][0] for stride in strides.values()]
    channels = {stage: int(by_stride[stride][1]) for stage, stride in strides.items()}
    return net, list(net.prune_intermediate_layers(indices, prune_norm=True)), channels


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
    layer_dim = layer_dim or feature_dim
    pooled = [upsample(_pool_neighbourhood(maps[layer], patch_size, layer_dim), grid) for layer in layers]
    rows = torch.cat(pooled, dim=1).permute(0, 2, 3, 1)  # (B, h, w, layers × layer_dim)
    shape = rows.shape[:-1]
    return F.adaptive_avg_pool1d(rows.reshape(-1, 1, rows.shape[-1]), feature_dim).reshape(
        *shape, feature_dim
    )


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


def _pool_neighbourhood(values: Tensor, patch_size: int, dim: int) -> Tensor:
    """Pool every neighbourhood of (B, C, h, w), channel by channel, to `dim` numbers: (B, dim, h, w)."""
    batch, channels, height, width = values.shape
    if dim == channels:  # each number is then one channel's mean
        return neighbourhood_mean(values, patch_size)
    # One picture at a time: an unfolded map is patch_size² times the map.
    pooled = []
    for picture in torch.split(values, 1):
        patches = F.unfold(picture, patch_size, padding=patch_size // 2)  # (1, C × p × p, h × w)
        pooled.append(F.adaptive_avg_pool1d(patches.transpose(1, 2), dim).transpose(1, 2))
    return torch.cat(pooled).reshape(batch, dim, height, width)


def extract(extractor: FeatureExtractor, images: Sequence[RGB], height: int, width: int) -> dict[int, Tensor]:
    """Prepare pictures and compute their maps, in one call."""
    if not images:
        raise ShapeMismatch("No picture was given; features need at least one.")
    maps: dict[int, Tensor] = extractor(extractor.prepare(images, height, width))
    return maps
