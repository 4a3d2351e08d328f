"""An experiment as YAML: read, overridden, checked, written.

A key that no section has, a value of the wrong type and a number out of range are errors that say what is valid. The
resolved configuration is written beside a run; loading it gives the same run.
"""

import dataclasses
import math
import re
import typing
from pathlib import Path
from typing import Any, Union

import yaml

from paddlevit.config.checks import ConfigError
from paddlevit.config.sections import Config
from paddlevit.errors import did_you_mean

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
_TUPLE = re.compile(r"\((.*)\)")


def load_config(path: Union[str, Path], overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML file.

    Args:
        path: The file.
        overrides: `section.key=value` each, the value as YAML; they win over the file.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: No such file, not YAML, or a key or value that is not understood.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"There is no configuration {str(path)!r}.{_near_files(path)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; it must hold sections, such as `model:`.")
    for override in overrides:
        _apply_override(values, override)
    return config_from_dict(values)


def config_from_dict(values: dict[str, Any]) -> Config:
    """Check nested plain values, as `config_to_dict` gives them, and make a Config of them.

    Raises:
        ConfigError: A key or value that is not understood.
    """
    sections = typing.get_type_hints(Config)
    made = {}
    for section, content in values.items():
        if section not in sections:
            hint = did_you_mean(str(section), sections)
            names = ", ".join(sections)
            raise ConfigError(f"There is no section {section!r}.{hint} Valid in the configuration: {names}.")
        if not isinstance(content, dict):
            raise ConfigError(f"{section} is {content!r}; it must hold keys, for example `{section}:` and lines below.")
        made[section] = _section(section, sections[section], content)
    return Config(**made)


def config_to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, ready for YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; `load_config` of it gives an equal Config."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, which YAML would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {str(path.parent)!r} either."
    files = [str(file) for file in path.parent.glob("*.yaml")]
    return did_you_mean(str(path), files)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"The override {override!r} is not of the form section.key=value.")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"The value of the override {override!r} is not YAML.") from error
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"The override {override!r} goes into {part!r}, which is a plain value.")
    values[parts[-1]] = value


def _section(section: str, cls: type, content: dict[str, Any]) -> Any:
    types = typing.get_type_hints(cls)
    values = {}
    for key, value in content.items():
        if key not in types:
            hint = _same_key_elsewhere(key) or did_you_mean(key, types, f"{section}.")
            raise ConfigError(f"There is no key '{section}.{key}'.{hint} Valid in {section}: {', '.join(types)}.")
        values[key] = _convert(f"{section}.{key}", value, types[key])
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from error


def _same_key_elsewhere(key: str) -> str:
    """A hint for a key that belongs to another section."""
    sections = typing.get_type_hints(Config)
    owners = [f'"{section}.{key}"' for section, cls in sections.items() if key in typing.get_type_hints(cls)]
    return f" Did you mean {', '.join(owners)}?" if owners else ""


def _convert(name: str, value: Any, wanted: Any) -> Any:
    """`value` as the annotated type, understanding what people write in YAML: 3e-4, [a, b], (a, b), None."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if any(typing.get_origin(each) is tuple for each in (wanted, *arguments)):
        value = _listed(value)
    if origin is Union:
        if type(None) in arguments and (value is None or value in ("None", "none", "null")):
            return None
        for argument in (a for a in arguments if a is not type(None)):
            try:
                return _convert(name, value, argument)
            except ConfigError:
                continue
    elif origin is tuple and isinstance(value, (list, tuple)):
        item_types = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(item_types) == len(value):
            return tuple(_convert(name, item, item_type) for item, item_type in zip(value, item_types))
    elif origin is dict and isinstance(value, dict):
        return {key: _option(item) for key, item in value.items()}
    elif wanted is float and not isinstance(value, bool):
        number = _number(value)
        if isinstance(number, (int, float)):
            if not math.isfinite(number):
                raise ConfigError(f"{name} is {number}; it must be a finite number.")
            return float(number)
    elif isinstance(value, bool):
        if wanted is bool:
            return value
    elif wanted in (int, str) and isinstance(value, wanted):
        return value
    raise ConfigError(f"{name} is {value!r} ({type(value).__name__}); it must be {_describe_type(wanted)}.")


def _number(value: Any) -> Any:
    """YAML 1.1 reads 3e-4 as text; make it the number that was meant."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value.strip()):
        return float(value)
    return value


def _listed(value: Any) -> Any:
    """YAML reads (30, 60) as text; make it the list that was meant."""
    found = _TUPLE.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        return yaml.load(f"[{found[1]}]", Loader=_Loader) if found else value
    except yaml.YAMLError:
        return value


def _option(value: Any) -> Any:
    """A value without a stated type, with the numbers, tuples and None that were meant."""
    value = _listed(value)
    if isinstance(value, list):
        return [_option(item) for item in value]
    return None if value == "None" else _number(value)


def _describe_type(wanted: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Union:
        return " or ".join(_describe_type(argument) for argument in arguments)
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f" of {len(arguments)}"
        return f"a list{count}, each {_describe_type(arguments[0])}"
    return "keys and values" if origin is dict else names[wanted]
