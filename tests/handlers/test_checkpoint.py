from types import SimpleNamespace

import pytest
from ignite.engine import Events
from scripts.atomic_files import take_lock
from scripts.errors import InputError
from scripts.handlers.checkpoint import run_training
from scripts.networks.model_card import checked_card, uses_of_weights
from scripts.networks.weights import read_tensors, save_tensors
from synthetic import make_species, tiny_network, write_weights


def weight_in(path):
    return read_tensors(path)["weight"][0, 0].item()


def test_the_best_and_the_last_model_are_kept(training, tmp_path):
    training(scores=(0.2, 0.8, 0.5)).run([1, 2], max_epochs=3)
    assert weight_in(tmp_path / "model.pt") == 2
    assert weight_in(tmp_path / "model_last.pt") == 3


def test_of_equal_scores_the_later_weights_are_kept(training, tmp_path):
    training(scores=(0.0, 0.0, 0.0)).run([1, 2], max_epochs=3)
    assert weight_in(tmp_path / "model.pt") == 3


def test_without_validation_the_last_model_is_the_best(training, tmp_path):
    training().run([1, 2], max_epochs=3)
    assert weight_in(tmp_path / "model.pt") == 3


def test_weights_that_are_no_numbers_are_not_written(training, tmp_path):
    with pytest.raises(InputError, match="weights are no numbers any more after step 4: they are not written"):
        training(weights=(1.0, float("nan"), 3.0)).run([1, 2], max_epochs=3)
    assert weight_in(tmp_path / "model.pt") == weight_in(tmp_path / "model_last.pt") == 1


@pytest.mark.parametrize(("scores", "said"), [((0.0,) * 3, "best validation"), ((), "last epoch, not validated")])
def test_the_log_says_which_epoch_the_model_is_of(scores, said, training, tmp_path, caplog):
    with caplog.at_level("INFO"):
        training(scores=scores).run([1, 2], max_epochs=3)
    assert f"{tmp_path / 'model.pt'} ({said}) and model_last.pt" in caplog.text


def test_a_training_goes_on_where_it_stopped(training, tmp_path):
    training(epochs=1, scores=(0.9,)).run([1, 2], max_epochs=1)
    trainer = training(scores=(0.9, 0.5, 0.6))
    seen = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: seen.append(engine.state.epoch))
    trainer.run([1, 2], max_epochs=3)
    assert seen == [2, 3]
    assert weight_in(tmp_path / "model.pt") == 1  # the best of the first part is remembered


def test_a_training_removes_what_a_killed_one_left_half_written(training, tmp_path):
    for name in ("model_last.pt", "metrics.csv"):
        (tmp_path / f".{name}.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / ".notes.tmp").write_text("mine")
    training(epochs=1).run([1, 2], max_epochs=1)
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [".notes.tmp"]


def test_a_folder_is_locked_as_long_as_its_training_runs(tmp_path):
    free = []

    def look():
        with open(tmp_path / ".training.lock") as lock:
            free.append(take_lock(lock))

    run_training(SimpleNamespace(run=look), str(tmp_path))
    look()
    assert free == [False, True]


def test_a_complete_training_is_not_replaced_unasked(training):
    training().run([1, 2], max_epochs=3)
    with pytest.raises(InputError, match=r"training.pt is a complete training of 3 epochs: set another output_dir"):
        training().run([1, 2], max_epochs=3)
    training(resume=False).run([1, 2], max_epochs=3)


def test_a_training_does_not_go_on_with_other_settings(training):
    training(epochs=1).run([1, 2], max_epochs=1)
    with pytest.raises(
        InputError, match=r"training.pt was begun with other settings: learning_rate was 0.1, now it is 0.5"
    ):
        training(rate=0.5).run([1, 2], max_epochs=3)


def test_a_checkpoint_of_another_network_is_refused(training):
    training(epochs=1).run([1, 2], max_epochs=1)
    with pytest.raises(InputError, match="is of another network or optimizer"):
        training(width=5).run([1, 2], max_epochs=3)


def test_the_models_have_a_card_that_says_what_they_are(training, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/lib/monai/bundle/__main__.py", "run", "training", "--epochs", "3"])
    training(scores=(0.2, 0.8, 0.5)).run([1, 2], max_epochs=3)
    best, last = (checked_card(tmp_path / name) for name in ("model.pt", "model_last.pt"))
    assert (best["steps"], best["validation_score"]) == (4, 0.8)
    assert (last["steps"], last["validation_score"]) == (6, 0.5)
    assert (last["trained_on"], last["window_size"], last["started_from"]) == (["one"], [16, 24, 24], None)
    assert last["network_def"]["in_features"] == 2
    assert list(last["species"]) == ["a", "b"]
    assert last["command"] == "python -m monai.bundle run training --epochs 3"


def test_the_runs_behind_the_weights_at_the_start_are_trained_on_too(training, tmp_path):
    before = write_weights(
        tmp_path / "before" / "model.pt", tiny_network(), make_species(2), trained_on=["one", "zero"]
    )
    training(epochs=1, started_from=before).run([1, 2], max_epochs=1)
    assert checked_card(tmp_path / "model_last.pt")["trained_on"] == ["one", "zero"]
    training().run([1, 2], max_epochs=3)  # resumed without them
    assert checked_card(tmp_path / "model_last.pt")["trained_on"] == ["one", "zero"]


def test_the_validation_runs_selected_the_best_model_and_not_the_last(training, tmp_path):
    training(epochs=1).run([1, 2], max_epochs=1)  # without a score the best is the last, too
    assert [checked_card(tmp_path / name)["selected_on"] for name in ("model.pt", "model_last.pt")] == [[], []]
    training(resume=False, scores=(0.2, 0.8, 0.5)).run([1, 2], max_epochs=3)
    best, last = (tmp_path / name for name in ("model.pt", "model_last.pt"))
    assert (checked_card(best)["selected_on"], checked_card(last)["selected_on"]) == (["best", "held"], [])
    assert uses_of_weights(best)[f"selected_on in {tmp_path / 'model.json'}"] == ["best", "held"]


def test_the_runs_that_selected_the_weights_at_the_start_are_passed_on(training, tmp_path):
    before = write_weights(tmp_path / "before" / "model.pt", tiny_network(), make_species(2), selected_on=["early"])
    training(epochs=1, started_from=before, scores=(0.2,)).run([1, 2], max_epochs=1)
    assert checked_card(tmp_path / "model_last.pt")["selected_on"] == ["early"]
    training(scores=(0.2, 0.8, 0.5)).run([1, 2], max_epochs=3)  # resumed without them
    found = [checked_card(tmp_path / name)["selected_on"] for name in ("model.pt", "model_last.pt")]
    assert found == [["best", "early", "held"], ["early"]]


def test_a_training_that_another_program_started_has_no_command(training, tmp_path):
    training().run([1, 2], max_epochs=3)
    assert checked_card(tmp_path / "model.pt")["command"] is None


def test_a_checkpoint_of_an_older_version_is_refused(training, tmp_path):
    training(epochs=1).run([1, 2], max_epochs=1)
    state = read_tensors(tmp_path / "training.pt")
    save_tensors({key: value for key, value in state.items() if key != "built"}, tmp_path / "training.pt")
    with pytest.raises(InputError, match=r"training\.pt was begun by an older version: set another output_dir"):
        training().run([1, 2], max_epochs=3)


def test_the_card_says_which_species_the_weights_at_the_start_knew(training, tmp_path):
    training(epochs=1, taken_over=["b"]).run([1, 2], max_epochs=1)
    training(epochs=2).run([1, 2], max_epochs=2)  # a resumed training started where the first one did
    for name in ("model.pt", "model_last.pt"):
        assert checked_card(tmp_path / name)["species_at_start"] == {"taken_over": ["b"], "new": ["a"]}
