"""A sheet of the first drawings, to look at: `python -m training.drawing docs/images/drawings.jpg`."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from training.drawing.scenes import draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--size", type=int, default=128, help="of each drawing, pixels")
    options = parser.parse_args()
    rows = []
    for row in range(options.rows):
        first = row * options.columns
        rows.append(
            np.concatenate([draw(options.seed, first + i, options.size) for i in range(options.columns)], 1)
        )
    Image.fromarray(np.concatenate(rows)).save(options.file, quality=85)


if __name__ == "__main__":
    main()
