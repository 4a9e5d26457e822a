"""Time of each stage, and memory."""

from __future__ import annotations

import logging
import sys
from resource import RUSAGE_SELF, getrusage
from time import perf_counter

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from scripts.handlers.finished_sample import samples_of
from scripts.memory import return_freed_memory

logger = logging.getLogger(__name__)


class StageTimes:
    """After every tomogram, log the time of each stage and the peak memory so far; must be the last handler.

    Meanwhile, the engine's ``state.seconds`` holds the time of the stages that are complete.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.start)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self.mark, "read and scale")
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.mark, "network")
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.mark, "pick")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.report)

    def start(self, engine: Engine) -> None:
        self.last = perf_counter()
        self.stages: dict[str, float] = {}
        engine.state.seconds = self.stages  # type: ignore[attr-defined]

    def mark(self, engine: Engine, stage: str) -> None:
        """Store the time since the last mark."""
        now = perf_counter()
        self.stages[stage], self.last = now - self.last, now

    def report(self, engine: Engine) -> None:
        self.mark(engine, "write")
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.stages.items())
        run = samples_of(engine)[0]["result"]["run"]
        logger.info("%s: %s; peak memory %.2f GiB", run, stages, peak_memory_gib())


class ReleaseTomogram:
    """Before a tomogram is read, release what the engine still holds of the one before, so that both never add up."""

    def attach(self, engine: Engine) -> None:
        """Attach to the event before a tomogram is read."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Release the output; Ignite has released the batch."""
        engine.state.output = None
        return_freed_memory()


def peak_memory_gib() -> float:
    """Return the peak memory of this process."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return getrusage(RUSAGE_SELF).ru_maxrss / unit
