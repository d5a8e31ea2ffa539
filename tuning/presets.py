"""Ready-made studies: how long to search and what, for people who don't want to choose everything."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tuning.errors import BadSpec
from tuning.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A study to begin with; whatever a person chooses replaces its part."""

    about: str  # one sentence, for people
    fields: Mapping[str, Any]  # of StudySpec, where they differ from its defaults


# Which kind of noise suits depends on the part; docs/log.md has the figures of three data sets.
NOISE_AND_MARGIN: Mapping[str, tuple[Any, ...]] = {"noise": ("gaussian", "differences"), "margin": (0.5, 1.0)}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "quick": Preset(
            about="A first model and a first look at the heatmaps: 8 configurations.",
            fields={"trials": 8, "knobs": NOISE_AND_MARGIN},
        ),
        "standard": Preset(
            about="What most parts need: 20 configurations of noise, margin, layers and adaptor.",
            fields={"knobs": NOISE_AND_MARGIN},
        ),
        "thorough": Preset(
            about="A model to rely on: up to 60 configurations of more settings, each trained three times, until 25 in "
            "a row bring nothing better.",
            fields={
                "trials": 60,
                "patience": 25,
                "seeds": 3,
                "knobs": {
                    **NOISE_AND_MARGIN,
                    "patch_size": (1, 3, 5),
                    "top_patches": (1, 5, 20, 100),
                    "noise": ("gaussian", "differences", "mixed"),
                },
            },
        ),
    }
)
STANDARD = "standard"


def preset_spec(name: str, **changes: Any) -> StudySpec:
    """The specification of a preset, with changes.

    Raises:
        BadSpec: there is no such preset, or a change breaks its field's rule.
    """
    return StudySpec(**preset_fields(name) | changes)


def preset_fields(name: str) -> dict[str, Any]:
    """What a preset sets.

    Raises:
        BadSpec: there is no such preset.
    """
    if name not in PRESETS:
        raise BadSpec(f"Preset '{name}' is unknown. Choose one of {', '.join(PRESETS)}.")
    return dict(PRESETS[name].fields)
