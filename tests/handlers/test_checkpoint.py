import csv
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from scripts.errors import InputError
from scripts.handlers.checkpoint import TrainingCheckpoint
from scripts.handlers.training_logs import MetricsTable
from scripts.handlers.weights import AverageWeights, GradientClipHandler
from scripts.networks.weights import read_tensors


def test_gradients_are_clipped():
    layer = torch.nn.Linear(1, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[30.0]]), torch.tensor([40.0])
    GradientClipHandler(layer, max_norm=1.0)(None)
    assert torch.allclose(layer.weight.grad, torch.tensor([[0.6]]))
    with pytest.raises(ValueError, match="max_norm must be positive; got 0"):
        GradientClipHandler(layer, 0)


def test_averaged_weights_follow_the_network():
    network, averaged = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    handler = AverageWeights(network, averaged, momentum=0.5)
    with torch.no_grad():
        network.weight.fill_(1.0)
        handler.take_over(None)
        network.weight.fill_(3.0)
    handler(SimpleNamespace(state=SimpleNamespace(iteration=1000)))
    assert averaged.weight.item() == 2.0
    handler(SimpleNamespace(state=SimpleNamespace(iteration=2)))  # young: 10 / 12 of the way
    assert averaged.weight.item() == pytest.approx(2 + 10 / 12)
    assert network.weight.item() == 3.0


def test_averaged_weights_take_over_running_statistics():
    network, averaged = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    network.running_mean.fill_(5.0)
    AverageWeights(network, averaged, 0.1)(SimpleNamespace(state=SimpleNamespace(iteration=1)))
    assert averaged.running_mean.tolist() == [5.0, 5.0]
    assert not averaged.training


@pytest.fixture
def training(tmp_path):
    """A trainer of three epochs with a checkpoint, and a validation whose score the test sets."""

    def make(epochs=3, resume=True, scores=(), width=2, rate=0.1):
        network = torch.nn.Linear(width, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="score"))
        trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(float(batch))}])
        trainer.state.max_epochs = epochs

        @trainer.on(Events.EPOCH_COMPLETED)
        def validate(engine):
            with torch.no_grad():
                network.weight.fill_(engine.state.epoch)
            if scores:
                evaluator.state.epoch = engine.state.epoch
                evaluator.state.metrics = {"score": scores[engine.state.epoch - 1]}

        TrainingCheckpoint(
            str(tmp_path),
            network,
            {"network": network, "optimizer": optimizer},
            schedule,
            {"learning_rate": rate},
            evaluator,
            resume,
        ).attach(trainer)
        MetricsTable(str(tmp_path / "metrics.csv"), evaluator, optimizer).attach(trainer)
        return trainer

    return make


def weight_in(path):
    return read_tensors(path)["weight"][0, 0].item()


def test_the_best_and_the_last_model_are_kept(training, tmp_path):
    training(scores=(0.2, 0.8, 0.5)).run([1, 2], max_epochs=3)
    assert weight_in(tmp_path / "model.pt") == 2
    assert weight_in(tmp_path / "model_last.pt") == 3


def test_without_validation_the_last_model_is_the_best(training, tmp_path):
    training().run([1, 2], max_epochs=3)
    assert weight_in(tmp_path / "model.pt") == 3


def test_a_training_goes_on_where_it_stopped(training, tmp_path):
    training(epochs=1, scores=(0.9,)).run([1, 2], max_epochs=1)
    trainer = training(scores=(0.9, 0.5, 0.6))
    seen = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: seen.append(engine.state.epoch))
    trainer.run([1, 2], max_epochs=3)
    assert seen == [2, 3]
    assert weight_in(tmp_path / "model.pt") == 1  # the best of the first part is remembered


def test_a_complete_training_is_not_replaced_unasked(training):
    training().run([1, 2], max_epochs=3)
    with pytest.raises(InputError, match=r"training.pt is a complete training of 3 epochs: set another output_dir"):
        training().run([1, 2], max_epochs=3)
    training(resume=False).run([1, 2], max_epochs=3)


def test_a_training_does_not_go_on_with_other_settings(training):
    training(epochs=1).run([1, 2], max_epochs=1)
    with pytest.raises(InputError, match=r"training.pt was begun with learning_rate 0.1, now it is 0.5: set another"):
        training(rate=0.5).run([1, 2], max_epochs=3)


def test_a_checkpoint_of_another_network_is_refused(training):
    training(epochs=1).run([1, 2], max_epochs=1)
    with pytest.raises(InputError, match="is of another network or optimizer"):
        training(width=5).run([1, 2], max_epochs=3)


def test_the_table_has_one_row_per_epoch_with_the_mean_loss(training, tmp_path):
    training(scores=(0.2, 0.8, 0.5)).run([1, 2], max_epochs=3)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["loss"] == "1.500000"
    assert rows[1]["score"] == "0.800000"
