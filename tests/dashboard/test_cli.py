"""The command line: fast to start, pure JSON on stdout, one line per error, exit codes that mean something."""

import csv
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from dashboard.commands import champions as champion_commands
from dashboard.commands import models as model_commands
from dashboard.commands import studies as study_commands
from dashboard.commands.reporting import ExitCode
from engine.geometry import RESIZES
from storage.records import PromotionRule, Role
from tuning.model_exports import Format
from tuning.predictor import RUNTIMES
from tuning.presets import PRESETS
from tuning.spec import Pruner, Sampler

Simplenet = Callable[..., Result]


def _json(result: Result) -> object:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def _refused(result: Result, code: ExitCode = ExitCode.ERROR) -> str:
    """The one line on stderr that says why."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_help_starts_without_heavy_libraries() -> None:
    script = "import sys, dashboard.cli; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "mlflow", "streamlit", "optuna", "sqlalchemy", "plotly", "pandas", "timm", "rich"]
    out = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_browsing_pictures_needs_no_tensor_library() -> None:
    script = "import sys, dashboard.cached, dashboard.scored, engine.heatmap; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_help_answers_within_a_second() -> None:
    fastest = 9.0
    for _ in range(3):  # the machine may be busy with something else
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "dashboard.cli", "--help"], capture_output=True, check=True)
        fastest = min(fastest, time.monotonic() - started)
    assert fastest < 1.0


def test_choices_are_those_of_the_library() -> None:
    assert [item.value for item in study_commands.Sampler] == [item.value for item in Sampler]
    assert [item.value for item in study_commands.Pruner] == [item.value for item in Pruner]
    assert [item.value for item in study_commands.PresetName] == list(PRESETS)
    assert [item.value for item in study_commands.Resize] == list(RESIZES)
    assert [item.value for item in model_commands.Runtime] == list(RUNTIMES)
    assert {item.value for item in model_commands.RoleName} == {item.value for item in Role}
    assert [item.value for item in champion_commands.RuleName] == [item.value for item in PromotionRule]
    assert [item.value for item in champion_commands.FormatName] == [item.value for item in Format]


def test_ingest_tells_counts_and_the_next_step(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    result = simplenet("ingest", make_folder(defects={"scratch": 4}), "--name", "parts")
    assert result.exit_code == 0
    assert "Dataset 'parts', version 1: 36 pictures" in result.stdout
    assert "simplenet study parts" in result.stdout


def test_ingest_of_nothing_new_says_so(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder()
    assert "Nothing new" not in simplenet("ingest", folder, "--name", "parts").stdout
    again = simplenet("ingest", folder, "--name", "parts")
    assert "Nothing new: dataset 'parts' is as it was, version 1." in again.stdout
    told = _json(simplenet("ingest", folder, "--name", "parts", "--json"))
    assert isinstance(told, dict)
    assert told["made"] is False


def test_ingest_counts_pictures_and_tells_sizes_while_it_unpacks(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(train=2000, flat=True, size=32)
    result = simplenet("ingest", folder, "--name", "many")
    assert "Reading picture 1,000 of 2,000 (reading " in result.stderr
    small = make_folder("few", train=12, flat=True)
    archive = shutil.make_archive(str(tmp_path / "few"), "zip", small)
    result = simplenet("ingest", archive, "--name", "few")
    assert re.search(r"Unpacking \d+ kB of \d+ kB \(", result.stderr), result.stderr
    assert "Reading picture 0 of 12 (" in result.stderr


def test_dry_run_tells_the_names_that_the_datasets_would_get(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    one = make_folder("products/lids", train=12)
    make_folder("products/caps", train=12)
    assert "Dataset 'steel' (mvtec)" in simplenet("ingest", one, "--name", "steel", "--dry-run").stdout
    shown = simplenet("ingest", one.parent, "--name", "steel", "--dry-run").stdout
    assert "Dataset 'steel-lids' (mvtec)" in shown
    assert "Dataset 'steel-caps' (mvtec)" in shown
    assert "Dataset 'lids' (mvtec)" in simplenet("ingest", one, "--dry-run").stdout


def test_ingest_tells_of_masks_that_are_not_black_and_white(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(defects={"dent": 7})
    for number, file in enumerate(sorted((folder / "ground_truth/dent").iterdir())):
        with Image.open(file) as image:
            grey = image.point(lambda value, top=[90, 90, 100, 110, 120, 255, 255][number]: value and top)
        grey.save(file)
    result = simplenet("ingest", folder, "--name", "parts")
    notes = [line for line in result.stderr.splitlines() if "mask" in line]
    assert notes[0] == "note: 2 pictures: the mask holds the values 0, 90; above 0 counts as defect"
    assert len(notes) == 4
    assert notes[-1] == (
        "note: 1 more picture with masks of other values. "
        "If another value divides them, ingest again with --mask-threshold VALUE."
    )


def test_json_of_ingest_and_datasets_is_one_document(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    report = _json(simplenet("ingest", make_folder(), "--name", "parts", "--json"))
    assert isinstance(report, dict)
    assert report["version"]["dataset_name"] == "parts"
    listed = _json(simplenet("datasets", "--json"))
    assert isinstance(listed, list)
    assert listed[0]["latest"]["counts"]["train"]["normal"] > 0


def test_unusable_picture_is_listed_on_stderr(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder()
    (folder / "train" / "good" / "broken.png").write_bytes(b"no picture")
    result = simplenet("ingest", folder, "--name", "parts", "--json")
    assert "left out: train/good/broken.png" in result.stderr
    assert _json(result)


def test_empty_lists_are_no_error(simplenet: Simplenet, home: Path) -> None:
    for command in ("datasets", "studies", "models"):
        assert _json(simplenet(command, "--json")) == []
        assert "simplenet" in simplenet(command).stdout


def test_home_option_chooses_the_installation(simplenet: Simplenet, home: Path, tmp_path: Path) -> None:
    assert simplenet("--home", tmp_path / "other", "datasets").exit_code == 0
    assert (tmp_path / "other" / "app.db").exists()
    assert not (home / "app.db").exists()


def test_folder_without_pictures_is_refused(simplenet: Simplenet, home: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert str(tmp_path / "nothing") in _refused(simplenet("ingest", tmp_path / "nothing", "--name", "parts"))


def test_bad_name_is_refused(simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]) -> None:
    assert "My Parts" in _refused(simplenet("ingest", make_folder(), "--name", "My Parts"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("study", "plats"),
        ("heatmaps", "plats", "--out", "x"),
        ("models", "plats"),
        ("studies", "--dataset", "plats"),
        ("promote", "plats", "1", "--why", "better"),
        ("pause", "77"),
        ("resume", "77"),
        ("cancel", "77"),
        ("log", "77"),
    ],
)
def test_what_does_not_exist_has_its_own_exit_code(
    simplenet: Simplenet, home: Path, arguments: tuple[str, ...]
) -> None:
    message = _refused(simplenet(*arguments), ExitCode.NOTHING)
    assert "plats" in message or "77" in message


def test_dataset_without_champion_has_no_heatmaps(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    simplenet("ingest", make_folder(defects={"scratch": 4}), "--name", "parts")
    message = _refused(simplenet("heatmaps", "parts", "--out", tmp_path / "out"), ExitCode.NOTHING)
    assert "simplenet study parts" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--layers", "two"),
        ("--layers", "3,2"),
        ("--adaptor-depths", "a"),
        ("--size", "1x2x3"),
        ("--size", "5"),
    ],
)
def test_bad_option_is_refused(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path], option: str, value: str
) -> None:
    simplenet("ingest", make_folder(defects={"scratch": 4}), "--name", "parts")
    _refused(simplenet("study", "parts", option, value, "--detach"))
    assert _json(simplenet("studies", "--json")) == []


def test_missing_argument_is_a_usage_error(simplenet: Simplenet, home: Path) -> None:
    assert simplenet("ingest").exit_code == ExitCode.USAGE
    assert simplenet("score", "parts", "no-such-file.png").exit_code == ExitCode.USAGE


def test_detached_study_waits_with_what_was_asked_for(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    simplenet("ingest", make_folder(defects={"scratch": 4}), "--name", "parts")
    options = [
        "--trials",
        3,
        "--noise-std",
        0.01,
        0.2,
        "--layers",
        "2",
        "--layers",
        "2,3",
        "--adaptor-depths",
        "0,1",
    ]
    more = ["--size", "64x96", "--objective", "aupro", "--false-reject-rate", 0.1, "--seed", 5]
    study = _json(simplenet("study", "parts", *options, *more, "--detach", "--json"))
    assert isinstance(study, dict)
    assert study["state"] == "queued"
    spec = study["spec"]
    assert (spec["trials"], spec["noise_std"], spec["adaptor_depths"]) == (3, [0.01, 0.2], [0, 1])
    assert spec["layers"] == [[2], [2, 3]]
    assert (spec["height"], spec["width"], spec["objective"], spec["seed"]) == (64, 96, "aupro", 5)
    assert spec["false_reject_rate"] == 0.1


def test_pause_resume_and_cancel_a_waiting_study(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    simplenet("ingest", make_folder(defects={"scratch": 4}), "--name", "parts")
    simplenet("study", "parts", "--detach")
    assert simplenet("pause", 1).exit_code == 0
    assert simplenet("resume", 1).exit_code == 0
    assert "No worker has logged anything" in simplenet("log", 1).stdout
    cancelled = _json(simplenet("cancel", 1, "--json"))
    assert isinstance(cancelled, dict)
    assert cancelled["state"] == "cancelled"
    _refused(simplenet("resume", 1))


def test_heatmaps_sort_by_score_and_are_indexed(
    simplenet: Simplenet, studied_home: Path, tmp_path: Path
) -> None:
    answer = _json(simplenet("heatmaps", "parts", "--out", tmp_path / "out", "--json"))
    assert isinstance(answer, dict)
    with (tmp_path / "out" / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert [row["file"] for row in rows] == files == [row["file"] for row in answer["pictures"]]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["decision"] for row in rows} <= {"accept", "reject"}
    assert all(
        (float(row["score"]) > float(row["threshold"])) == (row["decision"] == "reject") for row in rows
    )
    with Image.open(tmp_path / "out" / files[0]) as picture:
        assert picture.size == (64, 64)


def test_heatmaps_sort_by_name_when_asked(simplenet: Simplenet, studied_home: Path, tmp_path: Path) -> None:
    options = ["--role", "validation", "--sort-by", "name", "--out", tmp_path, "--json"]
    answer = _json(simplenet("heatmaps", "parts", *options))
    assert isinstance(answer, dict)
    names = [row["image"] for row in answer["pictures"]]
    assert names == sorted(names)


def test_score_of_a_file_is_that_of_the_dataset(
    simplenet: Simplenet, studied_home: Path, tmp_path: Path
) -> None:
    from storage.settings import Settings
    from storage.workspace import open_workspace

    answer = _json(simplenet("heatmaps", "parts", "--out", tmp_path / "maps", "--json"))
    assert isinstance(answer, dict)
    row = answer["pictures"][0]
    workspace = open_workspace(Settings())
    with workspace.session() as session:
        from storage import datasets

        version = datasets.latest_version(session, "parts")
        digest = next(i.digest for i in datasets.list_images(session, version.id) if i.name == row["image"])
    file = tmp_path / "part.png"
    file.write_bytes(workspace.blobs.get(digest))
    workspace.close()
    scored = _json(simplenet("score", "parts", file, "--out", tmp_path / "out", "--json"))
    assert isinstance(scored, list)
    assert scored[0]["score"] == pytest.approx(row["score"], rel=1e-4)
    assert scored[0]["decision"] == row["decision"]
    assert Path(scored[0]["heatmap"]).is_file()
    assert Path(scored[0]["map"]).is_file()
    if importlib.util.find_spec("openvino"):
        # In a process of its own: once loaded, OpenVINO stays, beside the trainings of other tests.
        command = [
            sys.executable,
            "-m",
            "dashboard.cli",
            "score",
            "parts",
            str(file),
            "--runtime",
            "openvino",
        ]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        compiled = json.loads(done.stdout)
        assert compiled[0]["score"] == pytest.approx(row["score"], rel=1e-3)
    else:
        assert "openvino" in _refused(simplenet("score", "parts", file, "--runtime", "openvino"))


def test_folder_and_archive_are_scored_into_a_folder_that_can_be_resumed(
    simplenet: Simplenet, studied_home: Path, tmp_path: Path
) -> None:
    pictures = sorted((studied_home / "pictures" / "test").rglob("*.png"))[:3]
    given, packed = tmp_path / "line", tmp_path / "more.zip"
    given.mkdir()
    for file in pictures[:2]:
        (given / f"{file.parent.name}-{file.name}").write_bytes(file.read_bytes())
    (given / "notes.txt").write_text("hello")
    (given / "broken.png").write_text("no picture")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(pictures[2], "last.png")
    command = ("score", "parts", given, packed, "--out", tmp_path / "out")
    done = simplenet(*command, "--json")
    assert done.exit_code == ExitCode.ERROR  # one picture can't be read, the others are there
    assert "broken.png" in done.stderr
    assert "Left out: 1 file of no kind that is read." in done.stderr
    rows = json.loads(done.stdout)
    assert [row["image"].rpartition("/")[2] for row in rows if "score" in row][-1] == "last.png"
    table = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert len(table) == 1 + 4
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "maps").iterdir()}
    assert len(stamps) == 3
    (given / "broken.png").write_bytes(pictures[0].read_bytes())
    assert simplenet(*command).exit_code == ExitCode.OK
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert not list((tmp_path / "out").glob("score-*"))  # what was unpacked is gone
    assert "holds the results of another batch" in _refused(
        simplenet("score", "parts", given, "--out", tmp_path / "out")
    )


def test_score_without_pictures_says_so(simplenet: Simplenet, studied_home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = simplenet("score", "parts", tmp_path / "empty")
    assert done.exit_code == ExitCode.NOTHING
    assert "no picture in what was given" in done.stderr


def test_life_of_a_champion_on_the_command_line(
    simplenet: Simplenet, own_studied_home: Path, tmp_path: Path
) -> None:
    assert "automatic, the default" in simplenet("policy", "parts").stdout
    assert "manual, set by" in simplenet("policy", "parts", "manual").stdout
    assert "never had another champion" in _refused(simplenet("rollback", "parts"))
    listed = _json(simplenet("models", "parts", "--json"))
    assert isinstance(listed, list)
    other = 3 - (listed[0]["trial_number"] + 1)
    said = simplenet("candidate", "1", other)
    assert said.exit_code == ExitCode.OK, said.stderr
    assert "is version 2 of 'parts' (candidate)" in said.stdout
    assert "for the 2nd time" in said.stdout
    assert "read 2 times so far" in simplenet("candidate", "1", other).stdout
    assert "not completed" in _refused(simplenet("candidate", "1", "77"))
    compared = _json(simplenet("compare-models", "parts", "2", "--json"))
    assert isinstance(compared, dict)
    assert compared["against_version"] == 1
    assert compared["low"] <= compared["difference"] <= compared["high"]
    assert simplenet("compare-models", "parts", "9").exit_code == ExitCode.NOTHING
    assert simplenet("promote", "parts", "2", "--why", "to try it").exit_code == ExitCode.OK
    assert "Version 1 is the champion of 'parts' again" in simplenet("rollback", "parts").stdout

    exported = _json(
        simplenet("export-model", "parts", "--format", "safetensors", "--out", tmp_path / "out", "--json")
    )
    assert isinstance(exported, dict)
    assert exported["certificate"]["flipped"] == 0
    assert Path(exported["file"]) == tmp_path / "out" / "parts-model-1-safetensors.zip"
    assert zipfile.is_zipfile(exported["file"])


def test_score_refuses_what_is_no_picture(simplenet: Simplenet, studied_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.png"
    file.write_text("no picture")
    done = simplenet("score", "parts", file)
    assert done.exit_code == ExitCode.ERROR
    assert "notes.png" in done.stderr


def test_models_tell_the_figure_with_its_interval(simplenet: Simplenet, studied_home: Path) -> None:
    text = simplenet("models", "parts").stdout
    assert "champion" in text
    assert "sealed test pictures" in text
    listed = _json(simplenet("models", "parts", "--json"))
    assert isinstance(listed, list)
    assert listed[0]["state"] == "champion"


def test_promoting_the_champion_again_only_points_mlflow_at_it(
    simplenet: Simplenet, studied_home: Path
) -> None:
    done = simplenet("promote", "parts", 1, "--why", "because")
    assert done.exit_code == ExitCode.OK
    assert "was the champion of 'parts' already" in done.stdout


def test_promoting_an_unknown_version_says_which_there_are(simplenet: Simplenet, studied_home: Path) -> None:
    done = simplenet("promote", "parts", 9, "--why", "because")
    assert done.exit_code == ExitCode.NOTHING
    assert "no model version 9. It has 1" in done.stderr


def test_version_names_what_it_stands_on(simplenet: Simplenet) -> None:
    lines = simplenet("version").stdout.splitlines()
    assert {"simplenet-automl", "torch", "mlflow", "python"} <= {line.split()[0] for line in lines}


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dashboard.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_study_is_followed_to_its_model_by_a_worker_of_its_own(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    simplenet("ingest", make_folder(defects={"scratch": 6}), "--name", "parts")
    options = ["--trials", 2, "--epochs", 2, "--size", 64, "--layers", "1", "--layers", "1,2", "--json"]
    with _start("study", "parts", *options) as process:
        out, progress = process.communicate(timeout=500)
    assert process.returncode == ExitCode.OK, progress
    answer = json.loads(out)
    assert answer["study"]["state"] == "completed"
    assert answer["model"]["state"] == "champion"
    assert "1 of 2 trials" in progress
    assert "Backbone: drawnet from the product itself" in progress


QUICK = ("--seeds", 1, "--set", "steps_per_epoch=2")  # these tests are about what is read and said


def test_benchmark_of_novelty_prints_a_line_per_class_and_says_the_backbone(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    for split in ("train", "test"):
        for name in ("one", "two"):
            source = make_folder(f"{split}-{name}", train=3, flat=True)
            (tmp_path / "classes" / split).mkdir(parents=True, exist_ok=True)
            source.rename(tmp_path / "classes" / split / name)
    answer = simplenet("benchmark", "novelty", tmp_path / "classes", "--size", 32, *QUICK)
    assert answer.exit_code == ExitCode.OK, answer.stderr
    first_words = [line.split()[0] for line in answer.stdout.splitlines() if line.strip()]
    assert first_words[:4] == ["normal", "one", "two", "mean"]
    assert "Backbone: drawnet from the product itself" in answer.stderr


def test_benchmark_of_novelty_refuses_a_folder_without_classes(
    simplenet: Simplenet, home: Path, tmp_path: Path
) -> None:
    answer = simplenet("benchmark", "novelty", tmp_path)
    assert answer.exit_code == ExitCode.ERROR
    assert "train/<class> and test/<class>" in answer.stderr


def test_benchmark_of_mvtec_sets_the_published_figure_beside_known_categories_only(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("screw", "bottle"):
        make_folder(f"set/{name}", train=4, test_normal=3, defects={"scratch": 3})
    options = ("--size", 64, *QUICK)
    answer = simplenet("benchmark", "mvtec", tmp_path / "set", *options)
    assert answer.exit_code == ExitCode.OK, answer.stderr
    lines = answer.stdout.splitlines()
    first_words = [line.split()[0] for line in lines if line]
    assert first_words[:8] == ["last", "bottle", "screw", "mean", "best", "bottle", "screw", "mean"]
    assert lines[5].endswith("published image AUROC")
    assert [line.split()[-1] for line in lines[6:9]] == ["1.000", "0.982", "0.991"]
    assert "best epoch on test (as published code reports; chosen on the test set)" in answer.stdout
    assert "CVPR 2023" in answer.stdout

    told = _json(simplenet("benchmark", "mpdd", tmp_path / "set" / "screw", *options, "--json"))
    assert isinstance(told, dict)
    assert list(told) == ["screw"]
    assert "published" not in told["screw"]
    one = told["screw"]["seeds"][0]
    assert told["screw"]["image_auroc"]["mean"] == one["image_auroc"] <= one["best_on_test"]["image_auroc"]
    assert "CVPR" not in simplenet("benchmark", "mpdd", tmp_path / "set" / "screw", *options).stdout


def test_benchmark_of_visa_counts_masks_of_small_class_numbers(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_folder(train=4, test_normal=3, defects={"bad": 3})
    root = tmp_path / "visa"
    rows = ["object,split,label,image,mask"]
    for picture in sorted(source.glob("t*/*/*.png")):
        split, kind = picture.parts[-3:-1]
        name = f"candle/Data/Images/{'Normal' if kind == 'good' else 'Anomaly'}/{split}{picture.stem}.JPG"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(picture) as pixels:
            pixels.save(root / name)
        mask = ""
        if kind == "bad":
            mask = f"candle/Data/Masks/Anomaly/{picture.stem}.png"
            (root / mask).parent.mkdir(parents=True, exist_ok=True)
            with Image.open(source / "ground_truth" / "bad" / f"{picture.stem}_mask.png") as marked:
                marked.point(lambda value: value // 85).save(root / mask)
        rows.append(f"candle,{split},{'normal' if kind == 'good' else 'anomaly'},{name},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows), encoding="utf-8")
    told = _json(simplenet("benchmark", "visa", root, "--size", 64, *QUICK, "--json"))
    assert isinstance(told, dict)
    candle = told["candle"]
    assert (candle["train_pictures"], candle["test_pictures"], candle["masked_pictures"]) == (4, 6, 3)
    assert candle["pixel_auroc"]["mean"] > 0.5


def test_benchmark_takes_the_papers_own_settings_and_changes_of_them(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(train=9, defects={"scratch": 3})
    changes = ["--set", "epochs=1", "--set", "feature_dim=48", "--size", "64x96", "--layers", "1,2"]
    told = _json(simplenet("benchmark", "mvtec", folder, "--seeds", 1, "--published", *changes, "--json"))
    assert isinstance(told, dict)
    config = told[folder.name]["config"]
    assert (config["members"], config["resize"], config["final_lr"], config["feature_dim"]) == (
        1,
        "crop",
        1.0,
        48,
    )
    assert (config["height"], config["width"], config["layers"]) == (64, 96, [1, 2])
    assert (config["steps_per_epoch"], config["batch_patches"]) == (2, 8 * 16 * 24)


def test_benchmark_refuses_settings_before_it_reads_pictures(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(defects={"scratch": 2})
    assert "a benchmark takes one" in _refused(
        simplenet("benchmark", "mvtec", folder, "--set", "members=1,2")
    )
    twice = simplenet("benchmark", "mvtec", folder, "--set", "members=1", "--set", "members=2")
    assert "names 'members' twice" in _refused(twice)
    assert "Use --seeds" in _refused(simplenet("benchmark", "mvtec", folder, "--set", "seed=7"))
    assert "Unknown setting 'member'" in _refused(
        simplenet("benchmark", "mvtec", folder, "--set", "member=1")
    )
    assert "patch_size is 2" in _refused(simplenet("benchmark", "mvtec", folder, "--set", "patch_size=2"))


def test_benchmark_says_what_a_category_lacks(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder("01", train=4, test_normal=3, defects={"ko": 3})
    (folder / "ground_truth" / "ko" / "001_mask.png").unlink()
    answer = simplenet("benchmark", "btad", folder, "--size", 64, *QUICK)
    assert answer.exit_code == ExitCode.OK, answer.stderr
    assert "01: Anomalous pictures without a mask (1): test/ko/001.png." in answer.stderr
    assert "split_csv/1cls.csv" in _refused(simplenet("benchmark", "visa", folder))


def test_backbones_are_listed_with_licence_and_place(simplenet: Simplenet, home: Path) -> None:
    said = simplenet("backbones").stdout
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "bsd-3-clause" in lines["drawnet"]
    assert "the hub" in lines["wide_resnet50_2.tv_in1k"]
    assert "A stronger one, resnet18.tv_in1k" in said
    answer = json.loads(simplenet("backbones", "--json").stdout)
    assert answer["auto"]["name"] == "drawnet"
    assert answer["auto"]["ready"] is True


def test_backbones_say_what_the_setting_lacks(simplenet: Simplenet, bare_home: Path) -> None:
    answer = simplenet("backbones")
    assert answer.exit_code == ExitCode.OK
    assert "drawnet" in answer.stdout
    assert "or choose drawnet, which ships with the product" in answer.stdout


@pytest.mark.parametrize(
    ("option", "reason"),
    [("patch_size", "must be a setting"), ("patch_size=2", "must be odd"), ("sigma=1", "'sigma' is unknown")],
)
def test_search_that_can_not_be_is_refused(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path], option: str, reason: str
) -> None:
    simplenet("ingest", make_folder(), "--name", "parts")
    answer = simplenet("study", "parts", "--detach", "--search", option)
    assert answer.exit_code == ExitCode.ERROR
    assert reason in answer.stderr


def test_further_settings_are_searched(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    simplenet("ingest", make_folder(), "--name", "parts")
    options = ["--search", "patch_size=1,3", "--search", "adaptor_residual=true", "--search", "margin=0.25,1"]
    answer = simplenet("study", "parts", "--detach", "--json", *options)
    knobs = json.loads(answer.stdout)["spec"]["knobs"]
    assert knobs == {
        "noise": ["gaussian", "differences"],  # the preset's
        "patch_size": [1, 3],
        "adaptor_residual": [True],
        "margin": [0.25, 1],
    }


@pytest.mark.slow
def test_study_without_backbone_fails_with_both_ways_out(
    simplenet: Simplenet, bare_home: Path, make_folder: Callable[..., Path]
) -> None:
    simplenet("ingest", make_folder(defects={"scratch": 6}), "--name", "parts")
    with _start("study", "parts", "--trials", 1, "--size", 64, "--json") as process:
        out, errors = process.communicate(timeout=300)
    assert process.returncode == ExitCode.FAILED
    assert json.loads(out)["study"]["state"] == "failed"
    reason = next(line for line in errors.splitlines() if line.startswith("error: "))
    assert "SIMPLENET_WEIGHTS" in reason
    assert "hub" in reason


@pytest.mark.slow
def test_interrupted_follower_leaves_the_study_running(
    simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]
) -> None:
    simplenet("ingest", make_folder(defects={"scratch": 6}), "--name", "parts")
    with _start("study", "parts", "--trials", 50, "--size", 64, "--layers", "1,2") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "0 of 50 trials" in line:
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "simplenet cancel 1" in said
    study = _json(simplenet("studies", "--json"))
    assert isinstance(study, list)
    assert study[0]["state"] == "running"
    simplenet("cancel", 1)
    deadline = time.monotonic() + 120
    while _state_of_first(simplenet) != "cancelled" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert _state_of_first(simplenet) == "cancelled"


def _state_of_first(simplenet: Simplenet) -> str:
    listed = _json(simplenet("studies", "--json"))
    assert isinstance(listed, list)
    return str(listed[0]["state"])


def test_keys_are_made_listed_and_revoked(simplenet: Simplenet, home: Path) -> None:
    assert "No key yet" in simplenet("keys", "list").stdout
    made = simplenet("keys", "add", "line 3")
    key = made.stdout.strip()
    assert key.startswith("sn_")
    assert "can't be shown again" in made.stderr
    listed = simplenet("keys", "list")
    assert "line 3" in listed.stdout
    assert key not in listed.stdout
    (row,) = json.loads(simplenet("keys", "list", "--json").stdout)
    assert (row["name"], row["last_used_at"], row["revoked_at"]) == ("line 3", None, None)
    again = simplenet("keys", "add", "line 3")
    assert again.exit_code == 1
    assert "a key named 'line 3' already" in again.stderr
    assert "opens nothing any more" in simplenet("keys", "revoke", "line 3").stdout
    gone = simplenet("keys", "revoke", "line 3")
    assert gone.exit_code == 3
    assert "No key in use is named 'line 3'. There are: none." in gone.stderr
    assert json.loads(simplenet("keys", "list", "--json").stdout)[0]["revoked_at"] is not None


def test_serve_refuses_to_start_open_without_a_key(
    simplenet: Simplenet, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMPLENET_SERVE_HOST", "0.0.0.0")
    refused = simplenet("serve")
    assert refused.exit_code == 1
    assert "there is no API key. Make one with `simplenet keys add NAME`" in refused.stderr


def test_storage_tells_places_and_copies_pictures_to_a_shared_one(
    simplenet: Simplenet, home: Path, tmp_path: Path, make_folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No dataset yet" in simplenet("storage").stdout
    simplenet("ingest", make_folder(), "--name", "parts")
    told = simplenet("storage")
    assert f"{home}/blobs" in told.stdout
    assert "4 of 4 pictures that were looked for are there." in told.stdout
    share = tmp_path / "share"
    monkeypatch.setenv("SIMPLENET_BLOBS_URL", str(share))
    assert "Mount the disk" in _refused(simplenet("storage"))
    share.mkdir()
    empty = simplenet("storage", "--json")
    assert empty.exit_code == ExitCode.ERROR
    assert json.loads(empty.stdout)["found"] == 0
    copied = simplenet("storage", "--copy-pictures-from", home / "blobs")
    assert copied.exit_code == 0, copied.output
    assert "32 files copied, 0 were there already." in copied.stderr
    assert f"Pictures and masks  {share}" in copied.stdout
    assert "is no place for pictures" in _refused(simplenet("storage", "--copy-pictures-from", "gs://parts"))


def test_worker_joins_by_addresses_that_can_be_shared_only(simplenet: Simplenet, home: Path) -> None:
    said = _refused(simplenet("worker", "--database", f"sqlite:///{home}/app.db"))
    assert "--database postgresql://USER@HOST/NAME" in said
