"""When a training is validated."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler

from scripts.settings import check_setting


class ValidateEpochs(ValidationHandler):
    """Validate after every so many epochs, and after the last one.

    Args:
        validator: the validation engine.
        interval: epochs between validations; 0 for no validation.

    Raises:
        InputError: the interval is no whole number from 0.
    """

    def __init__(self, validator: Evaluator, interval: int) -> None:
        check_setting("val_interval", interval)
        super().__init__(interval, validator)

    def attach(self, engine: Engine) -> None:
        if self.interval:
            engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=self.is_due), self)

    def is_due(self, engine: Engine, epoch: int) -> bool:
        """Return whether an epoch is followed by a validation."""
        return epoch % self.interval == 0 or epoch == engine.state.max_epochs
