"""The board of connections, and the seats that are published on it."""

import os

import pytest

from supervisor.workers.board import (
    LEAST_IN_A_ROW,
    MAX_DISKS,
    MAX_PAUSE_S,
    MOST_IN_A_ROW,
    PAUSE_S,
    ConnectionBoard,
    PublishedSeats,
)


@pytest.fixture
def board():
    made = ConnectionBoard.create(3)
    yield made
    made.close()


def nothing():
    pass


def test_each_process_sees_what_the_others_publish(board):
    twin = ConnectionBoard(os.dup(board.descriptor))
    board.publish(0, 5)
    board.publish(1, 7)
    assert twin.fewest(3, besides=0) == 7
    assert twin.fewest(3, besides=1) == 5
    assert twin.fewest(3, besides=2) == 5
    twin.publish(2, 1)
    assert board.fewest(3, besides=0) == 1
    twin.close()


def test_a_worker_that_does_not_run_counts_for_nothing(board):
    assert board.fewest(3, besides=0) is None
    board.publish(1, 2)
    assert board.fewest(3, besides=0) == 2
    board.mark_absent(1)
    assert board.fewest(3, besides=0) is None


def test_downloads_of_all_processes_are_added_and_those_of_a_dead_one_are_gone(board):
    twin = ConnectionBoard(os.dup(board.descriptor))
    board.publish_parents_downloads(1)
    twin.publish_downloads(0, 20)
    twin.publish_downloads(2, 300)
    assert board.downloads_of_workers(3) == 320
    assert twin.downloads_besides(3, 0) == 301
    assert twin.downloads_besides(3, 1) == 321
    board.mark_absent(2)
    assert twin.downloads_besides(3, 1) == 21
    twin.close()


def test_each_process_sees_which_disks_are_out_of_service(board):
    twin = ConnectionBoard(os.dup(board.descriptor))
    for disk_id in (0, MAX_DISKS - 1):
        assert not twin.is_disk_out(disk_id)
        board.set_disk(disk_id, is_out=True)
        assert twin.is_disk_out(disk_id)
        board.set_disk(disk_id, is_out=False)
        assert not twin.is_disk_out(disk_id)
    assert board.downloads_besides(3, 0) == 0, "the last disk has a number of its own"
    twin.close()


async def test_the_worker_with_more_connections_waits_for_the_others(board):
    seats = PublishedSeats("HTTP", 100, board, 3, 0)
    assert seats.pause_s() == 0, "it is alone"
    others = PublishedSeats("HTTP", 100, board, 3, 1)
    assert seats.pause_s() == 0
    first = seats.take("10.0.0.1", nothing)
    assert seats.pause_s() == pytest.approx(PAUSE_S)
    assert others.pause_s() == 0
    seats.take("10.0.0.2", nothing)
    assert seats.pause_s() == pytest.approx(2 * PAUSE_S)
    first.leave()
    assert seats.pause_s() == pytest.approx(PAUSE_S)
    for number in range(50):
        seats.take(f"10.1.0.{number}", nothing)
    assert seats.pause_s() == MAX_PAUSE_S
    board.mark_absent(1)
    assert seats.pause_s() == 0


async def test_newcomers_are_accepted_one_by_one_while_few_are_connected(board):
    seats = PublishedSeats("HTTP", 10_000, board, 3, 0)
    assert seats.in_a_row() == LEAST_IN_A_ROW
    for wanted, connections in ((LEAST_IN_A_ROW, 40), (4, 64), (MOST_IN_A_ROW, 2000)):
        while seats.open_count < connections:
            seats.take(f"10.1.{seats.open_count // 250}.{seats.open_count % 250}", nothing)
        assert seats.in_a_row() == wanted


async def test_a_seat_that_is_given_up_for_a_newcomer_is_published_too(board):
    seats = PublishedSeats("HTTP", 1, board, 3, 0)
    seats.take("10.0.0.1", nothing)
    assert seats.take("10.0.0.1", nothing) is not None
    assert board.fewest(3, besides=1) == 1
