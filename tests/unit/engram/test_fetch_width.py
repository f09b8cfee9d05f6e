"""How many connections of a fetch work at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from mnemos.engram.fetch.board import Board
from mnemos.engram.fetch.limits import Limits
from mnemos.engram.fetch.target import Target
from mnemos.engram.fetch.wanted import WantedFile
from mnemos.engram.fetch.width import Width

MOST = 16
PARTS = 50


def board_of(tmp_path: Path, width: int) -> Board:
    wanted = WantedFile("big", PARTS, "0" * 64, tmp_path / "big")
    target = Target(wanted, Limits(part_bytes=1, buffer_bytes=1), None)
    target.prepare()
    return Board([target], width)


def widths_measured(board: Board, rate: Callable[[int], float], stop_after: int) -> list[int]:
    seen: list[int] = []

    def measure(board: Board, _seconds: float) -> float:
        seen.append(board.width)
        if len(seen) == stop_after:
            board.stop()
        return rate(board.width)

    Width(MOST, measure).run(board)
    return seen


def test_all_fetch_where_each_connection_has_its_share(tmp_path: Path) -> None:
    board = board_of(tmp_path, 4)
    assert widths_measured(board, lambda width: 90.0 * width, 100) == [4, 8, 8, 16]
    assert board.width == MOST


def test_few_fetch_where_more_bring_nothing(tmp_path: Path) -> None:
    board = board_of(tmp_path, 4)
    assert widths_measured(board, lambda _: 900.0, 6) == [4, 8, 4, 8, 4, 8]
    assert board.width == 4


def test_all_fetch_where_nothing_comes(tmp_path: Path) -> None:
    board = board_of(tmp_path, 4)
    widths_measured(board, lambda _: 0.0, 100)
    assert board.width == MOST


def test_a_fetcher_beyond_the_width_gets_no_part(tmp_path: Path) -> None:
    board = board_of(tmp_path, 1)
    got: list[object] = []
    beyond = threading.Thread(target=lambda: got.append(board.take_part(1)))
    beyond.start()
    mine = [board.take_part(0) for _ in range(PARTS - 1)]
    board.stop()
    beyond.join()
    assert None not in mine
    assert got == [None]


def test_a_fetcher_goes_on_when_it_is_widened(tmp_path: Path) -> None:
    board = board_of(tmp_path, 1)
    got: list[object] = []
    beyond = threading.Thread(target=lambda: got.append(board.take_part(1)))
    beyond.start()
    board.widen(2)
    beyond.join(30)
    assert got[0] is not None
