"""``memory-service inspect``, beside a service and without one; and bars on a terminal."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from memory_format import StorageError, encode_batch
from memory_service import progress
from memory_service.cli import main
from memory_service.store import Store
from memory_service.store.admin.inspect import inspect
from memory_service.store.loading import SealedSegments
from tests.memory_service.helpers import make_exemplar, whole_state
from tests.memory_service.test_backup import filled
from tests.memory_service.test_verify_online import replace_all


@pytest.fixture
def served(data: Path) -> Iterator[Store]:
    store = filled(data)
    yield store
    store.release()


def test_figures_are_those_of_the_service(served: Store) -> None:
    served.buffer("b").push(encode_batch([make_exemplar(8, codec="webp", learner_id="other")]))
    before = whole_state(served.data)
    found = inspect(served.data)
    assert whole_state(served.data) == before
    assert [one.config.name for one in found.buffers] == ["b", "f"]
    for one in found.buffers:
        buffer = served.buffer(one.config.name)
        said = json.loads(json.dumps(one.document()["stats"]))
        assert said == {
            name: value for name, value in json.loads(json.dumps(asdict(buffer.stats()))).items() if name in said
        }
        assert set(vars(buffer.stats())) - set(said) == {"held_bytes", "orphans", "pushes", "samples"}
        assert one.snapshots == list(buffer.state.snapshots.values())
        assert sum(codec.bytes for codec in one.codecs) == buffer.stats().bytes_used
        assert one.first_written is not None
        assert one.last_written is not None
        assert one.config.created_at - 1 < one.first_written <= one.last_written
    assert [(codec.codec, codec.count) for codec in found.buffers[0].codecs] == [("em_zstd", 35), ("em_webp", 1)]
    files = list((served.data / "segments").iterdir())
    assert found.segments == len(files)
    assert found.open_segments == sum(path.suffix == ".open" for path in files)
    assert found.file_bytes == sum(path.stat().st_size for path in files)
    assert (found.served, found.quarantined) == (True, 0)


def test_what_changes_meanwhile_is_no_damage(served: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    served.buffer("b").drop_snapshot("third")
    served.delete_buffer("f")
    turns: list[object] = []
    contents = SealedSegments.contents

    def slowly(self: SealedSegments, state: object) -> object:
        if len(turns) < 3:
            turns.append(state)
            replace_all(served, len(turns))
        return contents(self, state)  # type: ignore[arg-type]

    monkeypatch.setattr(SealedSegments, "contents", slowly)
    (one,) = inspect(served.data).buffers
    assert len(turns) == 3
    assert one.stats.num_records == served.buffer("b").stats().num_records


def test_a_damaged_segment_is_said(data: Path) -> None:
    filled(data).close()
    segment = min((data / "segments").iterdir())
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(StorageError, match=f"segment {segment.name.split('.')[0]} is damaged.*memory-service verify"):
        inspect(data)


def test_tables_and_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(data).close()

    def said(*arguments: str) -> str:
        assert main(["inspect", str(data), *arguments]) == 0
        return capsys.readouterr().out

    document = json.loads(said("--json"))
    assert document["served"] is False
    assert document == json.loads(json.dumps(inspect(data).document()))
    first, _, head, *rows = said().splitlines()
    assert first.startswith(f"{data}: 2 buffers, 4 segments (0 open) of ")
    assert head.split()[:3] == ["buffer", "records", "classes"]
    assert [row.split()[:3] for row in rows] == [["b", "35", "7"], ["f", "32", "4"]]
    # Columns are as wide as what is in them.
    assert {row.index("em_zstd") for row in rows} == {head.index("codecs") - 1}
    tables = [table.splitlines() for table in said("b").split("\n\n")]
    assert [table[0].split()[0] for table in tables[1:]] == ["live", "class", "phase", "learner", "codec", "snapshot"]
    assert tables[2][-1].split() == ["7", "1", "232", "B"]
    assert tables[-1][1].split()[:3] == ["third", "4", "32"]
    assert [one["name"] for one in json.loads(said("f", "--json"))["buffers"]] == ["f"]
    assert main(["inspect", str(data), "none"]) == 2
    assert "there is no buffer 'none'" in capsys.readouterr().err


def test_where_there_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where in (tmp_path, tmp_path / "none"):
        assert main(["inspect", str(where)]) == 2
        assert f"there is no store in {where}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] in ([], ["lock"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "seconds", "shown"), [(Terminal(), 0.0, True), (Terminal(), 60.0, False), (io.StringIO(), 0.0, False)]
)
def test_bars_are_for_terminals_and_for_what_takes_time(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stderr: io.StringIO,
    seconds: float,
    shown: bool,
) -> None:
    filled(data).close()
    monkeypatch.setattr(progress, "_SECONDS", seconds)
    monkeypatch.setattr(sys, "stderr", stderr)
    # This process is not only verify's.
    monkeypatch.setattr(os, "nice", lambda _: 0)
    file = str(tmp_path / "b.zarr.zip")
    words = {
        ("verify", str(data)): "checking",
        ("repair", str(data)): "checking",
        ("inspect", str(data)): "reading",
        ("backup", str(data), str(tmp_path / "copy")): "copying",
        ("export", "b", file, "--data", str(data)): "exporting",
        ("import", "c", file, "--data", str(data)): "importing",
        ("export", "b", f"{file}.parquet", "--data", str(data)): "exporting",
        # Twice as long: it is made a stream first.
        ("import", "d", f"{file}.parquet", "--data", str(data)): "importing",
    }
    for command, word in words.items():
        stderr.seek(0)
        stderr.truncate()
        assert main(command) == 0
        assert (f"{word}: " in stderr.getvalue()) is shown
        assert word not in capsys.readouterr().out


def test_a_bar_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.bar("copying", "B") as tell:
        tell(10**6, 4 * 10**6, "one")
        # It is not drawn more often than that.
        time.sleep(0.15)
        # There may be more to do than there seemed to be.
        tell(2 * 10**6, 8 * 10**6, "two")
    assert "copying:  25%" in terminal.getvalue()
    assert "2.00M/8.00M" in terminal.getvalue()
