"""Numbers of the page as text."""

from collections.abc import Mapping


def percent(share: float) -> str:
    """Format a share in 0..1 as a percentage."""
    return f"{100 * share:.2f} %"


def metric_text(name: str, metrics: Mapping[str, float]) -> str:
    """Format a metric of an evaluation; empty if there is none, or it is of no object."""
    if name not in metrics or (name != "loss" and metrics[name] < 0):
        return ""
    return loss_text(metrics[name]) if name == "loss" else percent(metrics[name])


def points(change: float, digits: int = 2) -> str:
    """Format the change of a share in percentage points, with its sign."""
    text = f"{100 * change:+.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text[1:]


def loss_text(value: float | None, sign: str = "") -> str:
    """Format a loss, or its change with sign "+"; None means that it is not finite."""
    return "not finite" if value is None else f"{value:{sign}.4f}".replace("-", "\N{MINUS SIGN}")
