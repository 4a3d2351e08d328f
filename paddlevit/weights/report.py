"""What loading did, in one summary."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 4  # names listed per reason


@dataclass
class LoadReport:
    """What became of every tensor of a file and of every parameter of a model."""

    source: str
    """The file, or `state` for a dictionary."""
    model: str
    """The model's name or class."""
    dialect: str
    """Whose names the file uses."""
    loaded: list[str] = field(default_factory=list)
    """The model's parameters that got their values, those adapted included."""
    adapted: dict[str, str] = field(default_factory=dict)
    """Parameters whose values were changed to fit, and how."""
    missing: dict[str, str] = field(default_factory=dict)
    """Parameters that stay as they were, and why."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Names in the file that were not used, and why."""
    notes: list[str] = field(default_factory=list)
    """What else was found: which part of the file was taken, prefixes removed."""

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.dialect} names) -> {self.model}: {len(self.loaded)} tensors loaded"]
        lines += [f"  note      {note}" for note in self.notes]
        for title, entries in (("adapted", self.adapted), ("missing", self.missing), ("left out", self.left_out)):
            lines += [f"  {title:<9} {line}" for line in _grouped(entries)]
        return "\n".join(lines)


def _grouped(entries: dict[str, str]) -> list[str]:
    """One line per reason: `a, b and 3 more: reason`."""
    names: dict[str, list[str]] = {}
    for name, reason in entries.items():
        names.setdefault(reason, []).append(name)
    return [f"{shorten(group)}: {reason}" for reason, group in names.items()]


def shorten(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
