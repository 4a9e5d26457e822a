from dataclasses import replace

import pytest
from pick_files import EXAMPLE, FACTS, write_text
from scripts.errors import InputError
from scripts.picks import FORMATS


def test_shifts_of_a_dynamo_table_are_added(tmp_path):
    row = ["0"] * 41
    row[3:6], row[9], row[19], row[23:26] = ["1", "2", "-3"], "0.5", "7", ["10.5", "20.5", "30.5"]
    (pick,) = FORMATS["dynamo"].read(write_text(tmp_path, " ".join(row), "a.tbl"), FACTS)
    assert (pick.run, pick.xyz_angstrom, pick.score) == ("TS_1", (110.0, 220.0, 270.0), 0.5)


def test_tomograms_of_a_dynamo_table_have_their_names_in_the_doc(tmp_path):
    picks = [EXAMPLE, replace(EXAMPLE, run="TS 0"), EXAMPLE]
    FORMATS["dynamo"].write(tmp_path / "a.tbl", picks, replace(FACTS, run=None))
    assert (tmp_path / "a.doc").read_text() == "1 TS 0\n2 TS_1\n"
    write_text(tmp_path, "1 /data/TS 0.mrc\n2 /data/TS_1.rec\n", "a.doc")
    read = FORMATS["dynamo"].read(tmp_path / "a.tbl", replace(FACTS, run=None))
    assert [pick.run for pick in read] == ["TS_1", "TS 0", "TS_1"]


@pytest.mark.parametrize("between", ["\t", "  ", " \t "])
def test_a_doc_may_have_a_tab_between_number_and_path(tmp_path, between):
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [EXAMPLE], FACTS)
    write_text(tmp_path, f"1{between}/my data/TS_7.mrc \n", "a.doc")
    assert FORMATS["dynamo"].read(tmp_path / "a.tbl", replace(FACTS, run=None))[0].run == "TS_7"


@pytest.mark.parametrize("run", ["TS.rec", "TS_1.mrc", "TS.MAP"])
def test_a_run_whose_name_ends_like_a_files_keeps_it(tmp_path, run):
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [replace(EXAMPLE, run=run)], replace(FACTS, run=None))
    assert FORMATS["dynamo"].read(tmp_path / "a.tbl", replace(FACTS, run=None))[0].run == run


@pytest.mark.parametrize("ending", [".zarr", ".ome.zarr", ".nii.gz", ".mrc.gz", ".rec"])
def test_a_run_comes_back_from_the_path_of_its_tomogram(tmp_path, ending):
    facts = replace(FACTS, tomogram=f"/data/TS_1{ending}")
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [EXAMPLE], facts)
    assert FORMATS["dynamo"].read(tmp_path / "a.tbl", replace(FACTS, run=None))[0].run == "TS_1"


def test_two_tomograms_that_would_be_one_run_are_refused(tmp_path):
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [EXAMPLE, replace(EXAMPLE, run="TS_2")], replace(FACTS, run=None))
    for name, runs in (("tomogram.mrc", ["TS_1", "TS_2"]), ("VoxelSpacing10.000/wbp.zarr", ["TS_1", "TS_2"])):
        write_text(tmp_path, f"1 /data/TS_1/{name}\n2 /data/TS_2/{name}\n", "a.doc")
        assert [pick.run for pick in FORMATS["dynamo"].read(tmp_path / "a.tbl", replace(FACTS, run=None))] == runs
    write_text(tmp_path, "1 /data/TS_1/rec.mrc\n2 /data/TS_2/rec.mrc\n", "a.doc")
    for facts in (replace(FACTS, run=None), replace(FACTS, run="TS_1", tomogram="/data/TS_1/rec.mrc")):
        with pytest.raises(
            InputError, match=r"a\.doc: /data/TS_1/rec\.mrc and /data/TS_2/rec\.mrc would both be run 'rec'"
        ):
            FORMATS["dynamo"].read(tmp_path / "a.tbl", facts)
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [EXAMPLE], replace(FACTS, run=None))
    write_text(tmp_path, "1 /data/TS_1/rec.mrc\n2 /data/TS_2/rec.mrc\n", "a.doc")  # the second one is not in the table
    assert FORMATS["dynamo"].read(tmp_path / "a.tbl", replace(FACTS, run=None))[0].run == "rec"


def test_the_doc_holds_the_path_of_a_known_tomogram(tmp_path):
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [EXAMPLE], replace(FACTS, tomogram="/data/TS_1.mrc"))
    assert (tmp_path / "a.doc").read_text() == "1 /data/TS_1.mrc\n"


def test_a_dynamo_table_of_a_tomogram_with_another_name_than_its_run_is_read_back(tmp_path):
    facts = replace(FACTS, run="TS_1", tomogram="/data/rec_TS_1.mrc")
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [EXAMPLE], facts)
    assert FORMATS["dynamo"].read(tmp_path / "a.tbl", facts)[0].run == "TS_1"
    assert FORMATS["dynamo"].read(tmp_path / "a.tbl", replace(facts, tomogram=None))[0].run == "rec_TS_1"


def test_a_dynamo_table_whose_doc_does_not_name_its_only_tomogram_has_the_run_of_the_facts(tmp_path):
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [EXAMPLE], FACTS)
    write_text(tmp_path, "7 /data/TS_7.mrc\n", "a.doc")
    assert FORMATS["dynamo"].read(tmp_path / "a.tbl", FACTS)[0].run == FACTS.run


def test_tomograms_without_names_are_refused_in_a_dynamo_table(tmp_path):
    rows = [["1"] * 35, ["2"] * 35]
    path = write_text(tmp_path, "\n".join(map(" ".join, rows)), "a.tbl")
    with pytest.raises(InputError, match=r"holds tomograms \[1, 2\]; put their names into a\.doc beside it"):
        FORMATS["dynamo"].read(path, FACTS)
    write_text(tmp_path, "1 TS_1\n", "a.doc")
    with pytest.raises(InputError, match=r"a\.doc does not name tomogram 2, which .*a\.tbl holds"):
        FORMATS["dynamo"].read(path, FACTS)
