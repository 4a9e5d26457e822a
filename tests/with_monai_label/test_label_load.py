"""Several clients at once: `make soak-label` is the long form."""

import pytest

pytest.importorskip("monailabel")
from label_load import load_server, write_studies
from label_server import PATIENCE, serving

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(PATIENCE)]


def test_every_client_gets_the_answer_to_its_own_request(tmp_path):
    write_studies(tmp_path / "studies")
    with serving(tmp_path) as (process, server):
        came = load_server(process, server, count=24, clients=4)
        absent = server.ask("absent")
    print(came)
    assert came["answers with picks"] + came["refusals"] == 24
    assert came["MiB at the end"] < came["MiB after a quarter"] + 200
    assert (absent.status_code, absent.json()["detail"]) == (404, "there is no study 'absent'; /datastore/ lists them.")
