"""The champion as MLflow serves it: a model from code. This file is copied into the logged model and run there.

Input: a column `image` with the bytes of an encoded picture (base64 in JSON). Output per picture: `score`,
`threshold`, `decision` (accept or reject) and, when asked for by the parameter `maps`, `anomaly_map`: a float32 NumPy
file (.npy) in base64 with one value per pixel of the picture. Only `engine`, packed beside it, is imported.
"""

import base64
import io
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from engine.checkpoint import load
from engine.images import decode


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]  # mlflow has no type hints here
    """Scores pictures with the checkpoint that was logged with it."""

    def load_context(self, context: Any) -> None:
        """Load the weights, strictly and without any hub."""
        self.detector = load(Path(context.artifacts["checkpoint"]))
        calibration = self.detector.calibration
        if calibration is None:
            raise ValueError(
                "The checkpoint holds no calibration, so nothing can be decided. Log a calibrated model."
            )
        self.threshold = calibration.threshold

    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow passes it)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score every row, one picture at a time: the answer never depends on what else is in the request."""
        with_maps = bool((params or {}).get("maps", False))
        rows = []
        for number, data in enumerate(model_input["image"]):
            scored = self.detector.score([decode(bytes(data), f"row {number}")])[0]
            row: dict[str, Any] = {
                "score": scored.score,
                "threshold": self.threshold,
                "decision": "reject" if scored.score > self.threshold else "accept",
            }
            if with_maps:
                file = io.BytesIO()
                np.save(file, scored.anomaly_map)
                row["anomaly_map"] = base64.b64encode(file.getvalue()).decode("ascii")
            rows.append(row)
        return pd.DataFrame(rows)


mlflow.models.set_model(ServedModel())
