import pytest
from scripts.errors import without_user


@pytest.mark.parametrize("user", ["me:wJalrXUt@", "wJalrXUt@", "me:wJal@rXUt@"])
def test_an_address_is_shown_without_its_user(user):
    assert without_user(f"no https://{user}host/a@b.zarr here") == "no https://host/a@b.zarr here"
