"""Quantities as Kubernetes writes them, and what the API server takes as a container's resources."""

import re
from fractions import Fraction
from typing import Any

from jobgen.pod import forms
from minima.errors import told

_DIGITS = "[0-9]{1,99}"
"""More say nothing, and Python reads no number of thousands."""
QUANTITY = re.compile(rf"[+-]?({_DIGITS}(\.[0-9]{{0,99}})?|\.{_DIGITS})([KMGTPE]i|[numkMGTPE]|[eE][+-]?{_DIGITS})?")
UNITS = {
    **{unit: Fraction(1000) ** power for power, unit in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)},
    **{unit: Fraction(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
LARGEST_EXPONENT = 30
"""Numbers above 2^63 are all the same to the server."""
OF_CONTAINERS = ("cpu", "memory", "ephemeral-storage")
HUGE = "hugepages-"
REQUESTS = "requests."
"""What quotas put before a resource's name, which must fit then too."""


def number(quantity: Any) -> Fraction:
    """A quantity that the schema lets through, exactly."""
    text = str(quantity)
    found = QUANTITY.fullmatch(text)
    assert found, text
    suffix = found[3] or ""
    value = Fraction(text.removesuffix(suffix).removesuffix("."))
    if suffix in UNITS:
        return value * UNITS[suffix]
    return value * Fraction(10) ** max(-LARGEST_EXPONENT, min(int(suffix[1:]), LARGEST_EXPONENT))


def is_huge(name: str) -> bool:
    return name.startswith(HUGE)


def is_device(name: str) -> bool:
    """Whether it is a resource that nodes offer by a name of their own, such as GPUs."""
    return "/" in name and "kubernetes.io/" not in name


def name_problem(name: str) -> str:
    """What is wrong with the name of a container's resource, or nothing."""
    if "/" not in name:
        if name in OF_CONTAINERS:
            return ""
        size = name.removeprefix(HUGE) if is_huge(name) else ""
        if QUANTITY.fullmatch(size) and number(size) > 0 and number(size).denominator == 1:
            return ""
        return (
            f"found {told(name)}, which is no resource of Kubernetes' own; {', '.join(OF_CONTAINERS)}, {HUGE}2Mi, or a "
            "name with its domain, such as nvidia.com/gpu, is valid"
        )
    if valid := forms.qualified(name):
        return f"found {told(name)}; {valid}"
    if is_device(name) and (name.startswith(REQUESTS) or forms.qualified(REQUESTS + name)):
        return f"found {told(name)}; a domain of at most 244 characters that does not begin with {REQUESTS} is valid"
    return ""


def amount_problem(name: str, quantity: Any) -> str:
    """What is wrong with how much of a resource of a good name is asked for, or nothing."""
    amount = number(quantity)
    if amount < 0:
        return f"found {told(quantity)}; 0 or more is valid"
    if is_huge(name):
        size = number(name.removeprefix(HUGE))
        if amount % size:
            page = name.removeprefix(HUGE)
            return f"found {told(quantity)}; a multiple of a page of {page}, such as {_next(amount, size)}, is valid"
    elif is_device(name) and amount.denominator != 1:
        return f"found {told(quantity)}; a whole number is valid, for devices are not divided"
    elif name == "cpu":
        return cores_problem(quantity)
    elif amount.denominator != 1:
        return f"found {told(quantity)}, which is {float(amount):g} bytes; whole bytes, such as 64Gi, are valid"
    return ""


def cores_problem(quantity: Any) -> str:
    """What is wrong with a number of CPUs; the server lets it pass, and nobody means it."""
    if str(quantity).endswith("i"):
        return f"found {told(quantity)}, a size of memory; a number of CPUs such as 16 or 500m is valid"
    if number(quantity) % Fraction(1, 1000):
        return f"found {told(quantity)}; a thousandth of a CPU, 1m, is the smallest part"
    return ""


def _next(amount: Fraction, size: Fraction) -> str:
    """The smallest multiple of a page that is enough, as people write it."""
    whole = int(-(-amount // size) * size)
    unit = max((unit for unit in ("", "Ki", "Mi", "Gi") if whole % UNITS[unit] == 0), key=UNITS.__getitem__)
    return f"{whole // int(UNITS[unit])}{unit}"
