from types import SimpleNamespace

import numpy as np
from scripts.handlers.times import StageTimes


def test_stage_times_name_every_stage(caplog):
    caplog.set_level("INFO")
    times, engine = StageTimes(), SimpleNamespace(state=SimpleNamespace(batch=None, output=[{"result": {"run": "D1"}}]))
    times.start(engine)
    for stage in ("read and scale", "network", "pick"):
        times.mark(engine, stage)
    assert list(engine.state.seconds) == ["read and scale", "network", "pick"]  # for the record of the run
    times.report(engine)
    assert np.all([word in caplog.text for word in ("D1: read and scale 0.0 s", "network", "pick", "write", "GiB")])
