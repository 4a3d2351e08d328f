"""What the sections check their values with."""

import typing

from paddlevit.errors import check_choice


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names key, value and remedy."""


def one_of(name: str, value: str, valid: typing.Sequence[str]) -> None:
    """Raise ConfigError unless the key's value is one of the valid ones."""
    try:
        check_choice(name, value, valid)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def at_least(name: str, value: float, low: float) -> None:
    """Raise ConfigError when the key's value is below `low`."""
    if not value >= low:  # a NaN is neither
        raise ConfigError(f"{name} is {value}; it must be at least {low}.")


def within(name: str, value: float, low: float, high: float, open_ends: bool = False) -> None:
    """Raise ConfigError unless the key's value lies from `low` to `high`; with `open_ends`, between them."""
    inside = low < value < high if open_ends else low <= value <= high
    if not inside:
        bounds = f"between {low} and {high}" if open_ends else f"from {low} to {high}"
        raise ConfigError(f"{name} is {value}; it must be {bounds}.")


def below_one(name: str, value: float) -> None:
    """Raise ConfigError unless the key's value is at least 0 and below 1."""
    if not 0 <= value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 0 and below 1.")
