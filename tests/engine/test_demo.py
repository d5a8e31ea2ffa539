"""The demo dataset: same seed, same pixels; masks that say exactly where the defect is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.demo import DEFECTS_PER_TYPE, TEST_NORMALS, TRAIN_NORMALS, BadDemo, draw_demo
from engine.plate_defects import DEFECT_TYPES, photograph_defective
from engine.plates import build_surface, photograph, sample_plate

SIZE = 64


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    draw_demo(folder, seed=3, size=SIZE)
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_demo_has_the_mvtec_layout(demo: Path) -> None:
    assert len(list((demo / "train" / "good").glob("*.png"))) == TRAIN_NORMALS == 40
    assert len(list((demo / "test" / "good").glob("*.png"))) == TEST_NORMALS == 20
    assert {path.name for path in (demo / "test").iterdir()} == {"good", *DEFECT_TYPES}
    for defect_type in DEFECT_TYPES:
        pictures = sorted((demo / "test" / defect_type).glob("*.png"))
        masks = [demo / "ground_truth" / defect_type / f"{picture.stem}_mask.png" for picture in pictures]
        assert len(pictures) == DEFECTS_PER_TYPE == 10
        assert all(mask.is_file() for mask in masks)


def test_same_seed_draws_the_same_pixels_in_any_run(demo: Path, tmp_path: Path) -> None:
    draw_demo(tmp_path, seed=3, size=SIZE)
    assert read_tree(tmp_path) == read_tree(demo)


def test_no_pixels_are_drawn_twice_within_or_across_seeds(demo: Path, tmp_path: Path) -> None:
    draw_demo(tmp_path, seed=4, size=SIZE)
    pictures = [
        np.asarray(Image.open(path)).tobytes()
        for folder in (demo, tmp_path)
        for part in ("train", "test")
        for path in (folder / part).rglob("*.png")
    ]
    assert len(pictures) == len(set(pictures)) == 200


def test_pictures_are_rgb_and_masks_are_black_and_white_and_never_empty(demo: Path) -> None:
    for path in (demo / "test").rglob("*.png"):
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("RGB", (SIZE, SIZE))
    for path in (demo / "ground_truth").rglob("*.png"):
        mask = np.asarray(Image.open(path))
        assert set(np.unique(mask)) == {0, 255}, path
        assert (mask > 0).mean() < 0.1, path


@settings(deadline=None, max_examples=40)
@given(
    defect_type=st.sampled_from(DEFECT_TYPES),
    severity=st.floats(0, 1),
    size=st.sampled_from([64, 96, 160]),
    seed=st.integers(0, 2**32),
)
def test_defect_stays_within_its_mask_and_shows_there(
    defect_type: str, severity: float, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    plate = sample_plate(rng)
    clean = photograph(plate, build_surface(plate, size))
    picture, mask = photograph_defective(plate, size, defect_type, severity=severity, rng=rng)
    assert mask.any()
    changed = (picture != clean).any(axis=2)
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.5


@pytest.mark.parametrize("defect_type", DEFECT_TYPES)
def test_more_severe_defects_change_more(defect_type: str) -> None:
    def change(severity: float) -> float:
        total = 0.0
        for seed in range(8):
            plate = sample_plate(np.random.default_rng(seed))
            clean = photograph(plate, build_surface(plate, 96)).astype(float)
            picture, _ = photograph_defective(
                plate, 96, defect_type, severity=severity, rng=np.random.default_rng(seed)
            )
            total += float(np.abs(picture - clean).sum())
        return total

    assert change(1.0) > 1.5 * change(0.0)


def test_normal_plates_differ_in_more_than_noise() -> None:
    plates = [sample_plate(np.random.default_rng(seed)) for seed in range(12)]
    pictures = [photograph(plate, build_surface(plate, SIZE)).astype(float) for plate in plates]
    brightness = [picture.mean() for picture in pictures]
    assert np.std(brightness) > 2.0
    assert len({plate.serial for plate in plates}) == 12
    assert np.std([plate.brush_angle for plate in plates]) > np.radians(0.3)


def test_no_normal_plate_lies_far_outside_the_others() -> None:
    plates = [sample_plate(np.random.default_rng(seed)) for seed in range(200)]
    nuisance = np.array(
        [
            (*plate.shift, plate.angle, plate.brush_angle, plate.exposure, plate.warmth, plate.sheen_centre)
            for plate in plates
        ]
    )
    deviations = np.abs(nuisance - nuisance.mean(axis=0)) / nuisance.std(axis=0)
    assert deviations.max() < 2.2  # of 200 plates with normally distributed nuisance, one lies beyond 2.5


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    draw_demo(tmp_path, size=SIZE, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 100) for done in range(1, 101)]


def test_negative_seed_and_tiny_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDemo, match=r"Seed -1 .* must be 0 or more"):
        draw_demo(tmp_path, seed=-1)
    with pytest.raises(BadDemo, match=r"size 32 px .* at least 64 px"):
        draw_demo(tmp_path, size=32)
    assert list(tmp_path.iterdir()) == []


def test_unknown_defect_type_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"'rust' is unknown; it must be one of scratch, dent"):
        photograph_defective(sample_plate(rng), SIZE, "rust", severity=1.0, rng=rng)
