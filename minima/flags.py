"""Command lines and YAML values to options, and back; all checks of single options are here.

The definitions are in options.py. An error names the option, what was found and what is valid.
"""

import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field
from typing import Any

from minima.errors import UsageError, did_you_mean, told
from minima.options import REFUSED, Options, decides, fields, split_digest

Kind = typing.Literal["str", "int", "float", "bool", "strings", "floats"]
WORDS: dict[Kind, str] = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "strings": "a list of strings",
    "floats": "a list of numbers",
}
_LISTS = ("strings", "floats")


def kind(field: Field[Any]) -> Kind:
    """The type of an option's value."""
    if isinstance(field.type, types.GenericAlias):
        return "strings" if typing.get_args(field.type)[0] is str else "floats"
    name: Kind = typing.cast(type, field.type).__name__  # type: ignore[assignment]
    return name


def build(cls: type[Options], values: Mapping[str, Any], place: Callable[[str], str]) -> Options:
    """Make the options of `cls` from values as YAML gives them.

    Args:
        cls: which options.
        values: name to value.
        place: for an option's name, where it stands, such as `pipeline.yaml:12: stages.adapt.options.seed`.

    Raises:
        UsageError: an unknown or missing name, a wrong type, a value out of range, values that do not go together; one
            line for each.
    """
    known = {f.name: f for f in fields(cls)}
    errors = [f"{place(name)}: {unknown(cls, name)}" for name in values if name not in known]
    checked: dict[str, Any] = {}
    for name, field in known.items():
        if name in values:
            try:
                checked[name] = _checked(field, values[name])
            except UsageError as error:
                errors.append(f"{place(name)}: {error}")
        elif field.default is MISSING:
            errors.append(f"{place(name)}: missing; {field.metadata['help']}")
    if errors:
        raise UsageError("\n".join(errors))
    options = cls(**checked)
    if errors := [f"{place(name)}: {what}" for name, what in options.problems()]:
        raise UsageError("\n".join(errors))
    return options


def unknown(cls: type[Options], name: str) -> str:
    """What to say of an option that `cls` has not."""
    if name in REFUSED:
        return f"no such option: {REFUSED[name]}"
    return f"no such option of {cls.verb}; {did_you_mean(name, [f.name for f in fields(cls)])}"


def parse(cls: type[Options], argv: Sequence[str]) -> Options:
    """Parse a command line: `--name value`, `--name=value`, `--name` and `--no-name` for switches.

    A list takes every value up to the next flag.

    Raises:
        UsageError: as `build`, and for words that belong to no flag.
    """
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"{word!r}: a value without a flag; flags are --name value (`minima {cls.verb} --help`)")
        name, equals, attached = word[2:].partition("=")
        off = name.startswith("no-") and name[3:] in known and kind(known[name[3:]]) == "bool"
        name = name[3:] if off else name
        if name not in known:
            raise UsageError(f"--{name}: {unknown(cls, name)}")
        if name in values:
            raise UsageError(f"--{name}: given twice")
        what = kind(known[name])
        if what == "bool":
            if equals:
                raise UsageError(f"--{name}: a switch takes no value; write --{name} or --no-{name}")
            values[name] = not off
            continue
        given = [attached] if equals else []
        while not equals and words and not words[0].startswith("--") and (what in _LISTS or not given):
            given.append(words.pop(0))
        if not given and what not in _LISTS:
            raise UsageError(f"--{name}: a value is missing; {WORDS[what]} is valid")
        found = [_number(name, what, word) for word in given]
        values[name] = found if what in _LISTS else found[0]
    return build(cls, values, lambda name: f"--{name}")


def argv(options: Options) -> list[str]:
    """The command line that gives these options: all of the identity, and of the execution what is not the default."""
    words: list[str] = []
    for field in fields(type(options)):
        value = getattr(options, field.name)
        if value == field.default and (not decides(options, field.name) or value in ("", ())):
            continue
        match kind(field):
            case "bool":
                words.append(f"--{field.name}" if value else f"--no-{field.name}")
            case "strings":
                words += [f"--{field.name}", *value]
            case "floats":
                words += [f"--{field.name}", *map(repr, value)]
            case "float":
                words += [f"--{field.name}", repr(value)]
            case _ if str(value).startswith("--") or value == "":
                words.append(f"--{field.name}={value}")
            case _:
                words += [f"--{field.name}", str(value)]
    return words


def usage(cls: type[Options]) -> str:
    """The help text of a stage."""
    lines = [f"usage: minima {cls.verb} --flag value … --switch (on) --no-switch (off) …", "", cls.summary, ""]
    for title, execution in (
        ("what the result is:", False),
        ("how it is made (a change resumes, it never starts again):", True),
    ):
        lines.append(title)
        for field in fields(cls):
            if field.metadata["execution"] is execution:
                switch = kind(field) == "bool"
                form = f"--{field.name} / --no-{field.name}" if switch else f"--{field.name} {_valid(field)}"
                lines += [f"  {form}", f"        {field.metadata['help']} ({_default(field)})"]
        lines.append("")
    return "\n".join(lines)


def _number(name: str, what: Kind, word: str) -> Any:
    if what in {"str", "strings"}:
        return word
    try:
        return int(word) if what == "int" else float(word)
    except ValueError:
        raise UsageError(f"--{name}: found {word!r}; {WORDS[what]} is valid") from None


def _checked(field: Field[Any], value: Any, item: Kind | None = None) -> Any:
    """The value as the option's type, or as that of an item of a list; UsageError with what was found and what is valid."""
    what = item or kind(field)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UsageError(f"found a number of {value.bit_length()} bits; {_valid(field)} of less than 64 is valid")
    match what, value:
        case "float", bool():
            pass
        case "float", int() | float():
            return _in_range(field, float(value))
        case "float" | "int", str() if _is_number(value):
            raise UsageError(f"found the string {value!r}; write the number {_yaml_number(value)}")
        case "int", int() if not isinstance(value, bool):
            return _in_range(field, value)
        case "bool", bool():
            return value
        case "str", str():
            return _in_choices(field, value)
        case "strings", str() if field.metadata["pinned"] or field.metadata["input"]:  # Most often there is one.
            return (_checked(field, value, "str"),)
        case "strings", list() | tuple() if all(isinstance(v, str) for v in value):
            if field.metadata["input"] and not value:
                raise UsageError("found an empty list; a path is valid")
            return tuple(_checked(field, v, "str") for v in value)
        case "floats", list() | tuple():
            return tuple(_checked(field, v, "float") for v in value)
    raise UsageError(f"found {told(value)}; {_valid(field)} is valid")


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _yaml_number(word: str) -> str:
    """The number in a form that YAML 1.1 reads as one: it takes 3e-4 for a string, 3.0e-4 not."""
    mantissa, e, exponent = word.strip().lower().partition("e")
    if not e:
        return f"{word.strip()} without quotes"
    sign = "" if exponent[0] in "+-" else "+"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent} (YAML 1.1 reads {word} as a string)"


def _in_range(field: Field[Any], value: float) -> float:
    low, above, high = (field.metadata[k] for k in ("minimum", "above", "maximum"))
    if not math.isfinite(value) or (low is not None and value < low):
        raise UsageError(f"found {told(value)}; {_valid(field)} is valid")
    if (above is not None and value <= above) or (high is not None and value > high):
        raise UsageError(f"found {told(value)}; {_valid(field)} is valid")
    return value


def _in_choices(field: Field[Any], value: str) -> str:
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise UsageError(f"found {value!r}; {did_you_mean(value, choices)}")
    if field.metadata["input"]:
        split_digest(value)
        if not value and field.default is MISSING:
            raise UsageError("found an empty path; a path is valid")
    if "\0" in value:
        raise UsageError("found a NUL character; text without it is valid")
    return value


def _valid(field: Field[Any]) -> str:
    if field.metadata["choices"]:
        return "|".join(field.metadata["choices"])
    words = WORDS[kind(field)]
    low, above, high = (field.metadata[k] for k in ("minimum", "above", "maximum"))
    bounds = [f"{sign} {bound}" for sign, bound in ((">=", low), (">", above), ("<=", high)) if bound is not None]
    return f"{words} {' and '.join(bounds)}" if bounds else words


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return "required"
    if isinstance(field.default, bool):
        return f"default: --{'' if field.default else 'no-'}{field.name}"
    shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"default: {'empty' if shown == '' else shown}"
