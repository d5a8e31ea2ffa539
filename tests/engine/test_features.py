import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from engine.backbones.resolve import Backbone, resolve_backbone
from engine.config import SimpleNetConfig
from engine.errors import ShapeMismatch, UnknownBackbone, WeightsMismatch, WeightsUnavailable
from engine.features import (
    FeatureExtractor,
    aggregate,
    extract,
    feature_count,
    fitted,
    layer_choices,
    stages_of,
)
from engine.scoring import Detector
from engine.simplenet import SimpleNet

CPU = torch.device("cpu")
GOLDEN_CASES = ["two_layers_p3", "two_layers_p1", "two_layers_p5", "one_layer_p3", "three_layers_p3"]


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_aggregation_matches_published_code(golden: dict[str, np.ndarray], case: str) -> None:
    prefix = f"aggregate/{case}/"
    layers = [key.removeprefix(prefix) for key in golden if key.startswith(f"{prefix}layer")]
    maps = {int(name.removeprefix("layer")): torch.from_numpy(golden[prefix + name]) for name in layers}
    features = aggregate(
        maps,
        sorted(maps),
        int(golden[prefix + "patch_size"]),
        int(golden[prefix + "target_dim"]),
        layer_dim=int(golden[prefix + "pre_dim"]),
    )
    assert features.shape[:3] == (maps[0].shape[0], *maps[0].shape[2:])
    np.testing.assert_allclose(
        features.flatten(0, 2).numpy(), golden[prefix + "expected"], rtol=1e-5, atol=1e-6
    )


def upsampled_then_averaged(maps: dict[int, Tensor], layers: list[int], patch: int) -> Tensor:
    """The slow path: every position of every neighbourhood upsampled on its own, then averaged per channel."""
    height, width = maps[layers[0]].shape[-2:]
    columns = []
    for layer in layers:
        batch, channels, rows, cols = maps[layer].shape
        patches = F.unfold(maps[layer], patch, padding=patch // 2).reshape(batch, -1, rows, cols)
        large = F.interpolate(patches, size=(height, width), mode="bilinear", align_corners=False)
        columns.append(large.reshape(batch, channels, patch * patch, height, width).mean(dim=2))
    return torch.cat(columns, dim=1).permute(0, 2, 3, 1)


@pytest.mark.parametrize("patch", [1, 3, 5])
@pytest.mark.parametrize("layers", [[1, 2, 3], [2, 3], [1, 3], [3]])
def test_averaging_first_equals_upsampling_first(patch: int, layers: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = {
        1: torch.randn(2, 4, 16, 24, generator=generator),
        2: torch.randn(2, 6, 8, 12, generator=generator),
        3: torch.randn(2, 10, 4, 6, generator=generator),
    }
    torch.testing.assert_close(
        aggregate(maps, layers, patch), upsampled_then_averaged(maps, layers, patch), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("layer_dim", "dim"), [(24, 24), (10, 7), (36, 50), (5, 31), (96, 48)])
@pytest.mark.parametrize("layers", [[2, 3], [1, 2, 3], [3]])
def test_pooling_by_convolution_equals_both_adaptive_poolings(
    layers: list[int], layer_dim: int, dim: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = {
        layer: torch.randn(2, channels, side, side + 1, generator=generator)
        for layer, channels, side in ((1, 6, 8), (2, 8, 8), (3, 12, 4))
    }
    rows = []
    for layer in layers:
        patches = F.unfold(maps[layer], 3, padding=1).transpose(1, 2)
        pooled = F.adaptive_avg_pool1d(patches, layer_dim).transpose(1, 2)
        pooled = pooled.reshape(2, layer_dim, *maps[layer].shape[-2:])
        size = maps[layers[0]].shape[-2:]
        rows.append(F.interpolate(pooled, size=size, mode="bilinear", align_corners=False))
    together = torch.cat(rows, dim=1).permute(0, 2, 3, 1)
    expected = F.adaptive_avg_pool1d(together.flatten(0, 2)[:, None], dim)[:, 0].reshape(
        *together.shape[:3], dim
    )
    found = aggregate(maps, layers, 3, dim, layer_dim=layer_dim)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_pooling_to_the_number_of_channels_is_the_channel_mean() -> None:
    maps = {2: torch.randn(2, 8, 6, 6), 3: torch.randn(2, 8, 3, 3)}
    torch.testing.assert_close(aggregate(maps, (2, 3), 3, 16, layer_dim=8), aggregate(maps, (2, 3), 3))


def test_aggregation_of_an_absent_layer_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"\[2, 3\] are wanted and \[2\] are there"):
        aggregate({2: torch.zeros(1, 2, 4, 4)}, (2, 3))


def test_feature_count() -> None:
    assert feature_count({2: 128, 3: 256}, (2, 3)) == 384
    assert feature_count({2: 128, 3: 256}, (2, 3), 1536) == 1536


def test_stages_have_the_channels_and_strides_that_timm_states(tiny_extractor: FeatureExtractor) -> None:
    maps = tiny_extractor(torch.zeros(2, 3, 64, 96))
    assert tiny_extractor.channels == {1: 32, 2: 48, 3: 192}
    for stage, values in maps.items():
        stride = 2 ** (stage + 1)
        assert values.shape == (2, tiny_extractor.channels[stage], 64 // stride, 96 // stride)
        assert values.dtype == torch.float32


def test_maps_equal_those_of_timms_own_extractor(tiny_backbone: Backbone) -> None:
    theirs = timm.create_model("test_resnet", features_only=True, out_indices=(2, 3)).eval()
    theirs.load_state_dict(load_file(tiny_backbone.weights), strict=False)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = FeatureExtractor(tiny_backbone, (2, 3), CPU)(images)
    with torch.inference_mode():
        for mine, other in zip(ours.values(), theirs(images), strict=True):
            torch.testing.assert_close(mine, other)


def test_nothing_past_the_last_stage_is_built(tiny_backbone: Backbone) -> None:
    def size(stages: tuple[int, ...]) -> int:
        return sum(p.numel() for p in FeatureExtractor(tiny_backbone, stages, CPU).parameters())

    assert size((1,)) < size((1, 2)) < size((2, 3)) < size((4,))


def test_extractor_leaves_the_global_generator_alone(tiny_backbone: Backbone) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    FeatureExtractor(tiny_backbone, (2,), CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_extraction_needs_a_picture(tiny_extractor: FeatureExtractor) -> None:
    with pytest.raises(ShapeMismatch, match="at least one"):
        extract(tiny_extractor, [], 64, 64)


def test_stage_or_block_that_a_backbone_lacks_is_refused(
    tiny_backbone: Backbone, tiny_transformer: Backbone
) -> None:
    with pytest.raises(UnknownBackbone, match="'test_resnet' has no stage 5; it has 1, 2, 3, 4"):
        FeatureExtractor(tiny_backbone, (2, 5), CPU)
    with pytest.raises(UnknownBackbone, match="'test_vit' has no block 7; it has 1, 2, 3, 4, 5, 6"):
        FeatureExtractor(tiny_transformer, (7,), CPU)


def test_weights_with_a_missing_parameter_are_refused(tiny_backbone: Backbone, tmp_path: Path) -> None:
    state = load_file(tiny_backbone.weights)
    del state["conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"]
    save_file(state, tmp_path / "test_resnet.cut.safetensors")
    with pytest.raises(WeightsMismatch, match="lacks 1 of the"):
        FeatureExtractor(resolve_backbone("auto", tmp_path / "test_resnet.cut.safetensors"), (2,), CPU)


def test_weights_of_another_shape_are_refused(tiny_backbone: Backbone, tmp_path: Path) -> None:
    state = {
        name: values.new_zeros(*values.shape, 2) for name, values in load_file(tiny_backbone.weights).items()
    }
    save_file(state, tmp_path / "test_resnet.fat.safetensors")
    with pytest.raises(WeightsMismatch, match="does not fit"):
        FeatureExtractor(resolve_backbone("auto", tmp_path / "test_resnet.fat.safetensors"), (2,), CPU)


def test_weights_lost_past_the_last_stage_do_not_matter(resnet18_weights: Path) -> None:
    extractor = FeatureExtractor(resolve_backbone("auto", resnet18_weights), (2, 3), CPU)
    assert extractor.channels == {2: 128, 3: 256}
    with pytest.raises(WeightsMismatch, match="layer4"):
        FeatureExtractor(resolve_backbone("resnet18", resnet18_weights), (4,), CPU)


def test_mobilenet_from_a_file(shared: Path) -> None:
    file = shared / "weights" / "mobilenetv2_100.onnxzoo_in1k.safetensors"
    backbone = resolve_backbone("auto", file)
    assert backbone.name == "mobilenetv2_100"
    extractor = FeatureExtractor(backbone, (1, 2, 3, 4), CPU)
    assert extractor.channels == {1: 24, 2: 32, 3: 96, 4: 320}
    features = aggregate(extractor(torch.zeros(1, 3, 64, 64)), (2, 3))
    assert features.shape == (1, 8, 8, 128)


def test_backbone_is_known_by_its_file(resnet18_weights: Path) -> None:
    backbone = resolve_backbone("auto", resnet18_weights)
    assert backbone.name == "resnet18"
    assert backbone.origin == "file resnet18.tv_in1k.safetensors"
    assert len(backbone.digest) == 64
    assert backbone == resolve_backbone("resnet18", resnet18_weights)


def test_absent_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="does not exist"):
        resolve_backbone("resnet18", tmp_path / "resnet18.safetensors")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.pth"
    file.write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsUnavailable, match="pickles"):
        resolve_backbone("resnet18", file)


@pytest.mark.parametrize("name", ["resnet17", "", "resnet18.no_such_pretraining"])
def test_unknown_backbone_is_refused(name: str) -> None:
    with pytest.raises(UnknownBackbone, match="not a timm model, nor drawnet"):
        resolve_backbone(name)


RESOLVE = (
    "import time, sys; from engine.errors import EngineError; from engine.backbones.resolve import resolve_backbone\n"
    "import timm, huggingface_hub\n"
    "start = time.monotonic()\n"
    "try: print(resolve_backbone('resnet18').origin)\n"
    "except EngineError as error: print(type(error).__name__, error)\n"
    "print(time.monotonic() - start)\n"
)


def resolve_elsewhere(home: Path, **environment: str) -> tuple[str, float]:
    """Resolve resnet18 in a process with an environment of its own, as the hub's client reads it once."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    finished = subprocess.run(
        [sys.executable, "-c", RESOLVE],
        env={**inherited, "HF_HOME": str(home), **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *said, seconds = finished.stdout.strip().splitlines()
    return "\n".join(said), float(seconds)


def test_hub_that_never_answers_is_given_up_within_ten_seconds(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        said, seconds = resolve_elsewhere(tmp_path, HF_ENDPOINT=address, NO_PROXY="*")
    assert said.startswith("WeightsUnavailable")
    assert "--weights FILE" in said
    assert "SIMPLENET_WEIGHTS" in said
    assert seconds < 10


def test_hub_out_of_reach_is_given_up_within_ten_seconds(tmp_path: Path) -> None:
    said, seconds = resolve_elsewhere(tmp_path, HF_ENDPOINT="http://127.0.0.1:9", NO_PROXY="*")
    assert said.startswith("WeightsUnavailable The hub can't be reached")
    assert "--weights FILE" in said
    assert seconds < 10


def test_offline_setting_is_obeyed_at_once(tmp_path: Path) -> None:
    said, seconds = resolve_elsewhere(tmp_path, HF_HUB_OFFLINE="1")
    assert said.startswith("WeightsUnavailable")
    assert "HF_HUB_OFFLINE" in said
    assert seconds < 2


def test_hub_cache_is_used_without_the_hub(tmp_path: Path, resnet18_weights: Path) -> None:
    repository = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copy(resnet18_weights, snapshot / "model.safetensors")
    start = time.monotonic()
    said, _ = resolve_elsewhere(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert said == "hub cache timm/resnet18.a1_in1k"
    assert time.monotonic() - start < 60


@pytest.fixture(scope="session")
def tiny_transformer(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A plain vision transformer of 6 blocks with random weights; its patches are 16 pixels wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("test_vit", num_classes=0)
    file = tmp_path_factory.mktemp("weights") / "test_vit.random.safetensors"
    save_file(net.state_dict(), file)
    return resolve_backbone("auto", file)


def test_layers_of_a_transformer_are_its_blocks_counted_from_one(tiny_transformer: Backbone) -> None:
    extractor = FeatureExtractor(tiny_transformer, (2, 5), CPU)
    picture = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    whole = timm.create_model("test_vit", num_classes=0).eval()
    whole.load_state_dict(load_file(tiny_transformer.weights))
    outputs: list[Tensor] = []
    for block in whole.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: outputs.append(output))
    with torch.no_grad():
        whole(picture)
    maps = extractor(picture)
    for number in (2, 5):
        tokens = outputs[number - 1][:, whole.num_prefix_tokens :]
        expected = tokens.transpose(1, 2).reshape(1, -1, 10, 10)
        torch.testing.assert_close(maps[number], expected, rtol=1e-4, atol=1e-5)
    assert aggregate(maps, (2, 5)).shape == (1, 10, 10, 2 * expected.shape[1])


def test_transformer_takes_any_canvas_by_the_nearest_whole_patches(tiny_transformer: Backbone) -> None:
    extractor = FeatureExtractor(tiny_transformer, (3,), CPU)
    config = fitted(SimpleNetConfig(layers=(3,), height=100, width=250), extractor)
    assert (config.height, config.width) == (96, 256)
    maps = extract(extractor, [np.zeros((70, 90, 3), np.uint8)], config.height, config.width)
    assert maps[3].shape[-2:] == (6, 16)
    with pytest.raises(ShapeMismatch, match="whole patches of 16 px"):
        Detector(extractor, SimpleNet(config, 64), SimpleNetConfig(layers=(3,), height=100, width=250))


def test_transformer_of_one_size_says_which(tmp_path: Path) -> None:
    state = timm.create_model("cait_xxs24_224", num_classes=0).state_dict()
    save_file(state, tmp_path / "cait_xxs24_224.safetensors")
    extractor = FeatureExtractor(resolve_backbone("auto", tmp_path / "cait_xxs24_224.safetensors"), (1,), CPU)
    with pytest.raises(ShapeMismatch, match=r"does not take pictures of 256×256 px.*Set the size to 224×224"):
        extract(extractor, [np.zeros((64, 64, 3), np.uint8)], 256, 256)


@pytest.mark.parametrize(
    ("name", "stages", "choices"),
    [
        ("drawnet", (1, 2, 3), ((2,), (3,), (1, 2), (2, 3), (1, 2, 3))),
        ("levit_128", (3, 4), ((3,),)),
        ("resnet18.tv_in1k", (1, 2, 3, 4), ((2,), (3,), (1, 2), (2, 3), (1, 2, 3))),
        ("deit_tiny_patch16_224", tuple(range(1, 13)), ((6,), (9,), (3, 6), (6, 9), (3, 6, 9))),
    ],
)
def test_layers_offered_follow_the_kind_of_backbone(
    name: str, stages: tuple[int, ...], choices: tuple[tuple[int, ...], ...]
) -> None:
    assert stages_of(name) == stages
    assert layer_choices(name) == choices
    with pytest.raises(UnknownBackbone, match="Near: deit_tiny_patch16_224"):
        stages_of("deit_tiny_patch16_24")


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_convnext",
        "test_efficientnet",
        "test_mambaout",
        "test_nfnet",
        "test_byobnet",
        "test_vit3",
    ],
)
def test_every_family_of_timm_gives_features_for_the_layers_offered(name: str, tmp_path: Path) -> None:
    net = timm.create_model(name, num_classes=0)
    save_file(
        {key: values.contiguous() for key, values in net.state_dict().items()},
        tmp_path / f"{name}.safetensors",
    )
    backbone = resolve_backbone("auto", tmp_path / f"{name}.safetensors")
    choice = layer_choices(name)[-1]
    extractor = FeatureExtractor(backbone, choice, CPU)
    features = aggregate(extract(extractor, [np.full((50, 80, 3), 99, np.uint8)], 96, 128), choice)
    assert features.shape[-1] == feature_count(extractor.channels, choice)
    assert torch.isfinite(features).all()
