"""Ten lines of Python for each kind of exported model; docs/models.md shows the same, and a test runs them."""

EXAMPLES = {
    "onnx": """\
import numpy as np
import onnxruntime
from PIL import Image

model = onnxruntime.InferenceSession("{file}")
picture = np.asarray(Image.open("part.png").convert("RGB"))  # any size, uint8
score, threshold, reject, anomaly_map = model.run(None, {{"image": picture}})
print("reject" if reject else "accept", float(score), float(threshold), anomaly_map.shape)
""",
    "openvino": """\
import zipfile

import numpy as np
import openvino
from PIL import Image

with zipfile.ZipFile("{file}") as files:
    network = openvino.Core().read_model(files.read("model.xml"), files.read("model.bin"))
model = openvino.compile_model(network, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})  # as certified
answer = model(np.asarray(Image.open("part.png").convert("RGB")))  # any size, uint8
decision = "reject" if answer["reject"] else "accept"
print(decision, float(answer["score"]), answer["anomaly_map"].shape)
""",
    "safetensors": """\
import sys
import zipfile
from pathlib import Path

zipfile.ZipFile("{file}").extractall("model")
sys.path.insert(0, "model")  # the code is inside; it needs torch, torchvision, timm, scipy and pillow
from engine.checkpoint import load
from engine.images import decode

detector = load(Path("model/checkpoint"))
scored = detector.score([decode(Path("part.png").read_bytes(), "part.png")])[0]
decision = "reject" if detector.calibration.rejects(scored.score) else "accept"
print(decision, scored.score, scored.anomaly_map.shape)
""",
}


def example(form: str, file_name: str) -> str:
    """The example of a format, for a file of that name."""
    return EXAMPLES[form].format(file=file_name)
