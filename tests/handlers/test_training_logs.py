import csv


def test_the_table_has_one_row_per_epoch_with_the_mean_loss(training, tmp_path):
    training(scores=(0.2, 0.8, 0.5)).run([1, 2], max_epochs=3)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["loss"] == "1.500000"
    assert rows[1]["score"] == "0.800000"
