"""Options as people type them: numbers between commas, sizes, settings with their values or ranges."""

import contextlib
from collections.abc import Sequence
from typing import Any

from dashboard.errors import BadOption

SCALES = {"log": True, "linear": False}


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers between commas: '2,3' → (2, 3).

    Raises:
        BadOption: it is something else.
    """
    try:
        return tuple(int(part) for part in text.replace("+", ",").split(","))
    except ValueError:
        raise BadOption(
            f"{option} '{text}' must be whole numbers between commas. Give for instance 2,3."
        ) from None


def pixels(text: str) -> tuple[int, int]:
    """Height and width: '256' → (256, 256), '256x320' → (256, 320).

    Raises:
        BadOption: it is something else.
    """
    parts = text.lower().replace("×", "x").split("x")
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise BadOption(
            f"--size '{text}' must be a number of pixels or HEIGHTxWIDTH. Give for instance 256 or 256x320."
        )
    return sides[0], sides[-1]


def objective(text: str) -> str | dict[str, float]:
    """A figure's name, or weights by figure: 'aupro', 'image_auroc=0.7,aupro=0.3'.

    Raises:
        BadOption: a weight is no number.
    """
    if "=" not in text:
        return text.strip()
    weights = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            raise BadOption(
                f"--objective '{text}' must be a figure, or figures with their weights. "
                "Give for instance image_auroc=0.7,aupro=0.3."
            ) from None
    return weights


def knobs(texts: Sequence[str], option: str) -> dict[str, tuple[Any, ...]]:
    """All settings that an option named, each with its values: 'patch_size=1,3' → {'patch_size': (1, 3)}.

    What the values may be, others check.

    Raises:
        BadOption: one can't be read, or is named twice.
    """
    return {
        name: tuple(_value(part.strip()) for part in values.split(","))
        for name, values in _pairs(texts, option, "patch_size=1,3,5").items()
    }


def searched(texts: Sequence[str], option: str) -> dict[str, Any]:
    """As `knobs`, but values may also be a range: 'margin=0.1..2:log' → {'margin': {'low': 0.1, …}}.

    Raises:
        BadOption: one can't be read, or is named twice.
    """
    found: dict[str, Any] = {}
    for name, values in _pairs(texts, option, "patch_size=1,3,5 or margin=0.1..2").items():
        ends, _, scale = values.partition(":")
        if ".." not in ends:
            found[name] = tuple(_value(part.strip()) for part in values.split(","))
            continue
        low, high = (_value(end.strip()) for end in ends.split("..", 1))
        if scale.strip() not in ("", *SCALES):
            raise BadOption(
                f"{option} '{name}={values}': the scale of a range must be log or linear. Give {name}={ends}:log."
            )
        found[name] = {"low": low, "high": high} | ({"log": SCALES[scale.strip()]} if scale else {})
    return found


def configuration(texts: Sequence[str]) -> dict[str, Any]:
    """One value of each parameter: 'noise_std=0.02' → {'noise_std': 0.02}; layers stay text.

    Raises:
        BadOption: one can't be read, or is named twice.
    """
    pairs = _pairs(texts, "The configuration", "noise_std=0.02 layers=2+3")
    return {name: value if name == "layers" else _value(value) for name, value in pairs.items()}


def _pairs(texts: Sequence[str], option: str, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, _, values = (part.strip() for part in text.partition("="))
        if not name or not values:
            raise BadOption(
                f"{option} '{text}' must be a setting, =, and values between commas. Give for instance {example}."
            )
        if name in found:
            raise BadOption(f"{option} names '{name}' twice. Give it once, its values between commas.")
        found[name] = values
    return found


def _value(text: str) -> bool | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
