"""Wrapping a checkpoint as the model that MLflow logs, loads and serves."""

import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from PIL import Image

import engine
from storage.tracking import ServedModel

EXAMPLE_SIDE = 64  # pixels
REQUIRED = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "scipy", "timm", "torch", "torchvision")


def served_model(checkpoint: Path, *, dataset: str, figures: Mapping[str, Any]) -> ServedModel:
    """Describe the model: code, weights, what goes in and out, and what an empty environment must install.

    Args:
        checkpoint: a folder named `checkpoint`, as `engine.checkpoint.save` wrote it.
        figures: kept with the model, so that a copy of it still says what it is worth.
    """
    return ServedModel(
        code=Path(__file__).with_name("served_model.py"),
        packages=(Path(engine.__file__).parent,),
        checkpoint=checkpoint,
        signature=ModelSignature(
            inputs=Schema([ColSpec("binary", "image")]),
            outputs=Schema(
                [
                    ColSpec("double", "score"),
                    ColSpec("double", "threshold"),
                    ColSpec("string", "decision"),
                    ColSpec("string", "anomaly_map", required=False),
                ]
            ),
            params=ParamSchema([ParamSpec("maps", "boolean", False)]),
        ),
        # A local version such as 2.9+cpu names a build that is not to be had by that name elsewhere.
        example=pd.DataFrame({"image": [_example_picture()]}),
        requirements=tuple(f"{name}=={version(name).split('+')[0]}" for name in REQUIRED),
        metadata={"dataset": dataset, "figures": dict(figures)},
    )


def _example_picture() -> bytes:
    """A PNG file that shows what goes in: drawn, because a model may go where its pictures must not."""
    ramp = np.linspace(60, 190, EXAMPLE_SIDE).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.tile(ramp, (EXAMPLE_SIDE, 1))).save(file, "PNG")
    return file.getvalue()
