"""Numbers, times and names as people read them: figures with their interval, durations, sizes, names by others."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.backbones import OfferedBackbone
    from tuning.estimate import Estimate

FIGURE_NAMES = {
    "image_auroc": "Image AUROC",
    "average_precision": "Average precision",
    "image_average_precision": "Average precision",
    "f1": "F1",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
}
FIGURE_MEANINGS = {
    "image_auroc": "How often a random anomalous picture scores above a random normal one; 0.5 is chance, 1 is always.",
    "average_precision": "Share of true defects among what is rejected, averaged over all thresholds.",
    "image_average_precision": "Share of true defects among what is rejected, averaged over all thresholds.",
    "f1": "Balance of defects found and rejects that are right; 1 is perfect.",
    "pixel_auroc": "The same as image AUROC, pixel by pixel, against the ground-truth masks.",
    "aupro": "How much of every defect region is found while at most 30 % of the normal pixels are marked.",
}


# A word joiner: it takes no room and belongs to no syntax. Icons, emojis, addresses and arrows are looked for after
# backslashes have done their work, so they must be broken up.
JOINER = "\u2060"
_BROKEN_UP = re.compile(
    r"(?<=:)(?=//|[^\W\d]|[-+\w]+:)"  # https://…, :red[…], :material/…:, :smile:
    r"|(?<=www)(?=\.)|(?<=[-.\w+]@)(?=[-\w])"
    r"|(?<=(?<!\S)[-<>~])(?=(?:->|[->=])(?!\S))",  # -> and its like, which become arrows and dashes
    re.IGNORECASE,
)
_MARKS = re.compile(r"[\\`*\[\]$~<|]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
_OPENING_MARKS = re.compile(r"^([-+=>#]|\d+(?=[.)](?:\s|$)))", re.MULTILINE)
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)


def plain(text: str) -> str:
    """Markdown that shows a text as it is, whatever is in it: names of files and folders, titles, messages with them.

    Everything that others have named goes through this before Streamlit reads it as Markdown.
    """
    text = _INDENT.sub("", text.rstrip())
    text = _MARKS.sub(r"\\\g<0>", _BROKEN_UP.sub(JOINER, text))
    return _OPENING_MARKS.sub(lambda mark: f"{mark[0]}\\" if mark[0].isdecimal() else f"\\{mark[0]}", text)


def objective(wanted: str | Mapping[str, float]) -> str:
    """A study's objective as its specification has it: 'Image AUROC', '70 % Image AUROC + 30 % AUPRO'."""
    if isinstance(wanted, str):
        return figure_name(wanted)
    whole = sum(wanted.values())
    return " + ".join(
        f"{weight / whole:.0%} {figure_name(name)}".replace("%", " %") for name, weight in wanted.items()
    )


def objective_meaning(wanted: str | Mapping[str, float]) -> str:
    """What an objective's figures mean, a sentence each."""
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    return " ".join(f"{figure_name(name)}: {FIGURE_MEANINGS.get(name, '')}" for name in names)


def figure_name(key: str) -> str:
    """The name of a figure of merit as shown: 'image_auroc' → 'Image AUROC'."""
    return FIGURE_NAMES.get(key, key.replace("_", " ").capitalize())


def number(value: float | None, digits: int = 3) -> str:
    """A figure with fixed digits and a true minus sign; an en dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """'0.963 (0.931–0.988)'; without an interval just the value."""
    if value is None or not interval:
        return number(value)
    low, high = interval
    return f"{number(value)} ({number(low)}–{number(high)})"


def plural(count: int, noun: str) -> str:
    """'1 picture', '3 pictures', '2,000 studies'."""
    if count == 1:
        return f"1 {noun}"
    ending = "ies" if noun.endswith("y") and noun[-2:] not in {"ay", "ey", "oy"} else "s"
    return f"{count:,} {noun[:-1] if ending == 'ies' else noun}{ending}"


def duration(seconds: float | None) -> str:
    """'45 s', '4 min', '1 h 20 min'; an en dash for None."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def time_left(seconds: float) -> str:
    """'about 4 min left', 'less than a second left'."""
    return "less than a second left" if seconds < 1 else f"about {duration(seconds)} left"


def ago(moment: datetime | None, now: datetime) -> str:
    """'3 min ago', 'just now'; an en dash for None."""
    if moment is None:
        return "–"
    seconds = (now - moment).total_seconds()
    if seconds < 10:
        return "just now"
    if seconds < 36 * 3600:
        return f"{duration(seconds)} ago"
    return f"{seconds / 86400:.0f} days ago"


def moment(value: datetime | None) -> str:
    """'2025-11-23 14:05' in UTC."""
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M} UTC"


def size(count: int) -> str:
    """Bytes as '12 MB'."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def estimate(found: "Estimate") -> str:
    """'about 4 min on this machine: features 5 s, 20 trials 3 min, model 20 s; from 34 trials that ran here'."""
    known = (
        f"from {plural(found.from_trials, 'trial')} that ran here" if found.from_trials else "measured here"
    )
    return (
        f"about {duration(found.seconds)} on this machine: features {duration(found.features)}, "
        f"{plural(found.count, 'trial')} {duration(found.trials)}, model {duration(found.champion)}; {known}"
    )


def knob(name: str) -> str:
    """A setting's name as a label: 'patch_size' → 'Patch size'."""
    return name.replace("_", " ").capitalize()


def knob_value(value: object) -> str:
    """One of a setting's values: True → 'yes', 'leaky_relu' → 'leaky relu'."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("_", " ")


def layers(choice: Sequence[int] | str) -> str:
    """A choice of backbone stages: (2, 3) → '2+3'."""
    if isinstance(choice, str):
        return choice.replace(",", "+")
    return "+".join(map(str, choice))


def backbone(text: str, stronger: str | None) -> str:
    """Which backbone, where it comes from, its licence, and what a stronger one would need."""
    return f"Backbone: {text}." + (f" {stronger}" if stronger else "")


def offer(offered: "OfferedBackbone") -> str:
    """One line of a list of backbones: 'resnet18.tv_in1k · 11.7 M parameters · from the hub · bsd-3-clause'."""
    place = "on this machine" if offered.origin else "from the hub"
    return " · ".join((offered.name, offered.about, place, offered.licence or "licence unknown"))


def configuration(config: Mapping[str, Any]) -> str:
    """What was searched, in one line, and before it a model's backbone: 'drawnet · σ 0.015 · layers 2+3 · …'."""
    from engine.config import SimpleNetConfig  # only here: they would slow every `--help` down
    from tuning.knobs import KNOBS

    parts = [str(config["backbone"])] if "backbone" in config else []
    if "noise_std" in config:
        parts.append(f"σ {float(config['noise_std']):.3g}")
    if "layers" in config:
        parts.append(f"layers {layers(config['layers'])}")
    if "adaptor_depth" in config:
        parts.append(f"adaptor depth {config['adaptor_depth']}")
    if config.get("resize", SimpleNetConfig.resize) != SimpleNetConfig.resize:
        parts.append(f"{config['resize']} {config['height']}×{config['width']}")
    for name in KNOBS:
        if config.get(name, getattr(SimpleNetConfig, name)) != getattr(SimpleNetConfig, name):
            parts.append(f"{knob(name).lower()} {knob_value(config[name])}")
    return " · ".join(parts)
