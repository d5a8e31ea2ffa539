import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor
from engine.metrics import image_auroc
from engine.scoring import image_scores
from engine.training import Epoch, train
from storage.records import Label
from tuning import paper_protocol as module
from tuning.errors import DatasetTooSmall
from tuning.paper_protocol import BEST_ON_TEST, LabelledPicture, PaperResult, paper_protocol, patch_batches

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
                    mask_paths=() if normal else (mask,),
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
    assert result.last_epoch.image_auroc.mean == pytest.approx(mean)
    assert result.last_epoch.image_auroc.deviation == pytest.approx(deviation)
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
    assert (none.masked_pictures, none.last_epoch.pixel_auroc, none.last_epoch.aupro) == (0, None, None)
    assert json.loads(json.dumps(none.to_json()))["aupro"] is None
    with_empty = [*bare[:-1], LabelledPicture(path=bare[0].path, label=Label.ANOMALOUS, mask_paths=(empty,))]
    assert run(magnetic_tile, resnet18_weights, with_empty, seeds=(0,)).last_epoch.aupro is None


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


@pytest.mark.parametrize(("judged_epochs", "judged"), [(40, {1, 2, 3, 4, 5}), (2, {2, 5})])
def test_best_epoch_on_test_is_what_scoring_after_every_judged_epoch_finds(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, judged_epochs: int, judged: set[int]
) -> None:
    monkeypatch.setattr(module, "JUDGED_EPOCHS", judged_epochs)
    # Labels that the pixels know nothing of: the figure wanders from epoch to epoch.
    test = [
        LabelledPicture(path=path, label=Label.ANOMALOUS if index % 2 else Label.NORMAL)
        for index, path in enumerate(sorted(make_folder("test", train=20, flat=True).iterdir()))
    ]
    normal = sorted(make_folder("train", train=6, flat=True).iterdir())
    config = dataclasses.replace(CONFIG, height=64, width=64, epochs=5, steps_per_epoch=2)
    backbone = resolve_backbone("drawnet")
    result = paper_protocol(
        normal, test, config, backbone=backbone, seeds=range(4), device="cpu", precision="fp32"
    )

    cpu = torch.device("cpu")
    extractor = FeatureExtractor(backbone, config.layers, cpu)

    def features(paths: list[Path]) -> torch.Tensor:
        return torch.cat([batch for batch, _ in patch_batches(paths, extractor, config, lambda _: None)])

    train_features, test_features = features(normal).half(), features([one.path for one in test])
    for one in result.seeds:
        aurocs: dict[int, float] = {}

        def look(epoch: Epoch, aurocs: dict[int, float] = aurocs) -> None:
            scores = image_scores(epoch.model.patch_scores(test_features), config.top_patches)
            aurocs[epoch.index] = image_auroc(
                scores.numpy(), [picture.label is Label.ANOMALOUS for picture in test]
            )

        train(train_features, dataclasses.replace(config, seed=one.seed), device=cpu, on_epoch=look)
        assert (one.epoch, one.image_auroc) == (5, aurocs[5])
        best = max(aurocs[epoch] for epoch in judged)
        assert one.best_on_test.image_auroc == best >= one.image_auroc
        assert one.best_on_test.epoch == max(epoch for epoch in judged if aurocs[epoch] == best)
    assert any(one.best_on_test.epoch < one.epoch for one in result.seeds)
    assert result.best_on_test.image_auroc.mean > result.last_epoch.image_auroc.mean
    told = json.loads(json.dumps(result.to_json()))
    assert told["best_on_test"]["note"] == BEST_ON_TEST
    assert told["best_on_test"]["image_auroc"] == dataclasses.asdict(result.best_on_test.image_auroc)
    assert told["best_on_test"]["aupro"] is None


def test_pixel_figures_of_the_best_epoch_are_those_of_a_training_that_ends_there(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder(train=6, test_normal=4, defects={"scratch": 6})
    # Constant rates: then a training's first epochs do not depend on how many follow.
    config = dataclasses.replace(CONFIG, height=64, width=64, epochs=4, steps_per_epoch=1, final_lr=1.0)

    def judged(epochs: int) -> PaperResult:
        return paper_protocol(
            sorted((folder / "train" / "good").iterdir()),
            labelled_pictures(folder, 6),
            dataclasses.replace(config, epochs=epochs),
            backbone=resolve_backbone("drawnet"),
            seeds=range(3),
            device="cpu",
            precision="fp32",
        )

    by_length = {epochs: judged(epochs) for epochs in range(1, 5)}
    for index, one in enumerate(by_length[4].seeds):
        alone = by_length[one.best_on_test.epoch].seeds[index]
        for figure in ("image_auroc", "pixel_auroc", "aupro"):
            assert getattr(one.best_on_test, figure) == getattr(alone, figure)
    assert any(one.best_on_test.epoch < 4 for one in by_length[4].seeds)
