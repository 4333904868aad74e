"""What every command says of a place where there is no store, and that it leaves nothing there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import pytest

from memory_service.cli import main
from memory_service.store import Store
from tests.memory_service.helpers import command

Place = Literal["nowhere", "empty", "others", "file", "dangling"]
COMMANDS = (
    "inspect {data}",
    "verify {data}",
    "repair {data}",
    "backup {data} {out}",
    "migrate {data} {out}",
    "export b {out} --data {data}",
    "keys list --data {data}",
    "keys list --json --data {data}",
    "keys revoke em_00000000 --data {data}",
)


def no_store(data: Path, place: Place) -> None:
    """Put something else there."""
    if place in ("empty", "others"):
        data.mkdir()
    if place in ("others", "file"):
        (data / "notes.txt" if place == "others" else data).write_text("not ours")
    if place == "dangling":
        data.symlink_to("nowhere")


@pytest.mark.parametrize("place", get_args(Place))
def test_a_command_on_what_is_no_store_says_so_and_makes_nothing(place: Place, tmp_path: Path) -> None:
    data = tmp_path / "data"
    no_store(data, place)
    before = sorted(tmp_path.rglob("*"))
    for words in COMMANDS:
        said = words.format(data=data, out=tmp_path / "out").split()
        status, out, err = command(*said)
        assert (status, out) == (2, ""), words
        assert err.startswith("memory-service: "), words
        assert f"there is no store in {data}" in err, words
        assert sorted(tmp_path.rglob("*")) == before, words


@pytest.mark.parametrize("place", ["file", "dangling"])
def test_what_makes_a_store_says_where_it_cannot(place: Place, tmp_path: Path) -> None:
    data = tmp_path / "data"
    no_store(data, place)
    with Store(tmp_path / "store") as store:
        store.create_buffer("b", budget_bytes=10**6)
    file = tmp_path / "b.zarr.zip"
    assert command("export", "b", str(file), "--data", str(tmp_path / "store"))[0] == 0
    for words in ("keys make --data {data}", "import b {file} --data {data}", "serve --port 0 --data {data}"):
        status, out, err = command(*words.format(data=data, file=file).split())
        assert (status, out) == (2, ""), words
        assert (str(data) in err, "Not a directory" in err) == (True, True), words


@pytest.mark.parametrize("place", ["nowhere", "others"])
def test_of_what_is_no_export_no_store_is_made(place: Place, tmp_path: Path) -> None:
    data = tmp_path / "data"
    no_store(data, place)
    before = sorted(tmp_path.rglob("*"))
    status, _, err = command("import", "b", __file__, "--data", str(data))
    assert (status, "not an exported buffer" in err) == (2, True), err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "make", "--role", "read", "--data", ""],
        ["import", "b", "x.zarr.zip", "--data", ""],
        ["backup", "store", ""],
        ["migrate", "store", ""],
        ["verify", ""],
    ],
)
def test_an_empty_path_is_not_the_working_directory(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert "it is empty, and a path is needed" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_keys_may_come_before_their_store(tmp_path: Path) -> None:
    data = tmp_path / "data"
    status, key, err = command("keys", "make", "--data", str(data))
    assert (status, f"There is no store in {data} yet" in err) == (0, True)
    for _ in range(2):
        status, out, err = command("keys", "list", "--data", str(data))
        assert (status, out[:11], err) == (0, key[:11], "")
        Store(data).close()
    assert "no store" not in command("keys", "make", "--data", str(data))[2]
    (data / "keys.json").unlink()
    assert command("keys", "list", "--data", str(data)) == (0, "", "There are no keys yet: nobody is asked for one.\n")
