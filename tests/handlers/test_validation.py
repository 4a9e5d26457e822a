import json
from pathlib import Path

import pytest
from ignite.engine import Engine
from monai.engines import Evaluator
from scripts.errors import InputError
from scripts.handlers.validation import ValidateEpochs

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"


class Counted(Evaluator):
    """A validation engine that only notes when it is run."""

    def __init__(self):
        super().__init__(device="cpu", val_data_loader=[0])
        self.epochs = []

    def run(self, global_epoch=1):
        self.epochs.append(global_epoch)


@pytest.mark.parametrize(
    ("interval", "last", "validated"), [(5, 3, [3]), (5, 12, [5, 10, 12]), (5, 10, [5, 10]), (1, 2, [1, 2]), (0, 3, [])]
)
def test_a_training_is_validated_after_every_interval_and_its_last_epoch(interval, last, validated):
    validator, trainer = Counted(), Engine(lambda engine, batch: None)
    ValidateEpochs(validator, interval).attach(trainer)
    trainer.run([0], max_epochs=last)
    assert validator.epochs == validated


@pytest.mark.parametrize("interval", [-1, 2.5])
def test_an_interval_that_is_no_number_of_epochs_is_refused(interval):
    with pytest.raises(InputError, match=f"val_interval is a whole number, 0 or more; got {interval}"):
        ValidateEpochs(Counted(), interval)


def test_the_training_validates_with_its_own_evaluator_and_interval():
    handlers = json.loads((BUNDLE / "configs" / "train.json").read_text())["train"]["handlers"]
    (validation,) = (one for one in handlers if one["_target_"].endswith("ValidateEpochs"))
    assert (validation["validator"], validation["interval"]) == ("@validate#evaluator", "@val_interval")
