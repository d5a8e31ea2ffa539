"""The model as it lies in MLflow: what it is made of, and that it works where nothing of ours is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml

from storage.tracking import Tracking

pytestmark = pytest.mark.slow

PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".cloudpickle"}
# Run by a Python that has only the model's requirements: scores and decisions of pictures as JSON.
SCORE = """
import json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import engine
pictures = [open(path, "rb").read() for path in sys.argv[2:]]
rows = model.predict(pd.DataFrame({"image": pictures}), params={"maps": True}).to_dict("records")
print("ROWS", json.dumps({"engine": engine.__file__, "rows": rows}))
"""


@pytest.fixture
def folder(made_workspace) -> Path:
    return Tracking(made_workspace.settings).model_folder("parts", 1)


def test_model_is_code_weights_signature_and_example_and_no_pickle(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not {file for file in files if Path(file).suffix in PICKLES}
    weights = {file for file in files if file.endswith(".safetensors")}
    assert "artifacts/checkpoint/head.safetensors" in weights
    assert "artifacts/checkpoint/backbone.safetensors" in weights
    described = yaml.safe_load((folder / "MLmodel").read_text())
    assert (
        "model_code_path" in described["flavors"]["python_function"]
    )  # a script, where a pickle would be named
    (column,) = json.loads(described["signature"]["inputs"])
    assert (column["name"], column["type"]) == ("image", "binary")
    assert [row["name"] for row in json.loads(described["signature"]["outputs"])] == [
        "score",
        "threshold",
        "decision",
        "anomaly_map",
    ]
    assert [row["name"] for row in json.loads(described["signature"]["params"])] == ["maps"]
    assert {"input_example.json", "serving_input_example.json", "requirements.txt"} <= files
    assert all("==" in line for line in (folder / "requirements.txt").read_text().splitlines())


def test_example_can_be_scored(folder):
    model = mlflow.pyfunc.load_model(str(folder))
    answer = model.predict(pd.DataFrame(model.input_example))
    assert list(answer.columns) == ["score", "threshold", "decision"]
    assert len(answer) == 1


def test_example_is_what_the_server_takes(folder, shared_server):
    body = (folder / "serving_input_example.json").read_text()
    answer = shared_server("POST", "/parts/invocations", body, Content_Type="application/json")
    assert answer.status == 200, answer.body


@pytest.mark.slow
@pytest.mark.timeout(3600)  # installs gigabytes
def test_model_scores_bit_equal_in_an_empty_environment(
    folder, made_workspace, pictures, tmp_path, scored_here
):
    """A new virtual environment with nothing but what the model says that it needs."""
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "empty")], check=True)
    requirements = folder / "requirements.txt"
    reachable = subprocess.run(
        [python, "-m", "pip", "download", "--no-deps", "-d", tmp_path / "probe", "packaging"],
        capture_output=True,
        text=True,
        check=False,
    )
    if reachable.returncode:
        pytest.skip(f"no package index is in reach: {reachable.stderr.strip().splitlines()[-1]}")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    done = subprocess.run(
        [python, "-c", SCORE, folder, *pictures[:6]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("ROWS "))
    told = json.loads(line.removeprefix("ROWS "))
    assert Path(told["engine"]).is_relative_to(folder)  # the copy in the model, nothing of this checkout
    expected = scored_here(pictures[:6])
    assert [(row["score"], row["decision"]) for row in told["rows"]] == [
        (one.score, one.decision) for one in expected
    ]
