"""The page of times and memory, on a tiny tomogram, and its tables out of results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from speed import measure, page, results, work
from synthetic import noise, write_mrc

DOCS = Path(__file__).resolve().parents[2] / "docs"
CONDITIONS = {
    "cpu": "CPU", "flags": ["AVX2"], "cores": 2, "memory_gib": 24, "packages": {"torch": "2.13.0"}, "threads": 2,
    "shape": [20, 28, 36], "volume": "the sample, mirrored",
}  # fmt: skip
STAGES = {"read and scale": 1.0, "network": 6.0, "pick": 0.5, "write": 0.5}


@pytest.fixture
def empty_page(tmp_path):
    """An empty page with text around the marks of its tables."""
    marks = (f"{name}, told by hand\n<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n" for name in page.TABLES)
    path = tmp_path / "speed.md"
    path.write_text("".join(marks))
    return path


@pytest.fixture
def files(tmp_path, empty_page):
    """The options that name the files of a test."""
    return ["--results", str(tmp_path / "speed.json"), "--page", str(empty_page)]


def row(part, contender, case="20x28x36", repeat=0, **values):
    return {"part": part, "contender": contender, "case": case, "repeat": repeat, "code": "", **values}


def timed(contender, seconds, case="20x28x36", repeat=0, memory=1.0):
    values = {"seconds": seconds, "processor seconds": 2 * seconds, "peak memory": memory, **STAGES, "picks": 7}
    return row("tomogram", contender, case, repeat, **values)


def results_of(*rows):
    return {"conditions": CONDITIONS, "rows": list(rows)}


def test_a_tomogram_is_measured_once_and_the_page_is_made_from_the_results(tmp_path, files, empty_page, monkeypatch):
    run_work = measure.run_work

    def run_here(function, threads, bundle=work.BUNDLE, **arguments):
        """Run what imports MONAI in this process, which has it already."""
        if function is not work.pick_with_stock:
            return run_work(function, threads, bundle, **arguments)
        return {"seconds": 9.0, "processor seconds": 9.0, "peak memory": 1.0, **function(**arguments)}

    monkeypatch.setattr(measure, "run_work", run_here)
    tomogram = write_mrc(tmp_path / "tiny.mrc", noise(), 10.012)
    options = [*files, "--volume", str(tomogram), "--shapes", "20x28x36", "--threads", "1", "--repeats", "1"]
    options += ["--parts", "tomogram,sizes", "--contenders", "stock,now"]
    assert measure.main(options) == 0
    written = json.loads((tmp_path / "speed.json").read_text())
    stock, now = written["rows"]
    assert (stock["contender"], now["contender"]) == ("stock", "now")
    assert now["seconds"] > sum(now[stage] for stage in results.STAGES[1:]) > 0
    assert now["processor seconds"] > 1
    assert 0.1 < now["peak memory"] < 4
    text = empty_page.read_text()
    assert text.count("told by hand") == len(page.TABLES)
    assert "old\n<" not in text
    assert "| MONAI's parts | **9.00** (9.00 to 9.00) |" in text
    assert f"| 20 x 28 x 36 | 0.02 |  |  | {page.shorten(now['seconds'])} |" in text
    assert (tmp_path / "speed.png").stat().st_size > 10_000

    monkeypatch.setattr(measure, "run_work", None)
    monkeypatch.setattr(measure, "run_process", None)
    assert measure.main(options) == 0
    assert json.loads((tmp_path / "speed.json").read_text()) == written

    empty_page.write_text(text.replace("9.00", "8.00"))
    assert measure.main([*files, "--only_page"]) == 0
    assert empty_page.read_text() == text


def test_the_page_in_the_documentation_shows_its_results():
    text = (DOCS / "speed.md").read_text()
    assert page.fill_page(text, results.read_results(DOCS / "speed.json")) == text


def test_tables_show_medians_and_the_shortest_and_longest_seconds():
    rows = [timed("now_torch", seconds, repeat=repeat) for repeat, seconds in enumerate((30.0, 10.0, 12.0))]
    line = page.format_tomogram(results_of(*rows)).splitlines()[-1]
    assert line == "| now, torch | **12.0** (10.0 to 30.0) | 4.00 | 1.00 | 6.00 | 0.50 | 0.50 | 24.0 | 1.00 | 7 |"


def test_the_gain_is_that_of_the_faster_program():
    rows = [
        timed("stock", 60.0, memory=4.0) | {"network": 50.0},
        timed("before", 30.0) | {"network": 20.0},
        timed("now_torch", 15.0),
        timed("now_openvino", 10.0),
    ]
    assert page.format_gain(results_of(*rows)) == (
        "This version takes 10.0 s and 1.00 GiB for a tomogram (now, OpenVINO). The older version takes 3.00 times the "
        "seconds, 2.75 times without start and end, and 1.00 times the memory. MONAI's parts take 6.00 times the "
        "seconds, 6.50 times without start and end, and 4.00 times the memory."
    )


def test_sizes_are_in_order_and_the_older_version_may_end_earlier():
    rows = [timed("now", 20.0, "100x200x300"), timed("now", 9.0, "20x28x36"), timed("before", 12.0, "20x28x36")]
    assert page.format_sizes(results_of(*rows)).splitlines()[2:] == [
        "| 20 x 28 x 36 | 0.02 | 12.0 | 1.00 | 9.00 | 1.00 |",
        "| 100 x 200 x 300 | 6.00 |  |  | 20.0 | 1.00 |",
    ]


def test_a_network_trains_in_its_faster_memory_order():
    rows = [row("training", "stock", f"float32, {order}", step=step, windows=0.1)
            for order, step in (("contiguous", 3.9), ("channels_last_3d", 1.9))]  # fmt: skip
    line = page.format_training(results_of(*rows)).splitlines()[-1]
    assert line == "| MONAI's UNet | float32, channels_last_3d | 1.90 | 0.100 | 5.0 % | 1.000 |"


def test_the_shortest_time_is_the_operations_by_the_faster_product():
    rows = [
        row("machine", "", "", float32=50.0, bfloat16=200.0, copy=10.0),
        row("network", "now", "", products=2e9, convolutions=4e9),
        timed("now_torch", 12.0),
    ]
    last = page.format_machine(results_of(*rows)).splitlines()[-1]
    assert last == "| now | 40.3 | 80.6 | 202 | 403 | 6.00 |"


def test_operations_of_a_network_are_counted_by_hand(monkeypatch):
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 4, 3, padding=1, groups=4), torch.nn.Conv3d(4, 5, 1)
    )
    monkeypatch.setattr(work, "stock_network", lambda channels: network)
    found = work.count_operations(str(work.BUNDLE), is_stock=True)
    assert found == {"convolutions": 2 * (4 * 27 + 4 * 27 + 4 * 5), "products": 2 * (4 * 27 + 4 * 5)}


def test_mirrored_indices_go_to_and_fro():
    assert work.mirrored(7, 3) == [0, 1, 2, 1, 0, 1, 2]
    assert work.mirrored(2, 3) == [0, 1]
    assert work.mirrored(3, 1) == [0, 0, 0]


def test_time_and_memory_are_those_of_the_process_alone():
    # Linux counts the memory of the process that starts another among the other's peak, so it must be small
    program = "import time; kept = b'1' * 2**29; time.sleep(0.3); print(len(kept))"
    starter = (
        f"import json, sys; sys.path.insert(0, {str(measure.BENCHMARKS)!r})\n"
        "from pathlib import Path; from speed import measure\n"
    )
    starter += f"print(json.dumps(measure.run_process([sys.executable, '-c', {program!r}], Path(), 1)))"
    done = subprocess.run([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True, check=True)
    printed, facts = json.loads(done.stdout)
    assert int(printed) == 2**29
    assert facts["seconds"] >= 0.3
    assert 0.5 <= facts["peak memory"] < 0.6
    assert facts["processor seconds"] > 0.01


def test_a_process_that_fails_is_named_and_the_others_still_run(files, tmp_path, monkeypatch, capsys):
    def fail(function, threads, *rest, **arguments):
        if function is work.count_operations:
            raise results.Refusal("no such network")
        return {"float32": 1.0, "bfloat16": 2.0, "copy": 3.0}

    monkeypatch.setattr(measure, "run_work", fail)
    assert measure.main([*files, "--parts", "machine", "--contenders", "now", "--repeats", "2"]) == 1
    assert capsys.readouterr().err == "failed: network, now, all, repeat 1: no such network\n"
    assert [found["part"] for found in json.loads((tmp_path / "speed.json").read_text())["rows"]] == ["machine"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contenders", "stock,then"], "there is no contender then here; there are now, "),
        (["--parts", "stages"], "parts are tomogram, sizes, training, machine; got stages"),
        (["--shapes", "64x64"], "a shape is three numbers of voxels, such as 184x630x630; got 64x64"),
        (["--before", "nowhere"], "nowhere is not the folder of a version"),
        (["--volume", "nowhere.mrc"], "nowhere.mrc"),
        (["--repeats", "0"], "repeats and threads are 1 or more"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(files, capsys, options, message):
    assert measure.main([*files, *options]) == 1
    assert message in capsys.readouterr().err


def test_results_of_another_machine_are_refused(files, tmp_path, capsys):
    (tmp_path / "speed.json").write_text(results.format_results(results_of(timed("now", 1.0))))
    assert measure.main([*files, "--parts", "machine"]) == 1
    assert re.search("was made with another value of cpu.*give --again", capsys.readouterr().err)


def test_a_page_without_marks_is_refused(files, empty_page, capsys):
    empty_page.write_text("only text")
    assert measure.main([*files, "--only_page"]) == 1
    assert "the page needs the line <!-- conditions: begin -->" in capsys.readouterr().err
