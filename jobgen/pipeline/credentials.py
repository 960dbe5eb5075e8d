"""What of the environment is a credential, which must not stand in a file that is committed: told by its name or its value."""

import re

NAMES = re.compile(
    r"(?:.*_)?(?:[A-Z0-9]*(?:PASSWORD|PASSWD|PASSPHRASE)|(?:API|ACCESS|SECRET|PRIVATE)?KEY|TOKEN|SECRET|CREDENTIALS?)(?:_.*)?"
    r"|(?:.*_)?(?:[A-Z0-9]*SECRET|[A-Z0-9]*TOKEN|PASS|PAT)|.*_PWD"
)
"""Of variables, in capitals: the first line anywhere among the words between _, the second as the last of them."""
HARMLESS_ENDS = ("_PATH", "_FILE", "_DIR", "_NAME", "_ID", "_URL", "_TYPE", "_LENGTH", "_SIZE")
"""Names that say where a credential is, or what it is like."""
HARMLESS = re.compile(r"|0|1|true|false|yes|no|on|off|none|empty", re.IGNORECASE)
"""Values that are a switch or say that there is none, as servers of one's own want it, whatever the name."""
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
