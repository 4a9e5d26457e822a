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
    assert "evaluation holds no folder of a run with a picks.csv." in capsys.readouterr().err
    assert (tmp_path / "evaluation" / "report.html").read_text() == "its own page"
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main([str(output_dir)]) == 1
    assert "unknown species 'b'" in capsys.readouterr().err
