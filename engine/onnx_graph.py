"""The parts of an exported model that torch does not trace: from picture to canvas, and from patch scores to map.

Both must hold for pictures of any size, so they are written in ONNX operators with sizes that are only known when the
graph runs. They compute what `engine.geometry.on_canvas` and `engine.scoring.anomaly_maps` do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.geometry import CROP_SCALE, GREY
from engine.scoring import upsampling

OPSET = 20
IR_VERSION = 10
IMAGE = "image"  # the input: (H, W, 3) uint8 RGB of any size
THRESHOLD = "threshold_value"  # the constant that holds the threshold

Pair = tuple[str, str]


class Graph:
    """A graph in the making: `op` adds a node and answers the name of its output."""

    def __init__(self) -> None:
        """Begin without nodes."""
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        from onnx import helper

        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any, name: str | None = None) -> str:
        """Add a number, or an array of them."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def ints(self, *values: int) -> str:
        """Add a vector of whole numbers."""
        return self.constant(values, np.int64)

    def rename(self, output: str, name: str) -> None:
        """Call what a node gave something else."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [output], [name]))

    def splice(self, model: Any, prefix: str) -> None:
        """Add all of another model, every name in it with a prefix."""
        from onnx import compose

        inner = compose.add_prefix(model, prefix).graph
        self.nodes.extend(inner.node)
        self.constants.extend(inner.initializer)

    def model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The finished graph as a model."""
        from onnx import helper

        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


@dataclass(frozen=True, kw_only=True)
class PassOrder:
    """Whether pictures are resized along their columns first; those of some sizes (H, W) in the other order."""

    vertical_first: bool
    exceptions: tuple[tuple[int, int], ...] = ()


def lay_on_canvas(
    graph: Graph, canvas: tuple[int, int], resize: str, *, order: PassOrder, by_matrix: bool
) -> str:
    """From `image`, (H, W, 3) uint8, to a canvas, (1, 3, height, width) float32 that holds whole numbers.

    Args:
        canvas: (height, width), pixels.
        resize: one of `engine.geometry.RESIZES`.
        order: in which order Pillow resizes pictures; it rounds to whole numbers in between.
        by_matrix: write the resizing as products of matrices, for runtimes that lack an antialiased Resize.
    """
    pixels = graph.op("Transpose", IMAGE, perm=[2, 0, 1])
    sides = _sides(graph)
    placed = _placed(graph, sides, canvas, resize)
    way = _by_matrices if by_matrix else _by_resize
    laid = way(graph, pixels, sides, placed, canvas, order.vertical_first, crop=resize == "crop")
    if order.exceptions:
        other = way(graph, pixels, sides, placed, canvas, not order.vertical_first, crop=resize == "crop")
        laid = graph.op("Where", _is_one_of(graph, sides, order.exceptions), other, laid)
    if resize == "letterbox":
        laid = _with_bars(graph, laid, placed, canvas)
    return graph.op("Reshape", laid, graph.ints(1, 3, *canvas))


def answer(
    graph: Graph,
    patch_scores: str,
    image_score: str,
    *,
    canvas: tuple[int, int],
    patches: tuple[int, int],
    resize: str,
    smoothing_std: float,
) -> None:
    """From patch scores (1, h, w) and the score (1,) to the outputs of `interface`; the threshold is 0 until it is set.

    Args:
        patches: (h, w) of the grid of patch scores.
    """
    graph.rename(graph.op("Squeeze", image_score, graph.ints(0)), "score")
    graph.rename(graph.constant(0, np.float32, THRESHOLD), "threshold")
    graph.rename(graph.op("Greater", "score", "threshold"), "reject")
    sides = _sides(graph)
    starts, lengths = _placed(graph, sides, canvas, resize)
    down, across = (
        _expansion(
            graph, sides[axis], canvas[axis], patches[axis], smoothing_std, starts[axis], lengths[axis]
        )
        for axis in (0, 1)
    )
    scores = graph.op("Squeeze", patch_scores, graph.ints(0))
    values = graph.op("MatMul", graph.op("MatMul", down, scores), graph.op("Transpose", across, perm=[1, 0]))
    if resize == "crop":
        values = _known(graph, values, sides, starts, lengths, canvas)
    graph.rename(values, "anomaly_map")


def interface() -> tuple[list[Any], list[Any]]:
    """What goes in and what comes out, as ONNX describes it."""
    from onnx import TensorProto, helper

    describe = helper.make_tensor_value_info
    sides = ["height", "width"]
    return [describe(IMAGE, TensorProto.UINT8, [*sides, 3])], [
        describe("score", TensorProto.FLOAT, []),
        describe("threshold", TensorProto.FLOAT, []),
        describe("reject", TensorProto.BOOL, []),
        describe("anomaly_map", TensorProto.FLOAT, sides),
    ]


def _sides(graph: Graph) -> Pair:
    """Rows and columns of the picture, whole numbers without dimensions."""
    shape = graph.op("Shape", IMAGE)
    rows, columns = (graph.op("Gather", shape, graph.constant(axis, np.int64)) for axis in (0, 1))
    return rows, columns


def _placed(graph: Graph, picture: Pair, canvas: tuple[int, int], resize: str) -> tuple[Pair, Pair]:
    """(top, left) and (height, width) of the resized picture on the canvas; see `engine.geometry.place`."""
    from onnx import TensorProto

    if resize == "squash":
        zero = graph.constant(0, np.int64)
        return (zero, zero), (
            graph.constant(canvas[0], np.int64),
            graph.constant(canvas[1], np.int64),
        )
    sides = [graph.op("Cast", side, to=TensorProto.DOUBLE) for side in picture]
    ratios = [
        graph.op("Div", graph.constant(wanted, np.float64), side)
        for wanted, side in zip(canvas, sides, strict=True)
    ]
    if resize == "letterbox":
        scale = graph.op("Min", *ratios)
    else:
        scale = graph.op("Mul", graph.constant(CROP_SCALE, np.float64), graph.op("Max", *ratios))
    starts: list[str] = []
    lengths: list[str] = []
    for wanted, side in zip(canvas, sides, strict=True):
        rounded = graph.op("Round", graph.op("Mul", side, scale))
        length = graph.op("Max", rounded, graph.constant(1, np.float64))
        beside = graph.op("Sub", graph.constant(wanted, np.float64), length)
        start = graph.op("Round", graph.op("Div", beside, graph.constant(2, np.float64)))
        starts.append(graph.op("Cast", start, to=TensorProto.INT64))
        lengths.append(graph.op("Cast", length, to=TensorProto.INT64))
    return (starts[0], starts[1]), (lengths[0], lengths[1])


def _by_resize(
    graph: Graph,
    pixels: str,
    sides: Pair,
    placed: tuple[Pair, Pair],
    canvas: tuple[int, int],
    vertical_first: bool,
    *,
    crop: bool,
) -> str:
    from onnx import TensorProto

    starts, lengths = placed
    batch = graph.op("Unsqueeze", pixels, graph.ints(0))
    final = _vector(graph, graph.constant(1, np.int64), graph.constant(3, np.int64), *lengths)
    steps = [final]
    if vertical_first:  # the operator itself begins with the rows' pixels
        between = _vector(
            graph, graph.constant(1, np.int64), graph.constant(3, np.int64), lengths[0], sides[1]
        )
        steps.insert(0, between)
    for size in steps:
        batch = graph.op(
            "Resize",
            batch,
            "",
            "",
            size,
            mode="linear",
            antialias=1,
            exclude_outside=1,  # as Pillow: what lies beyond the border has no weight
            coordinate_transformation_mode="half_pixel",
        )
    laid = graph.op("Cast", graph.op("Squeeze", batch, graph.ints(0)), to=TensorProto.FLOAT)
    if not crop:
        return laid
    begin = graph.op("Neg", _vector(graph, *starts))
    end = graph.op("Add", begin, graph.ints(*canvas))
    return graph.op("Slice", laid, begin, end, graph.ints(1, 2))


def _by_matrices(
    graph: Graph,
    pixels: str,
    sides: Pair,
    placed: tuple[Pair, Pair],
    canvas: tuple[int, int],
    vertical_first: bool,
    *,
    crop: bool,
) -> str:
    from onnx import TensorProto

    starts, lengths = placed
    weights = []
    for side, start, length, wanted in zip(sides, starts, lengths, canvas, strict=True):
        first = graph.op("Neg", start) if crop else graph.constant(0, np.int64)
        count = graph.constant(wanted, np.int64) if crop else length
        weights.append(_antialiased(graph, side, length, first, count))
    laid = graph.op("Cast", pixels, to=TensorProto.FLOAT)
    half = graph.constant(0.5, np.float32)
    turned = graph.op("Transpose", weights[1], perm=[1, 0])
    for vertical in (True, False) if vertical_first else (False, True):
        product = graph.op("MatMul", weights[0], laid) if vertical else graph.op("MatMul", laid, turned)
        laid = graph.op("Floor", graph.op("Add", product, half))
    return laid


def _antialiased(graph: Graph, size: str, length: str, first: str, count: str) -> str:
    """Weights (count, size) of resizing `size` pixels to `length`, for `count` of them from `first` on.

    The triangle of bilinear resizing, as wide as what a pixel stands for, in whole numbers: exact in float32.
    """
    from onnx import TensorProto

    float_ = TensorProto.FLOAT
    one = graph.constant(1, np.int64)
    zero = graph.constant(0, np.int64)
    two = graph.constant(2, np.int64)
    outputs = graph.op("Range", first, graph.op("Add", first, count), one)
    inputs = graph.op("Range", zero, size, one)
    middles = graph.op("Mul", graph.op("Add", graph.op("Mul", outputs, two), one), size)
    places = graph.op("Mul", graph.op("Add", graph.op("Mul", inputs, two), one), length)
    reach = graph.op("Mul", graph.op("Max", size, length), two)
    distance = graph.op(
        "Abs",
        graph.op(
            "Sub",
            graph.op("Unsqueeze", graph.op("Cast", places, to=float_), graph.ints(0)),
            graph.op("Unsqueeze", graph.op("Cast", middles, to=float_), graph.ints(1)),
        ),
    )
    weights = graph.op("Relu", graph.op("Sub", graph.op("Cast", reach, to=float_), distance))
    return graph.op("Div", weights, graph.op("ReduceSum", weights, graph.ints(1), keepdims=1))


def _with_bars(graph: Graph, laid: str, placed: tuple[Pair, Pair], canvas: tuple[int, int]) -> str:
    """Put grey bars beside the resized picture."""
    starts, lengths = placed
    before = _vector(graph, graph.constant(0, np.int64), *starts)
    taken = _vector(graph, graph.constant(3, np.int64), *lengths)
    after = graph.op("Sub", graph.op("Sub", graph.ints(3, *canvas), taken), before)
    pads = graph.op("Concat", before, after, axis=0)
    return graph.op("Pad", laid, pads, graph.constant(GREY, np.float32))


def _expansion(
    graph: Graph, side: str, canvas: int, patches: int, smoothing_std: float, start: str, length: str
) -> str:
    """The (side, patches) matrix from patch scores to the picture's pixels; see `engine.scoring`."""
    blurred = graph.constant(upsampling(patches, canvas, smoothing_std), np.float32)
    position = _positions(graph, side, start, length)
    zero, last = graph.constant(0, np.float32), graph.constant(canvas - 1, np.float32)
    position = graph.op("Unsqueeze", graph.op("Clip", position, zero, last), graph.ints(1))
    pixels = graph.constant(np.arange(canvas)[None], np.float32)
    distance = graph.op("Abs", graph.op("Sub", position, pixels))
    bilinear = graph.op("Relu", graph.op("Sub", graph.constant(1, np.float32), distance))
    return graph.op("MatMul", bilinear, blurred)


def _positions(graph: Graph, side: str, start: str, length: str) -> str:
    """Where on the canvas the middles of a picture's pixels lie, (side,) float32."""
    from onnx import TensorProto

    float_ = TensorProto.FLOAT
    one = graph.constant(1, np.int64)
    index = graph.op("Cast", graph.op("Range", graph.constant(0, np.int64), side, one), to=float_)
    half = graph.constant(0.5, np.float32)
    along = graph.op("Mul", graph.op("Add", index, half), graph.op("Cast", length, to=float_))
    placed = graph.op("Div", along, graph.op("Cast", side, to=float_))
    return graph.op("Sub", graph.op("Add", graph.op("Cast", start, to=float_), placed), half)


def _known(
    graph: Graph, values: str, sides: Pair, starts: Pair, lengths: Pair, canvas: tuple[int, int]
) -> str:
    """Give what a crop cut away the lowest value of the rest: nothing is known of it."""
    inside = []
    for axis, (side, start, length, size) in enumerate(zip(sides, starts, lengths, canvas, strict=True)):
        middle = _positions(graph, side, start, length)  # a pixel is seen when its middle is
        above = graph.op("GreaterOrEqual", middle, graph.constant(-0.5, np.float32))
        below = graph.op("LessOrEqual", middle, graph.constant(size - 0.5, np.float32))
        inside.append(graph.op("Unsqueeze", graph.op("And", above, below), graph.ints(1 - axis)))
    known = graph.op("And", *inside)
    high = graph.constant(np.finfo(np.float32).max, np.float32)
    lowest = graph.op("ReduceMin", graph.op("Where", known, values, high), keepdims=0)
    return graph.op("Where", known, values, lowest)


def _is_one_of(graph: Graph, sides: Pair, sizes: Sequence[tuple[int, int]]) -> str:
    """Whether a picture's (rows, columns) are among some sizes; bool without dimensions."""
    from onnx import TensorProto

    same = graph.op("Equal", _vector(graph, *sides), graph.constant(sizes, np.int64))
    both = graph.op("ReduceMin", graph.op("Cast", same, to=TensorProto.INT64), graph.ints(1), keepdims=0)
    return graph.op("Cast", graph.op("ReduceMax", both, graph.ints(0), keepdims=0), to=TensorProto.BOOL)


def _vector(graph: Graph, *numbers: str) -> str:
    axis = graph.ints(0)
    return graph.op("Concat", *(graph.op("Unsqueeze", number, axis) for number in numbers), axis=0)
