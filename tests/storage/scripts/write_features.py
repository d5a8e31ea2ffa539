"""Writes features of a number of images into a cache; prints "ready" after the first image and waits for a line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.feature_cache import FeatureCache, FeatureKey

folder, version_digest, images = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def batches() -> Iterator[dict[int, NDArray[np.float32]]]:
    for image in range(images):
        if image == 1:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.readline()
        yield {2: np.full((1, 4, 3, 3), image, np.float32)}


key = FeatureKey(
    version_digest=version_digest,
    backbone="resnet18",
    weights_digest="w",
    height=24,
    width=24,
    preprocessing="1",
)
FeatureCache(folder).write(key, [str(image) for image in range(images)], {2: (4, 3, 3)}, batches())
