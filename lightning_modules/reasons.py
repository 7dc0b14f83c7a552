"""What jsonargparse and the classes that it builds say of an option, in one line."""

from __future__ import annotations

import re

#: Beginnings of the lines that jsonargparse wraps around what is wrong with an option.
WRAPPING = (
    "Does not validate against", "Errors:", "Expected a <class 'NoneType'>", "Expected a path but", "Given value",
    "Problem with given class_path", "Subtypes:",
)  # fmt: skip
#: Characters of a reason.
_LONGEST = 300


def option_reason(error: Exception) -> str:
    """The part of an error's message that tells what is wrong with which option, without a full stop."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    keys = [found for line in lines for found in re.findall(r'^Parser key "([^"]*)"', line)]
    said = [re.sub(r'^Parser key "[^"]*":\s*', "", line) for line in lines]
    said = [line for line in said if line and not line.startswith(WRAPPING)]
    reason = said[-1] if said else (lines[0] if lines else type(error).__name__)
    reason = re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", reason)
    reason = re.sub(r"Expected a <class '(\w+)'>", r"expected \1", reason)
    given = next((line for line in lines if line.startswith("Given value: ")), "")
    if given and "expected" in reason and "Got value" not in reason and len(given) < 80:
        reason = f"{reason}. {given}"
    if keys and keys != ["config"]:
        reason = f"{'.'.join(keys)}: {reason}"
    if isinstance(error, ArithmeticError | RuntimeError):
        reason = f"these options do not go together ({reason})"
    return reason[:_LONGEST].rstrip(".!")
