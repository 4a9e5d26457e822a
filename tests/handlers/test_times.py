import weakref
from types import SimpleNamespace

import numpy as np
import torch
from ignite.engine import Engine
from scripts.handlers.times import ReleaseTomogram, StageTimes


def test_stage_times_name_every_stage(caplog):
    caplog.set_level("INFO")
    times, engine = StageTimes(), SimpleNamespace(state=SimpleNamespace(batch=None, output=[{"result": {"run": "D1"}}]))
    times.start(engine)
    for stage in ("read and scale", "network", "pick"):
        times.mark(engine, stage)
    assert list(engine.state.seconds) == ["read and scale", "network", "pick"]  # for the record of the run
    times.report(engine)
    assert np.all([word in caplog.text for word in ("D1: read and scale 0.0 s", "network", "pick", "write", "GiB")])


def test_a_tomogram_is_released_before_the_next_one_is_read():
    alive = []

    class Tomograms:
        def __iter__(self):
            for _ in range(3):
                alive.append([reference() is not None for reference in made])
                yield torch.zeros(2)

    def step(engine, batch):
        answer = batch + 1
        made.append(weakref.ref(answer))
        return answer

    made = []
    engine = Engine(step)
    ReleaseTomogram().attach(engine)
    engine.run(Tomograms())
    assert alive == [[], [False], [False, False]]
