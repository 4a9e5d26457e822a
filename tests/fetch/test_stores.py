import errno
from types import SimpleNamespace

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from remote_pyramid import failing, run, visible
from scripts.fetch import stores

# Stores that fail


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError(errno.EBUSY, "Please reduce your request rate"),
        type("ServerDisconnectedError", (type("ClientConnectionError", (Exception,), {}),), {})("Server disconnected"),
        type("ClientResponseError", (Exception,), {"status": 503, "message": "Slow Down"})(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("ending", ["1/0.1.0", ".zattrs"])
def test_what_may_pass_is_tried_again(error, ending, remote, tmp_path, monkeypatch, capsys):
    left = failing(monkeypatch, ending, error, error, error)
    assert run(tmp_path / "here") == 0
    assert left == []
    failing(monkeypatch, ending, *[error] * 8)
    assert run(tmp_path / "again") == 1
    assert f"{stores.fact_of(error)}. Tried 4 times; start again later" in capsys.readouterr().err
    assert visible(tmp_path / "again") == []


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (PermissionError(errno.EACCES, "Access Denied"), "Access Denied"),
        (type("ClientResponseError", (Exception,), {"status": 403, "message": "Forbidden"})(), "403 Forbidden"),
        (type("ClientSSLError", (type("ClientConnectionError", (OSError,), {}),), {})("expired"), "expired"),
        (RuntimeError("of a store of its own\nkind"), "of a store of its own kind"),
    ],
    ids=["denied", "403", "certificate", "unknown"],
)
def test_what_stays_is_told_at_once_and_in_one_line(error, fact, remote, tmp_path, monkeypatch, capsys):
    left = failing(monkeypatch, "1/0.1.0", error, error)
    assert run(tmp_path / "here") == 1
    assert len(left) == 1
    assert capsys.readouterr().err == (
        f"error: cannot read memory:///data/TS_1.zarr/1/0.1.0: {fact}. Check the address, and the credentials for it.\n"
    )
    assert visible(tmp_path / "here") == []


def test_a_store_that_refuses_what_it_has_not_got_is_read(remote, tmp_path, monkeypatch):
    failing(monkeypatch, "zarr.json", *[PermissionError("Forbidden")] * 9)
    assert run(tmp_path / "here") == 0


def test_a_store_that_refuses_everything_says_so(remote, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, "", *[PermissionError("Forbidden")] * 9)
    assert run(tmp_path / "here") == 1
    assert "cannot read memory:///data/TS_1.zarr/zarr.json: Forbidden." in capsys.readouterr().err


def test_our_own_full_disk_is_not_the_stores_fault(remote, tmp_path, monkeypatch, capsys):
    left = failing(monkeypatch, "1/0.1.0", *[OSError(errno.ENOSPC, "No space left on device")] * 2)
    assert run(tmp_path / "here") == 1
    assert len(left) == 1
    assert capsys.readouterr().err == f"error: cannot write {tmp_path}/here/TS_1.zarr: No space left on device.\n"
    assert visible(tmp_path / "here") == []


def test_every_text_in_a_stores_options_counts_as_secret():
    options = {"auth": ["me", "topsecret"], "client": {"token": "wJalrXUt", "retries": 3}, "anon": False}
    assert stores.secrets_in(options) == ("topsecret", "wJalrXUt")


def test_no_credentials_are_shown(remote, tmp_path, monkeypatch, capsys):
    secret = "wJalrXUtnFEMI"
    fs = SimpleNamespace(
        protocol="abfs", unstrip_protocol=lambda path: f"https://me:{secret}@host/{path}", get_file=None
    )
    source = stores.source_in(fs, "a.zarr", stores.secrets_in({"a": {"key": secret}}))
    assert source.url == "https://host/a.zarr"
    assert secret not in repr(source)
    error = OSError(f"no such key as {secret} at https://me:{secret}@host/")
    assert stores.fact_of(error, source.secrets) == "no such key as *** at https://host/"
    with pytest.raises(SystemExit):
        run(tmp_path, "--storage_options", f"{{'key': '{secret}'}}")
    assert secret not in capsys.readouterr().err


# Stores with wrong content


@pytest.mark.parametrize("name", [".zattrs", "1/.zarray", "1/0.0.0"])
@pytest.mark.parametrize("says_sizes", [True, False])
def test_files_that_are_too_large_are_refused(name, says_sizes, remote, tmp_path, capsys):
    remote.pipe(f"/data/TS_1.zarr/{name}", bytes(2**22 + 1))
    (tmp_path / "source.zarr" / name).write_bytes(bytes(2**22 + 1))
    url = "memory:///data/TS_1.zarr" if says_sizes else f"file://{tmp_path}/source.zarr"
    assert run(tmp_path / "here", url=url) == 1
    assert f"{url}/{name} is larger than" in capsys.readouterr().err
    assert visible(tmp_path / "here") == []


def test_half_of_a_chunk_that_then_is_gone_is_not_kept(remote, tmp_path, monkeypatch):
    get_file, endings = MemoryFileSystem.get_file, [ConnectionResetError("cut"), FileNotFoundError("gone")]

    def get_half(self, path, local, **options):
        get_file(self, path, local, **options)
        if path.endswith("1/0.1.0"):
            raise endings.pop(0)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_half)
    assert run(tmp_path / "here", "--allow_missing_chunks") == 0
    assert not (tmp_path / "here/TS_1.zarr/0/0.1.0").exists()
