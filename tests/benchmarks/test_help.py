"""Every benchmark says what it does without doing it."""

import runpy
import subprocess
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NOT_RUN = {"conditions.py", "tables.py"}  # are imported only


@pytest.mark.parametrize("name", sorted({path.name for path in BENCHMARKS.glob("*.py")} - NOT_RUN))
def test_a_benchmark_asked_for_help_measures_nothing(name, monkeypatch, capsys):
    def refuse(*arguments, **settings):
        raise AssertionError("something is measured")

    for function in ("run", "Popen"):
        monkeypatch.setattr(subprocess, function, refuse)
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(f"time.{clock}", refuse)
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("name", ["finders.py", "full_size.py", "network_speed.py", "spacing.py", "training_memory.py"])
def test_a_benchmark_refuses_an_option_that_it_does_not_have(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--fast"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
    assert "unrecognized arguments: --fast" in capsys.readouterr().err
