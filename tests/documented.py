"""Read the commands out of a page and run them, with settings that make them short."""

import re
import runpy
import shlex
import subprocess
import sys
import warnings
from unittest import mock

SMALL_WINDOWS = ["--inference_window_size", "[16,32,32]", "--precision", "float32"]
SMALL_TRAINING = ["--epochs", "1", "--val_interval", "1", "--windows_per_epoch", "2", "--window_size", "[16,32,32]"]
SMALL_SIMULATION = ["--runs", "2", "--shape", "[40,72,88]", "--workers", "1"]
PROGRAM = re.compile(r"(python - <<'END'\n.*?\nEND\n)", flags=re.DOTALL)


def commands_of(page):
    """Return the commands of a page's blocks: a line each, continued ones joined; programs in ``<<'END'`` whole.

    Python is that of the tests, wherever the page has it.
    """
    commands, page = [], re.sub(r"(?:\.\./)?\.venv/bin/python", "python", page)
    for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL):
        for part in PROGRAM.split(block):
            lines = [part] if PROGRAM.fullmatch(part) else re.sub(r" *\\\n *", " ", part).splitlines()
            commands += [line for line in lines if line.strip()]
    return commands


def run_line(line, shorten=True):
    """Run a command; one of Python's in this process, because importing MONAI takes long."""
    if PROGRAM.fullmatch(line):
        exec(line.partition("\n")[2].removesuffix("END\n"), {})
        return
    words = shlex.split(line)
    words = shortened(words) if shorten else words
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    if words[:2] != ["python", "-m"]:
        subprocess.run(words, check=True)
        return
    hooks = mock.patch.object(sys, "excepthook"), mock.patch.object(warnings, "showwarning")
    with hooks[0], hooks[1], mock.patch.object(sys, "argv", words[2:]), warnings.catch_warnings():
        try:
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise


def shortened(words):
    """Return a command with settings that make it short: small windows, one epoch, few and small simulated runs."""
    if "--config_file" not in words or not {"run", "run_workflow"} & set(words):
        return words
    configs = words[words.index("--config_file") + 1]
    if "simulate.json" in configs:
        return words + SMALL_SIMULATION
    if "evaluate.json" in configs:
        return [*words, *SMALL_WINDOWS, "--sweep_thresholds", "[0.5]"]
    return words + SMALL_WINDOWS + (SMALL_TRAINING if "train.json" in configs else [])
