"""Every code block of the documentation runs, in the order of its page, on a fresh store, in bash and in zsh."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs import exceptions
from tests.docs.pages import PAGES, Block, blocks_of
from tests.docs.reader import Reader, starts_a_service

BLOCKS = {page: blocks_of(page) for page in PAGES}
PASTED = {"sh", "python"}


def _is_for_a_shell(block: Block) -> bool:
    """Whether a shell sees anything of it. A service is started beside the shells."""
    left_out = block.name in exceptions.NOT_RUN or block.page in exceptions.JUDGED
    return (
        block.language == "sh" and not left_out and any(not starts_a_service(line) for line in block.text.splitlines())
    )


RUNS = [
    (page, shell)
    for page, blocks in BLOCKS.items()
    if blocks
    for shell in (("bash", "zsh") if any(map(_is_for_a_shell, blocks)) else ("bash",))
]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")  # on one core
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 beside torch 2.14
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # Lightning 2.6 beside torch 2.14
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # Lightning's advice
@pytest.mark.parametrize(("page", "shell"), RUNS)
def test_a_page_does_what_it_says(page: str, shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in (shell, "curl"):
        if any(map(_is_for_a_shell, BLOCKS[page])) and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: apt-get install {program})")
    reader = Reader(shell, tmp_path, monkeypatch)
    try:
        for block in BLOCKS[page]:
            reader.read(block)
    finally:
        reader.close()


def test_every_exception_names_a_block() -> None:
    named = {block.name for blocks in BLOCKS.values() for block in blocks}
    assert {*exceptions.NOT_RUN, *exceptions.STOPPED_BEFORE, *exceptions.NOT_COMPARED} <= named
    assert {*exceptions.SMALLER, *exceptions.JUDGED} <= set(PAGES)


def test_most_blocks_are_run() -> None:
    pasted = {block.name for blocks in BLOCKS.values() for block in blocks if block.language in PASTED}
    left_out = {name for name in pasted if name in exceptions.NOT_RUN or name[0] in exceptions.JUDGED}
    assert len(left_out) < len(pasted) / 2, "exceptions are for what cannot run in a test"


def test_no_command_has_a_comment_behind_it() -> None:
    """At zsh's prompt ``#`` begins none."""
    for blocks in BLOCKS.values():
        for block in blocks:
            if block.language == "sh":
                assert " #" not in block.text, block.at
