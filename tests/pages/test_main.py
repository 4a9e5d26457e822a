import json

from page_data import data_of
from scripts.pages.__main__ import main
from scripts.picks import Pick, write_csv


def test_the_command_writes_the_page_anew(output_dir, tmp_path, capsys):
    picks = [Pick("TS_9", "ribosome", 1.0, 2.0, 3.0, 0.9)]
    write_csv(tmp_path / "shipped" / "TS_9" / "picks.csv", picks)
    assert main([str(tmp_path / "shipped")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'shipped' / 'report.html'}\n"
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.html").write_text("its own page")
    assert main([str(tmp_path / "evaluation")]) == 1
    assert "evaluation holds no folder of a run with a picks.csv to show." in capsys.readouterr().err
    assert (tmp_path / "evaluation" / "report.html").read_text() == "its own page"
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main([str(output_dir)]) == 1
    assert "unknown species 'b'" in capsys.readouterr().err


def test_what_is_left_out_is_named_in_one_line(tmp_path, capsys):
    write_csv(tmp_path / "TS_1" / "picks.csv", [])
    write_csv(tmp_path / "TS_2" / "picks.csv", [])
    (tmp_path / "TS_1" / "run.json").write_text(json.dumps({"settings": {}, "expected": None}))
    assert main([str(tmp_path)]) == 0
    page = tmp_path / "report.html"
    assert capsys.readouterr().err == (
        f"warning: {page} leaves out TS_2 (without a run.json that can be read): "
        "pick them again, or remove their folders.\n"
    )
    assert [run["name"] for run in data_of(page)["runs"]] == ["TS_1"]
