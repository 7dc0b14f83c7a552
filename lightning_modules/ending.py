"""How a command ends when it is asked to while it trains."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning.utilities.exceptions import SIGTERMException

#: Exit status of a process that a SIGTERM ended, by the shell's convention (128 + 15).
TERMINATED = 143


@contextmanager
def ended_by_signals(advice: str) -> Iterator[None]:
    """Gives a training that a signal ended the status of any other process, for Lightning's own tell nothing of a signal.

    Args:
        advice: what to do then, in half a sentence.

    Raises:
        SystemExit: the process was asked to end (SIGTERM); its status is :data:`TERMINATED`.
        KeyboardInterrupt: so was it by Ctrl-C (SIGINT).
    """
    try:
        yield
    except SIGTERMException:
        print(f"framefill: ended by SIGTERM; {advice}", file=sys.stderr)
        sys.exit(TERMINATED)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            print(f"framefill: ended by Ctrl-C; {advice}", file=sys.stderr)
            raise KeyboardInterrupt from ended
        raise
