"""What of the environment is a credential, which must not stand in a file that is committed: told by its name or its value."""

import re
from collections.abc import Iterator
from typing import Any

NAMES = re.compile(
    r"(?:.*_)?(?:[A-Z0-9]*(?:PASSWORD|PASSWD|PASSPHRASE)|(?:API|ACCESS|SECRET|PRIVATE)?KEY|TOKEN|SECRET|CREDENTIALS?)(?:_.*)?"
    r"|(?:.*_)?(?:[A-Z0-9]*SECRET|[A-Z0-9]*TOKEN|PASS|PAT)|.*_PWD"
)
"""Of variables, in capitals: the first line anywhere among the words between _, the second as the last of them."""
HARMLESS_ENDS = ("_PATH", "_FILE", "_DIR", "_NAME", "_ID", "_URL", "_TYPE", "_LENGTH", "_SIZE")
"""Names that say where a credential is, or what it is like."""
HARMLESS = re.compile(r"|0|1|true|false|yes|no|on|off|none|empty|\$\(\w+\)|\$\w+|\$\{\w+\}", re.IGNORECASE)
"""Values that are a switch, say that there is none, as servers of one's own want it, or name a variable, whatever the name."""
NOTES = re.compile(r".*(?:PASSWORD|PASSWD|PASSPHRASE|TOKEN|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY)")
"""Of labels, annotations and attributes, fewer: others have names such as agent-inject-secret-config, and say where one is."""
WORDS = (
    re.compile(r"(?<![\w-])(?:--?)?([A-Za-z][\w-]*)=['\"]?([^\s;&|'\"]+)"),
    re.compile(r"(?<![\w-])--?([A-Za-z][\w-]*)\s+['\"]?([^\s;&|'\"-][^\s;&|'\"]*)"),
)
"""A name and its value in a command line."""
IN_GIT = "a literal credential stands in Git for ever; a variable takes it from a Secret: `valueFrom: {secretKeyRef: …}`"
VALUES = re.compile(
    r"(?<![\w.-])(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|AIza[\w-]{30,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])|eyJ[\w-]+\.eyJ[\w-]+)"
    r"|(?<![\w./-])sk-[\w-]{20,}"  # Not in a path.
    r"|\bBearer \S|\bBasic (?=\S*[0-9=])[\w+/=]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r'|"private_key"\s*:'
    r"|://[^/\s@:]*:(?!\$\(\w+\)@)[^/\s@]+@"  # A password in a URL, but for a variable of the kubelet's.
)
"""Anywhere in a value: what well-known services hand out, keys, and URLs with a login."""


def literal(name: str, value: str) -> bool:
    """Whether a variable's value is, by its looks, a credential."""
    if VALUES.search(value):
        return True
    told = name.upper()
    return bool(NAMES.fullmatch(told)) and not told.endswith(HARMLESS_ENDS) and not HARMLESS.fullmatch(value)


def noted(name: str, value: str) -> bool:
    """Whether the value of a label, an annotation or a driver's attribute, is by its looks a credential."""
    if VALUES.search(value):
        return True
    told = _variable(name.rpartition("/")[2])
    plain = HARMLESS.fullmatch(value) or value.isdecimal() or "/" in value
    return bool(NOTES.fullmatch(told)) and not plain


def inside(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Where a fragment of a pod holds a credential by its looks, but for its variables, whose names say more."""
    if isinstance(value, str) and VALUES.search(value):
        yield path
    for key, item in value.items() if isinstance(value, dict) else ():
        here = (*path, key)
        if key in {"annotations", "labels", "volumeAttributes", "options"} and isinstance(item, dict):
            yield from ((*here, name) for name, text in item.items() if isinstance(text, str) and noted(name, text))
        elif key in {"command", "args"} and isinstance(item, list):
            yield from ((*here, str(number)) for number in _words(item))
        elif key != "env":
            yield from inside(item, here)
    for number, item in enumerate(value) if isinstance(value, list) else ():
        yield from inside(item, (*path, str(number)))


def _words(words: list[Any]) -> Iterator[int]:
    """The numbers of the words of a command line that hold a credential: --token=…, --token …, export TOKEN=…."""
    for number, word in enumerate(words):
        if not isinstance(word, str):
            continue  # Whoever reads the list says so.
        before = words[number - 1] if number and re.fullmatch(r"--?[A-Za-z][\w-]*", str(words[number - 1])) else ""
        pairs = [(before.lstrip("-"), word)] if before and not word.startswith("-") else []
        pairs += [pair for pattern in WORDS for pair in pattern.findall(word)]
        if VALUES.search(word) or any(literal(_variable(name), text) and not text.startswith("$") for name, text in pairs):
            yield number


def _variable(name: str) -> str:
    """A name as variables have them."""
    return re.sub("[^A-Z0-9]", "_", name.upper())
