from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from scripts.handlers.checkpoint import TrainingCheckpoint
from scripts.handlers.training_logs import MetricsTable
from scripts.networks.recipe import recorded
from scripts.training.spheres import Spheres
from synthetic import make_species


@recorded()
class Line(torch.nn.Linear):
    """A network of one weight or more."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)


@pytest.fixture
def training(tmp_path):
    """A trainer of three epochs with a checkpoint, and a validation whose score the test sets."""

    def make(epochs=3, resume=True, scores=(), width=2, rate=0.1, taken_over=None, started_from=None, weights=()):
        network = Line(width, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="score"))
        trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(float(batch))}])
        trainer.state.max_epochs = epochs

        @trainer.on(Events.EPOCH_COMPLETED)
        def validate(engine):
            with torch.no_grad():
                network.weight.fill_(weights[engine.state.epoch - 1] if weights else engine.state.epoch)
            if scores:
                evaluator.state.epoch = engine.state.epoch
                evaluator.state.metrics = {"score": scores[engine.state.epoch - 1]}

        TrainingCheckpoint(
            str(tmp_path), network, {"network": network, "optimizer": optimizer}, schedule, {"learning_rate": rate},
            make_species(2), Spheres(), (16, 24, 24), SimpleNamespace(data=[{"run": "one", "image": "one.mrc"}]),
            [{"image": "a.mrc", "run": "held"}, {"image": "best"}], evaluator,
            started_from=started_from, taken_over=taken_over, resume=resume,
        ).attach(trainer)  # fmt: skip
        MetricsTable(str(tmp_path / "metrics.csv"), evaluator, optimizer).attach(trainer)
        return trainer

    return make
