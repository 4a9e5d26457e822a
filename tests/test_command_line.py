import json
import signal
import subprocess
import sys
import warnings

import pytest
from scripts.command_line import (
    guard_command_line,
    refuse_moved_targets,
    refuse_unknown_settings,
    report_input_errors_in_one_line,
)
from scripts.errors import InputError, InputWarning, find_input_error, report_input_warnings_in_one_line

SET_UP = """
import sys
from unittest.mock import MagicMock
sys.modules["monai"] = sys.modules["monai.bundle"] = MagicMock()  # takes seconds to import and has no part in this
from scripts.command_line import report_input_errors_in_one_line
from scripts.errors import InputError
report_input_errors_in_one_line()
"""
WRAPPED_ERROR = """
try:
    raise InputError("cannot read a.mrc: no such file.")
except InputError as error:
    raise RuntimeError("applying transform") from error
"""


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Work in a folder with two configs: base.json with device and overlap, more.json with rotations."""
    (tmp_path / "base.json").write_text('{"device": "cpu", "inference_overlap": 0.25, "network_def": {"depths": [1]}}')
    (tmp_path / "more.json").write_text('{"rotations": 4, "+handlers": []}')
    (tmp_path / "more.yaml").write_text("rotations: 4\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hooks(monkeypatch):
    """Restore the process's own hooks for errors, warnings and SIGTERM after the test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        yield
    signal.signal(signal.SIGTERM, before)


def chained(*errors):
    """Raise each error from the one before and return the last."""
    caught = None
    for error in errors:
        try:
            raise error from caught
        except Exception as last:
            caught = last
    return caught


# Misspelt settings


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize(
    "arguments",
    [
        "run --config_file base.json",
        "run --config_file base.json --device cuda",
        "run --config_file base.json --device=cuda --inference_overlap=0.5",
        "run --config_file=base.json --inference-overlap 0.5",
        "run --config_file base.json --network_def#depths [3]",
        "run --config_file base.json --network_def::depths [3]",
        "run --config_file base.json --+network_def#depths [3]",
        "run --config_file base.json --meta_file m.json --logging_file l.conf --run_id x --init_id y --final_id z",
        "run --config_file base.json --tracking mlflow --workflow_type train",
        "run --config_file base.json --meta_file m.json --_meta_#version 2",
        "run --config_file ['base.json','more.json'] --rotations 2 --device cpu",
        "run --config_file 'base.json','more.json' --rotations 2",
        "run --config_file ['base.json','more.yaml'] --rotations 2",
        "run --config_file base.json --inference_overlap -1",
    ],
)
def test_settings_of_the_configs_and_of_monai_are_taken(arguments):
    assert refuse_unknown_settings(arguments.split()) is None


@pytest.mark.parametrize(("word", "remedy"), [("false", "False"), ("null", r"'\$None'")])
@pytest.mark.parametrize("between", [" ", "="])
def test_a_word_that_would_count_as_its_opposite_is_refused(word, remedy, between):
    with pytest.raises(InputError, match=rf"--resume {word} would be read as the word '{word}': write {remedy}"):
        refuse_unknown_settings(f"run --config_file x.json --resume{between}{word}".split())


@pytest.mark.parametrize(
    ("typed", "read"),
    [("1.10", "1.1"), ("1e3", "1000.0"), ("1_000", "1000"), ("0x10", "16"), ("00", "0"), ("1#2", "1")],
)
@pytest.mark.parametrize("key", ["session_id", "user_id", "truth_session_id", "truth_user_id", "writer#session_id"])
def test_an_id_that_would_be_read_as_another_one_is_refused(key, typed, read):
    with pytest.raises(InputError) as caught:
        refuse_unknown_settings(["run", "--config_file", "x.json", f"--{key}", typed])
    assert str(caught.value) == f"--{key} {typed} would be read as {read}: quote it, --{key} \"'{typed}'\"."


@pytest.mark.parametrize("typed", ["'1.10'", '"1_000"', "12", "0", "me", "2024-01-15", "v1.10", "@user_id"])
def test_an_id_that_is_read_as_it_was_typed_is_taken(typed, configs):
    (configs / "more.json").write_text(json.dumps({"session_id": "0"}))
    refuse_unknown_settings(["run", "--config_file", "more.json", "--session_id", typed])


def test_an_id_that_is_text_in_a_file_of_arguments_is_taken(configs):
    (configs / "more.json").write_text(json.dumps({"session_id": "0"}))
    (configs / "args.json").write_text(json.dumps({"session_id": "1.10"}))
    refuse_unknown_settings(["run", "--config_file", "more.json", "--args_file", "args.json"])


@pytest.mark.parametrize("word", ["no", "yes", "true", "off", "TRUE"])
def test_a_setting_that_is_true_or_false_takes_no_other_word(word, configs):
    (configs / "more.json").write_text(json.dumps({"resume": True, "train": {"shuffle": [False]}, "name": "x"}))
    run = ["run", "--config_file", "['base.json','more.json']"]
    for key in ("resume", "train#shuffle#0", "train::shuffle::0"):
        with pytest.raises(InputError, match=rf"--{key} {word} is neither True nor False, and would count as True"):
            refuse_unknown_settings([*run, f"--{key}", word])
    (configs / "args.json").write_text(json.dumps({"resume": word}))
    with pytest.raises(InputError, match=f"--resume {word} is neither"):
        refuse_unknown_settings([*run, "--args_file", "args.json"])
    for given in (["--resume"], ["--resume", "--name", word], ["--resume=False"], ["--resume", "$not @name"]):
        refuse_unknown_settings([*run, *given])


def test_none_that_would_be_ignored_is_refused(configs):
    run = ["run", "--config_file", "base.json"]
    for key in ("device", "network_def#depths"):
        with pytest.raises(InputError, match=rf"--{key} None would be ignored: write '\$None'\."):
            refuse_unknown_settings([*run, f"--{key}", "None"])
        refuse_unknown_settings([*run, f"--{key}", "$None"])
    (configs / "more.json").write_text('{"name": null}')
    (configs / "args.json").write_text('{"name": "x"}')
    run = ["run", "--config_file", "['base.json','more.json']", "--name", "None"]
    refuse_unknown_settings(run)
    with pytest.raises(InputError, match="--name None would be ignored"):
        refuse_unknown_settings([*run, "--args_file", "args.json"])


def test_a_list_of_configs_may_hold_blanks(configs):
    refuse_unknown_settings(["run", "--config_file", "['base.json', \"more.json\"]", "--rotations", "2"])
    (configs / "more.json").unlink()
    with pytest.raises(FileNotFoundError):
        refuse_unknown_settings(["run", "--config_file", "['base.json', 'more.json']", "--rotations", "2"])


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--config_file base.json --devise cpu", r"--devise is not a setting of base\.json; did you mean --device\?"),
        ("--config_file base.json --inference_overlp=0.5", "--inference_overlp .*; did you mean --inference_overlap?"),
        ("--config_file base.json --network_deff#depths [3]", "--network_deff#depths .* did you mean --network_def?"),
        ("--config_file base.json --meta_fil m.json", "--meta_fil .* did you mean --meta_file?"),
        (
            "--config_file base.json --rotations 2",
            r"--rotations is not a setting of base\.json; docs/reference/configuration\.md",
        ),
        ("--config_file base.json --depths [3]", "--depths is not a setting"),
        (
            "--config_file ['base.json','more.json'] --rotation 2",
            r"of base\.json, more\.json; did you mean --rotations",
        ),
        (
            "--config_file ['base.json','more.yaml'] --rotation 2",
            r"of base\.json, more\.yaml; did you mean --rotations",
        ),
        ("--zzz 1 --config_file base.json", r"docs/reference/configuration\.md lists all settings\."),
    ],
)
def test_a_setting_that_no_config_has_is_refused_with_the_nearest_one(arguments, message):
    with pytest.raises(InputError, match=message):
        refuse_unknown_settings(["run", *arguments.split()])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optimizer#lrr", r"--optimizer#lrr: torch\.optim\.AdamW takes no 'lrr'; did you mean 'lr'\."),
        ("optimizer::momentum", r"--optimizer::momentum: torch\.optim\.AdamW takes no 'momentum'\."),
        ("train#trainer#max_epoch", r"SupervisedTrainer takes no 'max_epoch'; did you mean 'max_epochs'\."),
        ("train#trainr#max_epochs", r"train has no part 'trainr'; did you mean 'trainer'\."),
        ("train#handlers#99#momentum", r"train#handlers has no part '99'\."),
        ("network_def#kernel_sise", r"ConvNeXtUNet takes no 'kernel_sise'; did you mean 'kernel_size'\."),
    ],
)
def test_a_misspelt_part_of_a_deeper_setting_is_refused_with_the_nearest_one(key, message, bundle_dir):
    path = bundle_dir / "configs" / "train.json"
    with pytest.raises(InputError, match=message):
        refuse_unknown_settings(["run", "--config_file", str(path), f"--{key}", "1"])


@pytest.mark.parametrize(
    "key",
    ["optimizer#lr", "optimizer#betas", "train#trainer#max_epochs", "network_def#prior", "train#handlers#2#max_norm",
     "validate#dataset#data", "cross_entropy#_disabled_", "train#more", "_meta_#version"],
)  # fmt: skip
def test_a_deeper_setting_that_its_class_takes_passes(key, bundle_dir):
    path = bundle_dir / "configs" / "train.json"
    assert refuse_unknown_settings(["run", "--config_file", str(path), f"--{key}", "1"]) is None


def test_settings_in_an_args_file_are_checked_too(configs):
    (configs / "args.json").write_text('{"devise": "cpu"}')
    with pytest.raises(InputError, match=r"--devise .* did you mean --device\?"):
        refuse_unknown_settings(["run", "--config_file", "base.json", "--args_file", "args.json"])


@pytest.mark.parametrize("config_file", ["base.json", ["base.json", "more.json"]])
def test_an_args_file_may_name_the_configs(configs, config_file):
    (configs / "args.json").write_text(json.dumps({"config_file": config_file, "device": "cpu"}))
    assert refuse_unknown_settings(["run", "--args_file", "args.json", "--inference_overlap", "0.5"]) is None
    with pytest.raises(InputError, match=r"--devise .* did you mean --device\?"):
        refuse_unknown_settings(["run", "--args_file", "args.json", "--devise", "cpu"])


def test_the_command_line_goes_before_the_args_file(configs):
    (configs / "args.json").write_text('{"config_file": "base.json"}')
    arguments = ["run", "--args_file", "args.json", "--config_file", "['base.json','more.json']", "--rotations", "2"]
    assert refuse_unknown_settings(arguments) is None


@pytest.mark.usefixtures("configs")
def test_without_a_config_nothing_is_checked():
    assert refuse_unknown_settings(["run", "--devise", "cpu"]) is None


@pytest.mark.parametrize("name", ["train.json", "inference.json"])
def test_every_key_of_a_shipped_config_is_a_setting(bundle_dir, name):
    path = bundle_dir / "configs" / name
    for key in json.loads(path.read_text()):
        refuse_unknown_settings(["run", "--config_file", str(path), f"--{key}", "1"])


# Errors in one line


@pytest.mark.parametrize(
    ("errors", "found"),
    [
        ([InputError("mine")], "mine"),
        ([InputError("mine"), RuntimeError("monai"), RuntimeError("ignite")], "mine"),
        ([KeyError("key"), InputError("mine"), RuntimeError("monai")], "mine"),
        ([InputError("inner"), InputError("outer")], "outer"),
    ],
)
def test_the_users_line_is_found_below_what_wraps_it(errors, found):
    assert str(find_input_error(chained(*errors))) == found


def test_a_chain_without_an_input_error_has_none():
    assert find_input_error(chained(KeyError("a"), ValueError("b"))) is None


def test_an_error_raised_while_another_was_handled_still_shows_the_users_line():
    error = RuntimeError("clean-up")
    error.__context__ = InputError("mine")
    assert str(find_input_error(error)) == "mine"


@pytest.mark.usefixtures("hooks")
def test_an_input_error_is_shown_as_its_line(capsys):
    report_input_errors_in_one_line()
    error = chained(InputError("cannot read a.mrc: no such file."), RuntimeError("applying transform"))
    sys.excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr() == ("", "error: cannot read a.mrc: no such file.\n")


@pytest.mark.usefixtures("hooks")
def test_another_error_goes_to_the_hook_that_was_there_before():
    seen = []
    sys.excepthook = lambda *given: seen.append(given)
    report_input_errors_in_one_line()
    error = RuntimeError("a bug")
    sys.excepthook(RuntimeError, error, None)
    assert seen == [(RuntimeError, error, None)]


def run_python(program, folder):
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


def test_a_process_ends_on_an_input_error_with_status_1_and_one_line(bundle_dir):
    done = run_python(SET_UP + WRAPPED_ERROR, bundle_dir)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: cannot read a.mrc: no such file.\n")


def test_a_process_ends_on_another_error_with_status_1_and_its_traceback(bundle_dir):
    done = run_python(SET_UP + "raise RuntimeError('a bug')", bundle_dir)
    lines = done.stderr.splitlines()
    assert (done.returncode, lines[0], lines[-1]) == (1, "Traceback (most recent call last):", "RuntimeError: a bug")


STOPPED = "stopped: the same command resumes a training or a batch\n"
# a process that a shell has put into the background ignores Ctrl-C
SEND = (
    "import os, signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "os.kill(os.getpid(), signal.{}); time.sleep(9)"
)


def test_a_process_ends_on_ctrl_c_with_its_signal_and_one_line(bundle_dir):
    done = run_python(SET_UP + SEND.format("SIGINT"), bundle_dir)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", STOPPED)  # 130 in a shell


def test_a_process_ends_when_terminated_with_status_143_and_one_line(bundle_dir):
    set_up = f"{SET_UP}from scripts.command_line import end_orderly_when_terminated as end; end()\n"
    done = run_python(set_up + SEND.format("SIGTERM"), bundle_dir)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", STOPPED)


def test_a_process_that_was_forked_says_nothing_when_terminated(bundle_dir):
    set_up = f"{SET_UP}from scripts.command_line import end_orderly_when_terminated as end; end()\n"
    fork = "import os; pid = os.fork(); status = os.waitpid(pid, 0)[1] if pid else None\n"
    done = run_python(f"{set_up}{fork}if pid: print(os.waitstatus_to_exitcode(status)); raise SystemExit\n"
                      + SEND.format("SIGTERM"), bundle_dir)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "143\n", "")


KILLED_WORKER = """
import os, signal
from torch.utils.data import DataLoader
class Windows:
    def __len__(self):
        return 2
    def __getitem__(self, place):
        os.kill(os.getpid(), signal.SIGKILL)
list(DataLoader(Windows(), num_workers=1))
"""


def test_a_killed_worker_is_one_line_with_its_likely_cause_and_the_remedy(bundle_dir):
    done = run_python(SET_UP + KILLED_WORKER, bundle_dir)
    assert done.returncode == 1
    first, _, rest = done.stderr.removeprefix("error: DataLoader worker (pid").partition(". ")
    assert "exited unexpectedly" in first or "is killed by signal: Killed" in first
    assert rest == (
        "Memory or shared memory (/dev/shm) may be too small: give a smaller --num_workers, 0 needs neither.\n"
    )


@pytest.mark.usefixtures("hooks")
def test_an_input_warning_is_one_line_every_time(capsys):
    report_input_warnings_in_one_line()
    for _ in range(2):
        warnings.warn("the header is wrong.", InputWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "warning: the header is wrong.\n" * 2)


@pytest.mark.usefixtures("hooks")
def test_other_warnings_are_shown_as_before(capsys):
    seen = []
    warnings.showwarning = lambda message, *given, **more: seen.append(str(message))
    report_input_warnings_in_one_line()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old.", DeprecationWarning, stacklevel=1)
    assert (seen, capsys.readouterr().err) == (["old."], "")


# The guard


@pytest.mark.usefixtures("configs", "hooks")
@pytest.mark.parametrize("program", ["/x/pytest/__main__.py", "serve.py", "-c"])
def test_in_another_process_the_guard_does_nothing(monkeypatch, program):
    monkeypatch.setattr(sys, "argv", [program, "run", "--config_file", "base.json", "--devise", "cpu"])
    before = sys.excepthook, warnings.showwarning
    guard_command_line()
    assert (sys.excepthook, warnings.showwarning) == before


@pytest.mark.usefixtures("configs", "hooks")
def test_in_monais_process_the_guard_sets_everything_up(monkeypatch, capsys):
    program = "/venv/lib/site-packages/monai/bundle/__main__.py"
    monkeypatch.setattr(sys, "argv", [program, "run", "--config_file", "base.json", "--devise", "cpu"])
    with pytest.raises(InputError, match="--devise is not a setting") as caught:
        guard_command_line()
    sys.excepthook(InputError, caught.value, None)
    warnings.warn("the header is wrong.", InputWarning, stacklevel=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "warning"]


@pytest.mark.parametrize(
    ("target", "now"),
    [
        ("scripts.network.ConvNeXtUNet", "it is now scripts.networks.convnext_unet.ConvNeXtUNet: change it in your"),
        ("scripts.handlers.WritePicks", "it is now scripts.handlers.results.WritePicks: change it in your config"),
        ("scripts.particles.read_particles", "it is now scripts.species.read_species: change it in your config"),
        ("scripts.mine.Nothing", "the bundle has nothing of that name"),
    ],
)
def test_a_target_that_has_moved_is_named_with_its_new_place(target, now):
    config = {"a": [{"_target_": "scripts.picking.blobs.Blobs"}], "b": {"c": {"_target_": target}}}
    with pytest.raises(InputError, match=rf"_target_ {target} does not exist; {now}"):
        refuse_moved_targets(config)


def test_the_shipped_configs_name_nothing_that_has_moved(bundle_dir):
    for path in (bundle_dir / "configs").glob("*.json"):
        refuse_moved_targets(json.loads(path.read_text()))


def test_a_command_with_an_old_config_ends_in_one_line(bundle_dir, tmp_path):
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"inferer": {"_target_": "scripts.inferer.TomogramInferer", "roi_size": [16, 16, 16]}}))
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"['configs/inference.json','{old}']"]
    done = subprocess.run(command, cwd=bundle_dir, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: _target_ scripts.inferer.TomogramInferer does not exist; it is now "
        "scripts.inference.inferers.TomogramInferer: change it in your config."
    )
