"""Real HTTP against a real server: every way to score gives the same numbers, and what can't be done is said."""

import base64
import io
import json
import socket
import struct
import zlib
from contextlib import ExitStack
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

from engine.images import decode
from storage import models
from tuning.predictor import calibration_of, detector
from tuning.serving.keys import own_key

pytestmark = pytest.mark.slow


def png(width, height):
    """A PNG file that promises a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    written = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def grey(width, height):
    file = io.BytesIO()
    Image.new("L", (width, height), 128).save(file, "PNG")
    return file.getvalue()


def invocation(*pictures, **params):
    rows = [[base64.b64encode(data).decode()] for data in pictures]
    return json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}, "params": params})


def test_scores_are_those_of_the_predictor_bit_for_bit(shared_server, made_workspace, pictures, scored_here):
    expected = scored_here(pictures)
    assert {one.decision for one in expected} == {"accept", "reject"}
    for picture, known in zip(pictures, expected, strict=True):
        answer = shared_server.upload(picture.read_bytes())
        assert answer.status == 200, answer.body
        assert answer.json == {
            "dataset": "parts",
            "model_version": 1,
            "score": known.score,
            "threshold": known.threshold,
            "decision": known.decision,
            "height": 64,
            "width": 64,
        }


def test_mlflows_protocol_gives_the_same_scores(shared_server, made_workspace, pictures, scored_here):
    expected = scored_here(pictures[:4])
    body = invocation(*(picture.read_bytes() for picture in pictures[:4]), maps=True)
    answer = shared_server("POST", "/parts/invocations", body, Content_Type="application/json")
    assert answer.status == 200, answer.body
    for row, known in zip(answer.json["predictions"], expected, strict=True):
        assert (row["score"], row["threshold"], row["decision"]) == (
            known.score,
            known.threshold,
            known.decision,
        )
        values = np.load(io.BytesIO(base64.b64decode(row["anomaly_map"])))
        np.testing.assert_array_equal(values, known.anomaly_map)
    assert shared_server("GET", "/parts/ping").status == 200
    assert shared_server("GET", "/parts/health").status == 200
    assert shared_server("GET", "/parts/version").body.decode() == version("mlflow")
    assert shared_server("GET", "/parts/invocations").status == 405


def test_map_comes_as_values_heatmap_or_overlay(shared_server, made_workspace, pictures, scored_here):
    data = pictures[0].read_bytes()
    (known,) = scored_here(pictures[:1])
    answer = shared_server.predict(data, query="?map=npy").json["map"]
    assert answer["format"] == "npy"
    values = np.load(io.BytesIO(base64.b64decode(answer["base64"])), allow_pickle=False)
    np.testing.assert_array_equal(values, known.anomaly_map)

    drawn = {}
    for kind in ("png", "overlay"):
        answer = shared_server.predict(data, query=f"?map={kind}").json["map"]
        assert answer["format"] == "png"
        drawn[kind] = base64.b64decode(answer["base64"])
        with Image.open(io.BytesIO(drawn[kind])) as opened:
            assert opened.size == (64, 64)
    assert drawn["png"] != drawn["overlay"]

    answer = shared_server.predict(data, query="?map=overlay", Accept="image/png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.body == drawn["overlay"]
    assert float(answer.headers["x-score"]) == known.score
    assert answer.headers["x-decision"] == known.decision
    assert answer.headers["x-model-version"] == "1"
    answer = shared_server.predict(data, query="?map=jpeg")
    assert answer.status == 400
    assert answer.json["error"] == "Parameter 'map' is 'jpeg': Input should be 'overlay', 'png' or 'npy'."


def test_datasets_and_addresses_are_listed(shared_server):
    listed = {row["dataset"]: row for row in shared_server("GET", "/").json}
    assert {name: row["model_version"] for name, row in listed.items()} == {
        "empty": None,
        "parts": 1,
        "plates": 1,
    }
    base = f"http://127.0.0.1:{shared_server.port}"
    assert listed["parts"]["addresses"]["predict"] == f"{base}/parts/predict"
    described = shared_server("GET", "/openapi.json").json
    assert "multipart/form-data" in described["paths"]["/{dataset}/predict"]["post"]["requestBody"]["content"]


def test_dataset_that_is_not_there_or_has_no_champion(shared_server, pictures):
    data = pictures[0].read_bytes()
    for answer in (shared_server.predict(data, "bolts"), shared_server("GET", "/bolts/ping")):
        assert answer.status == 404
        assert answer.json["error"].startswith("There is no dataset 'bolts'.")
    for answer in (
        shared_server.predict(data, "empty"),
        shared_server("POST", "/empty/invocations", invocation(data), Content_Type="application/json"),
    ):
        assert answer.status == 409
        assert answer.json["error"] == (
            "Dataset 'empty' has no champion, so nothing decides on its pictures. Promote a version (simplenet promote "
            "empty VERSION) or run a study (simplenet study empty)."
        )
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/parts/predict", 405)):
        answer = shared_server(method, path)
        assert answer.status == status
        assert answer.json["error"].startswith(f"{method} {path} is no request that the model server knows.")


def test_other_version_than_the_champions_is_not_answered_for(shared_server, pictures):
    answer = shared_server.predict(pictures[0].read_bytes(), query="?version=2")
    assert answer.status == 409
    assert "Version 2 was asked for; version 1 of 'parts' is its champion here." in answer.json["error"]
    assert shared_server.predict(pictures[0].read_bytes(), query="?version=1").status == 200


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty (0 bytes). Copy it anew."),
        (b"not a picture", "is not a picture that can be read: it holds text. Leave it out."),
        (grey(64, 64)[:80], "the file is damaged. Save it anew."),
        (grey(16, 64), "is 16×64 px; the shorter side must be at least 32 px."),
        (png(100_000, 100_000), "pixels; at most 64,000,000 pixels are read. Cut or shrink it."),
        (
            grey(1001, 1000),
            "is 1001×1000 px; at most 1,000,000 pixels are taken here. Cut or shrink it, or raise "
            "SIMPLENET_SERVE_MAX_MEGAPIXELS.",
        ),
    ],
)
def test_picture_that_can_not_be_scored_is_refused_with_a_reason(shared_server, data, said):
    answer = shared_server.predict(data)
    assert answer.status == 422
    assert said in answer.json["error"]
    answer = shared_server("POST", "/parts/invocations", invocation(data), Content_Type="application/json")
    assert answer.status == 400
    assert said in answer.json["message"]


def test_request_that_is_too_large_is_refused_however_it_comes(shared_server):
    data = bytes(5_000_000)
    answer = shared_server.predict(data)
    assert answer.status == 413
    assert answer.json["error"] == (
        "The request has 5,000,000 bytes; at most 2,000,000 are taken. Send fewer or smaller pictures, or raise "
        "SIMPLENET_SERVE_MAX_REQUEST_MB."
    )
    pieces = (data[start : start + 100_000] for start in range(0, len(data), 100_000))
    answer = shared_server(
        "POST",
        "/parts/predict",
        pieces,
        encode_chunked=True,
        Transfer_Encoding="chunked",
        Content_Type="image/png",
    )
    assert answer.status == 413
    assert answer.json["error"].startswith("The request has more than 2,000,000 bytes;")
    answer = shared_server("POST", "/parts/invocations", data, Content_Type="application/json")
    assert answer.status == 413


def test_request_that_holds_no_picture_says_how_to_send_one(shared_server, pictures):
    data = pictures[0].read_bytes()
    for answer, said in (
        (
            shared_server.predict(data, Content_Type="text/plain"),
            "The Content-Type is 'text/plain', which is no",
        ),
        (shared_server.upload(data, field="file"), "The form has 0 fields 'image'; it has 'file'."),
        (shared_server.predict(b"--x", Content_Type="multipart/form-data; boundary=y"), "The form"),
        (shared_server.predict(b"--x", Content_Type="multipart/form-data"), "The form can't be read"),
    ):
        assert answer.status == 400
        assert answer.json["error"].startswith(said)
        assert "as the field 'image' of a form" in answer.json["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
    ],
)
def test_pages_of_other_sites_can_not_use_it(shared_server, pictures, headers):
    for answer in (
        shared_server.predict(pictures[0].read_bytes(), **headers),
        shared_server("GET", "/", **headers),
        shared_server("GET", "/health", **headers),
        shared_server("OPTIONS", "/parts/predict", Access_Control_Request_Method="POST", **headers),
    ):
        assert answer.status == 403
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_own_name_is_answered(shared_server):
    for host in ("localhost", "127.0.0.1", "[::1]", f"localhost:{shared_server.port}"):
        assert shared_server("GET", "/health", Host=host).status == 200


def test_wrong_key_is_refused_even_where_none_is_needed(shared_server, made_workspace):
    answer = shared_server("GET", "/", Authorization="Bearer sn_wrong")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "begins with 'sn_wron' is unknown or was revoked" in answer.json["error"]
    own = own_key(made_workspace.settings.home)
    assert shared_server("GET", "/", Authorization=f"Bearer {own}").status == 200
    assert shared_server("GET", "/", Authorization=f"Basic {own}").status == 401


def test_traffic_is_counted_per_dataset(shared_server, made_workspace, pictures):
    def count(name):
        return shared_server("GET", f"/{name}/stats").json

    data = pictures[0].read_bytes()
    shared_server.predict(data, "plates")
    before = count("plates")
    assert before["model_version"] == 1
    for _ in range(3):
        shared_server.predict(data, "plates")
    shared_server.predict(b"broken", "plates")
    shared_server("POST", "/plates/invocations", invocation(b"broken"), Content_Type="application/json")
    shared_server("GET", "/plates/ping")  # no picture, no count
    own = own_key(made_workspace.settings.home)
    shared_server.predict(data, "plates", Authorization=f"Bearer {own}")  # a page of ours
    after = count("plates")
    assert after["requests"] - before["requests"] == 5
    assert after["errors"] - before["errors"] == 2
    assert 0 < after["p50_ms"] <= after["p95_ms"]
    assert after["trouble"] is None
    assert "plates" in [row["dataset"] for row in shared_server("GET", "/stats").json]
    assert count("empty")["requests"] == 0
    assert shared_server("GET", "/bolts/stats").status == 404


def test_client_that_sends_nothing_does_not_hold_others_up(shared_server, pictures):
    head = "POST /parts/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\n"
    with ExitStack() as silent:
        for _ in range(4):  # more than pictures are scored at once
            connection = socket.create_connection(("127.0.0.1", shared_server.port))
            silent.enter_context(connection).sendall(head.encode())
        assert shared_server.predict(pictures[0].read_bytes()).status == 200


def test_threshold_is_that_of_the_champions_calibration(shared_server, made_workspace, pictures):
    with made_workspace.session() as session:
        model = models.champion(session, "parts")
    answer = shared_server.predict(pictures[0].read_bytes()).json
    assert answer["threshold"] == calibration_of(model).threshold
    (scored,) = detector(made_workspace, model).score([decode(pictures[0].read_bytes(), "picture")])
    assert answer["score"] == scored.score
