"""Numbers as the page writes them."""


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.2f} %"


def points(change: float, digits: int = 2) -> str:
    """A change of a share of 1, in percentage points with its sign."""
    text = f"{100 * change:+.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text[1:]


def loss_text(value: float | None, sign: str = "") -> str:
    """A loss, or with sign "+" a change of it; None is one that is not finite."""
    return "not finite" if value is None else f"{value:{sign}.4f}".replace("-", "\N{MINUS SIGN}")
