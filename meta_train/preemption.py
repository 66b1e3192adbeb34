"""Notice that a machine of a run is about to be taken away, as spot machines are.

It comes in two ways. Where Ray is told (its autoscaler, KubeRay, SIGTERM to ``ray start --block``),
it tells all workers, and moves them when the time is up. Where it is not, the machine's shutdown
sends SIGTERM to every process. Either way a checkpoint is saved at once and training goes on until
the machine, or the process, is gone; then Ray starts the workers again, elsewhere.
"""

import logging
import os
import signal
import threading
from types import FrameType

from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.context import get_train_context

GRACE_SECONDS = 30.0
"""How long a training process goes on after SIGTERM: long enough to save a checkpoint."""

logger = logging.getLogger(__name__)


class SigtermNotice(WorkerCallback):  # type: ignore[misc]
    """Makes a training process's first SIGTERM a notice; the second one ends it, as Ray has it.

    A process that does not train ends at the first: Ray stops workers with SIGTERM too.
    """

    num_received = 0
    """In this process."""

    def after_init_train_context(self) -> None:
        """Runs in the main thread of each training process: signals are heard only there."""
        before = signal.getsignal(signal.SIGTERM)

        def on_sigterm(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, before)
            if not _is_training():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            SigtermNotice.num_received += 1
            logger.warning("SIGTERM: saving a checkpoint, ending in %g s", GRACE_SECONDS)
            end = threading.Timer(GRACE_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
            end.daemon = True
            end.start()

        signal.signal(signal.SIGTERM, on_sigterm)


def count_notices() -> int:
    """How many notices of its machine's end this training process has had."""
    # Ray's public call for this is a barrier over all workers; the outer step has one already.
    context = get_train_context()
    told = context.preemption_context.preemption_info
    is_mine = told is not None and context.get_world_rank() in told.preempted_ranks
    return SigtermNotice.num_received + is_mine


def _is_training() -> bool:
    return bool(get_train_context().execution_context.training_thread_runner.is_running())
