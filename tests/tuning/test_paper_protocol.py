import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from storage.records import Label
from tuning.errors import DatasetTooSmall
from tuning.paper_protocol import LabelledPicture, PaperResult, paper_protocol

CONFIG = SimpleNetConfig(
    height=96, width=96, discriminator_width=32, epochs=2, steps_per_epoch=20, batch_patches=256
)


def labelled_pictures(folder: Path, per_type: int) -> list[LabelledPicture]:
    pictures = []
    for type_folder in sorted((folder / "test").iterdir()):
        for path in sorted(type_folder.iterdir())[:per_type]:
            mask = folder / "ground_truth" / type_folder.name / f"{path.stem}_mask.png"
            normal = type_folder.name == "good"
            pictures.append(
                LabelledPicture(
                    path=path,
                    label=Label.NORMAL if normal else Label.ANOMALOUS,
                    mask_path=None if normal else mask,
                )
            )
    return pictures


def run(magnetic_tile: Path, weights: Path, test: list[LabelledPicture], **options: object) -> PaperResult:
    train = sorted((magnetic_tile / "train" / "good").iterdir())[:12]
    return paper_protocol(
        train,
        test,
        CONFIG,
        backbone=resolve_backbone("auto", weights),
        device="cpu",
        precision="fp32",
        **options,
    )  # type: ignore[arg-type]


def test_every_seed_is_judged_on_the_whole_test_set(magnetic_tile: Path, resnet18_weights: Path) -> None:
    said: list[tuple[int, int, str]] = []
    result = run(
        magnetic_tile,
        resnet18_weights,
        labelled_pictures(magnetic_tile, 3),
        seeds=(0, 1),
        on_progress=lambda *words: said.append(words),
    )
    assert (result.train_pictures, result.test_pictures) == (12, 18)
    assert (result.anomalous_pictures, result.masked_pictures) == (15, 15)
    assert [one.seed for one in result.seeds] == [0, 1]
    for one in result.seeds:
        assert 0 <= one.image_auroc <= 1
        assert one.pixel_auroc is not None
        assert one.aupro is not None
    mean = np.mean([one.image_auroc for one in result.seeds])
    deviation = np.std([one.image_auroc for one in result.seeds], ddof=1)
    assert result.image_auroc.mean == pytest.approx(mean)
    assert result.image_auroc.deviation == pytest.approx(deviation)
    assert [what for done, total, what in said if done == total] == [
        "training pictures",
        "trainings",
        "test pictures",
        "figures",
    ]


def test_result_is_reproducible_and_says_its_protocol(magnetic_tile: Path, resnet18_weights: Path) -> None:
    pictures = labelled_pictures(magnetic_tile, 2)
    first, again = (run(magnetic_tile, resnet18_weights, pictures, seeds=(3,)) for _ in range(2))
    told = json.loads(json.dumps(first.to_json()))
    assert told["protocol"] == "paper"
    assert told["seeds"][0]["image_auroc"] == again.seeds[0].image_auroc
    assert told["seeds"][0]["aupro"] == again.seeds[0].aupro
    assert told["image_auroc"] == {"mean": first.seeds[0].image_auroc, "deviation": 0.0}
    assert SimpleNetConfig.from_json(told["config"]) == first.config
    assert first.config.seed == 3


def test_anomalous_pictures_without_marked_pixels_are_left_out_of_pixel_figures(
    magnetic_tile: Path, resnet18_weights: Path, tmp_path: Path
) -> None:
    pictures = labelled_pictures(magnetic_tile, 2)
    empty = tmp_path / "empty.png"
    with Image.open(pictures[0].path) as picture:
        Image.new("L", picture.size).save(empty)
    bare = [LabelledPicture(path=p.path, label=p.label) for p in pictures]
    none = run(magnetic_tile, resnet18_weights, bare, seeds=(0,))
    assert (none.masked_pictures, none.pixel_auroc, none.aupro) == (0, None, None)
    assert json.loads(json.dumps(none.to_json()))["aupro"] is None
    with_empty = [*bare[:-1], LabelledPicture(path=bare[0].path, label=Label.ANOMALOUS, mask_path=empty)]
    assert run(magnetic_tile, resnet18_weights, with_empty, seeds=(0,)).aupro is None


def test_benchmark_without_pictures_of_each_kind_is_refused(
    magnetic_tile: Path, resnet18_weights: Path
) -> None:
    pictures = labelled_pictures(magnetic_tile, 1)
    for test, seeds in (([], (0,)), ([pictures[0]] * 2, (0,)), (pictures, ())):
        with pytest.raises(DatasetTooSmall, match="each must be there"):
            run(magnetic_tile, resnet18_weights, test, seeds=seeds)


def test_error_of_the_listener_ends_the_benchmark(magnetic_tile: Path, resnet18_weights: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(magnetic_tile, resnet18_weights, labelled_pictures(magnetic_tile, 1), on_progress=stop)
