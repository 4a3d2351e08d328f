"""tools/train.py in several processes, one of which may be hit.

worker.py die|SIGTERM|SIGKILL|none RANK BATCH ARGUMENTS
"""

from __future__ import annotations

import os
import signal
import sys

from paddlevit import cli, runtime

runtime.prepare(1)

from paddlevit.training import Trainer  # noqa: E402
from tests.training.toy import load_tool  # noqa: E402

_WHAT, _RANK, _BATCH = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
_PLAIN = Trainer.train_batch
_SEEN: list[int] = []


def train_batch(self: Trainer, *args: object, **options: object) -> object:
    """A batch, before which the process may be hit."""
    _SEEN.append(1)
    if _WHAT != "none" and self.rank == _RANK and len(_SEEN) == _BATCH:
        if _WHAT == "die":
            raise RuntimeError("a cosmic ray hit this process")
        os.kill(os.getpid(), getattr(signal, _WHAT))
    return _PLAIN(self, *args, **options)


if __name__ == "__main__":
    Trainer.train_batch = train_batch
    cli.run(lambda: load_tool("train").main(sys.argv[4:]))
