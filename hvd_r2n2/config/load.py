"""Strict loading: YAML and dotted overrides into the dataclasses, every mistake with its key and its remedy."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from hvd_r2n2.config.checks import check_config
from hvd_r2n2.config.sections import Config


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file (none: the built-in recipe), apply `section.key=value` overrides, check the whole.

    Values of overrides are YAML too: `data.categories=[chair,table]`, `train.clip_norm=null`.

    Raises:
        ValueError: an unknown key (with the nearest known one), a wrong type, an impossible value, or a
            setting that would be ignored.
        OSError: the file cannot be read.
    """
    mapping = {} if path is None else _read_mapping(Path(path))
    for override in overrides:
        _apply_override(mapping, override)
    source = "--set" if path is None else f"{path} with --set" if overrides else str(path)
    return config_from_mapping(mapping, source)


def with_overrides(config: Config, overrides: Sequence[str], source: str) -> Config:
    """Return the settings with `section.key=value` overrides, checked as `load_config` does; `source` names them."""
    mapping = to_mapping(config)
    for override in overrides:
        _apply_override(mapping, override)
    return config_from_mapping(mapping, source)


def config_from_mapping(mapping: Mapping[str, Any], source: str) -> Config:
    """Build and check a Config from plain data; `source` names its origin in messages."""
    config: Config = _build(Config, mapping, (), source)
    try:
        check_config(config)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return config


def to_mapping(config: Config) -> dict[str, Any]:
    """Return the settings as plain data (lists, not tuples) that `config_from_mapping` reads back."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def to_yaml(config: Config) -> str:
    """Return the settings as YAML that `load_config` reads back."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


_MAX_FILE_BYTES = 1 << 20
_MAX_ALIASES = 16
_MERGE = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """Plain data only, no key twice (YAML's own rule, which PyYAML does not keep), and few aliases.

    Aliases of aliases, and merges of merges, grow exponentially: a file of some lines could fill the memory.
    """

    num_aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, refusing one alias too many."""
        if self.check_event(yaml.AliasEvent):
            self.num_aliases += 1
            if self.num_aliases > _MAX_ALIASES:
                raise yaml.composer.ComposerError(None, None, f"more than {_MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing a key that is there already."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        counts = Counter(key for key in keys if isinstance(key, Hashable))
        twice = next((key for key, count in counts.items() if count > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {twice!r}", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = f"{error.strerror} (settings are a YAML file, such as configs/demo.yaml)"
        raise OSError(error.errno, reason, str(path)) from None
    if len(text) > _MAX_FILE_BYTES:
        raise ValueError(f"{path}: larger than {_MAX_FILE_BYTES:,} bytes, which no file of settings is")
    try:
        content = yaml.load(text.decode("utf-8"), Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from None
    except Exception as error:  # of the values with tags, such as !!int, PyYAML's constructors raise many kinds
        raise ValueError(f"{path}: not valid YAML: {str(error) or type(error).__name__}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a mapping of sections (model:, data:, …) is needed, this is a {_name(content)}")
    return content


def _apply_override(mapping: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or len(keys) != 2 or not all(keys):
        raise ValueError(f"--set {override}: write section.key=value, such as train.steps=500")
    try:
        value = yaml.safe_load(text)
    except Exception as error:  # many kinds, as from a file
        raise ValueError(
            f"--set {override}: the value is not valid YAML: {str(error) or type(error).__name__}"
        ) from None
    section = mapping.setdefault(keys[0], {})
    if section is None:
        section = mapping[keys[0]] = {}
    if not isinstance(section, dict):
        raise ValueError(f"--set {override}: {keys[0]} is not a section in the file")
    section[keys[1]] = value


def _build(cls: type[Any], mapping: Any, prefix: tuple[str, ...], source: str) -> Any:
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{source}: {'.'.join(prefix)}: a mapping of settings is needed, this is a {_name(mapping)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in mapping.items():
        dotted = ".".join((*prefix, str(key)))
        if key not in hints:
            raise ValueError(f"{source}: unknown key {dotted}{_suggestion(str(key), prefix)}")
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(typing.cast(type[Any], hints[key]), value, (*prefix, str(key)), source)
        else:
            try:
                values[key] = _convert(value, hints[key])
            except ValueError as error:
                raise ValueError(f"{source}: {dotted}: {error}") from None
    return cls(**values)


def _suggestion(key: str, prefix: tuple[str, ...]) -> str:
    known = [(section.name, item.name) for section in dataclasses.fields(Config) for item in _items(section)]
    if prefix:
        here = [name for section, name in known if section == prefix[0]]
        elsewhere = [f"{section}.{name}" for section, name in known if name == key]
        near = elsewhere or [f"{prefix[0]}.{name}" for name in difflib.get_close_matches(key, here, 1, 0.5)]
        return f" (did you mean {near[0]}?)" if near else f" (known in {prefix[0]}: {', '.join(here)})"
    sections = [section.name for section in dataclasses.fields(Config)]
    near = difflib.get_close_matches(key, sections, 1, 0.5) or [f"{s}.{name}" for s, name in known if name == key]
    return f" (did you mean {near[0]}?)" if near else f" (known sections: {', '.join(sections)})"


def _items(section: dataclasses.Field[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(typing.get_type_hints(Config)[section.name])


def _convert(value: Any, hint: Any) -> Any:
    """Return `value` as `hint` wants it; only int → float and list → tuple are changed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert_any(value, [argument for argument in arguments if argument is not type(None)])
    if origin is Literal:
        if not any(value == argument and type(value) is type(argument) for argument in arguments):
            near = difflib.get_close_matches(str(value), [str(argument) for argument in arguments], 1, 0.4)
            hinted = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{value!r} is not possible (one of {', '.join(map(str, arguments))}{hinted})")
        return value
    if origin is tuple:
        return _convert_list(value, arguments)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"a whole number of {len(str(value))} digits is too large") from None
    if hint is float and isinstance(value, str):
        return _number_in_text(value)
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise ValueError(f"a {_TYPE_NAMES[hint]} is needed, {value!r} is a {_name(value)}")
    return value


def _convert_any(value: Any, hints: Sequence[Any]) -> Any:
    """Return `value` as the first of `hints` that it fits wants it."""
    problems = []
    for hint in hints:
        try:
            return _convert(value, hint)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; or ".join(problems))


def _number_in_text(value: str) -> float:
    """YAML 1.1 reads 1e-3 as text, since it has no dot: take it for the number it is."""
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"a number is needed, {value!r} is a text") from None


def _convert_list(value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"a list is needed, {value!r} is a {_name(value)}")
    if arguments[-1] is Ellipsis:
        return tuple(_convert(item, arguments[0]) for item in value)
    if len(value) != len(arguments):
        raise ValueError(f"a list of {len(arguments)} is needed, {list(value)!r} has {len(value)}")
    return tuple(_convert(item, argument) for item, argument in zip(value, arguments, strict=True))


_TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    list: "list",
    dict: "mapping",
    type(None): "null",
}


def _name(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), type(value).__name__)
