import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import SimpleNetConfig
from engine.errors import InvalidConfig

configs = st.builds(
    SimpleNetConfig,
    backbone=st.sampled_from(["resnet18", "mobilenetv2_100"]),
    layers=st.lists(st.integers(1, 4), min_size=1, max_size=4, unique=True).map(lambda s: tuple(sorted(s))),
    height=st.integers(32, 1024),
    width=st.integers(32, 1024),
    patch_size=st.sampled_from([1, 3, 5]),
    feature_dim=st.none() | st.integers(1, 2048),
    adaptor_depth=st.integers(0, 8),
    discriminator_width=st.integers(1, 2048),
    members=st.integers(1, 64),
    noise_std=st.floats(1e-4, 1),
    margin=st.floats(0.1, 2),
    final_lr=st.floats(0, 1),
    average_decay=st.floats(0, 0.9999),
    top_patches=st.integers(1, 100),
    seed=st.integers(0, 2**32 - 1),
)


@given(configs)
def test_config_survives_json(config: SimpleNetConfig) -> None:
    assert SimpleNetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_json_holds_every_field() -> None:
    fields = {field.name for field in dataclasses.fields(SimpleNetConfig)}
    assert set(SimpleNetConfig().to_json()) == fields


def test_json_with_unknown_setting_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="noise_sdt"):
        SimpleNetConfig.from_json({"noise_sdt": 0.1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", ""),
        ("layers", ()),
        ("layers", (3, 2)),
        ("layers", (2, 2)),
        ("layers", (0,)),
        ("layers", (65,)),
        ("resize", "stretch"),
        ("height", 31),
        ("width", 5000),
        ("patch_size", 2),
        ("patch_size", 17),
        ("patch_size", -1),
        ("feature_dim", 0),
        ("adaptor_depth", -1),
        ("adaptor_depth", 9),
        ("discriminator_width", 0),
        ("members", 0),
        ("members", 65),
        ("noise_std", 0.0),
        ("margin", 0.0),
        ("epochs", 0),
        ("steps_per_epoch", 0),
        ("batch_patches", 1),
        ("adaptor_lr", 0.0),
        ("discriminator_lr", -1e-4),
        ("weight_decay", -1.0),
        ("adaptor_weight_decay", -1.0),
        ("final_lr", 1.5),
        ("average_decay", 1.0),
        ("top_patches", 0),
        ("smoothing_std", -1.0),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=rf"^{field} is .*must.*Change {field}"):
        SimpleNetConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 256.0),
        ("height", True),
        ("layers", [2, 3]),
        ("layers", ("2",)),
        ("backbone", None),
        ("feature_dim", "1536"),
        ("noise_std", "0.1"),
        ("noise_std", float("nan")),
        ("margin", float("inf")),
    ],
)
def test_value_of_another_type_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=rf"^{field} is .*of type"):
        SimpleNetConfig(**{field: value})  # type: ignore[arg-type]


def test_plain_value_types_need_no_torch() -> None:
    program = (
        "import sys, engine.config, engine.metrics, engine.calibration, engine.errors; "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_published_settings_are_one_pass_of_eight_whole_pictures_at_a_time() -> None:
    config = SimpleNetConfig.published(209, backbone="wide_resnet50_2")
    assert (config.height, config.width, config.resize, config.feature_dim) == (288, 288, "crop", 1536)
    assert (config.epochs, config.steps_per_epoch, config.batch_patches) == (160, 27, 8 * 36 * 36)
    assert (config.members, config.discriminator_width, config.top_patches, config.noise_std) == (
        1,
        1024,
        1,
        0.015,
    )
    assert SimpleNetConfig.published(3, epochs=2).batch_patches == 3 * 36 * 36
    with pytest.raises(InvalidConfig, match="patch_size is 2"):
        SimpleNetConfig.published(3, patch_size=2)
