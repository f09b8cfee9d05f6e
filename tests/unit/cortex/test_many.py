"""Statements for many rows, as each database is given them."""

from __future__ import annotations

import sqlite3

import pytest

from mnemos.cortex.sql.many import BOOL, FLOAT, INT, MAX_ROWS, TEXT, Among, Many

UPDATE = Many(
    "UPDATE jobs SET size = size + :more, note = :note WHERE jobs.seq = :seq",
    more=INT,
    note=TEXT,
    seq=INT,
)
INSERT = Many(
    "INSERT INTO jobs (seq, at, kind) VALUES (:number, :now, 'new') ON CONFLICT (seq) DO NOTHING",
    number=INT,
    now=FLOAT,
)


def test_an_update_of_many_rows_takes_them_from_arrays() -> None:
    assert UPDATE.postgres == (
        "UPDATE jobs SET size = size + told.more, note = told.note "
        "FROM unnest(CAST(:more AS bigint[]), CAST(:note AS text[]), CAST(:seq AS bigint[])) "
        "AS told (more, note, seq) WHERE jobs.seq = told.seq"
    )


def test_an_insert_of_many_rows_takes_them_from_arrays() -> None:
    assert INSERT.postgres == (
        "INSERT INTO jobs (seq, at, kind) SELECT told.number, told.now, 'new' "
        "FROM unnest(CAST(:number AS bigint[]), CAST(:now AS float8[])) AS told (number, now) "
        "ON CONFLICT (seq) DO NOTHING"
    )


def test_a_deletion_of_many_rows_takes_them_from_an_array() -> None:
    assert Many("DELETE FROM jobs WHERE jobs.seq = :seq", seq=INT).postgres == (
        "DELETE FROM jobs USING unnest(CAST(:seq AS bigint[])) AS told (seq) "
        "WHERE jobs.seq = told.seq"
    )


def test_a_statement_may_take_several_lists() -> None:
    among = Among("SELECT 1 WHERE x = ANY(:keys) AND y = ANY(:more)", INT, more=TEXT)
    assert among.postgres == (
        "SELECT 1 WHERE x = ANY(CAST(:keys AS bigint[])) AND y = ANY(CAST(:more AS text[]))"
    )
    assert among.for_sqlite({"keys": [1], "more": {"a"}}) == {"keys": "[1]", "more": '["a"]'}


def test_sqlite_is_given_the_same_rows_one_by_one() -> None:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE jobs (seq PRIMARY KEY, size, note, at, kind)")
        connection.executemany(INSERT.sqlite, [(1, 0.5), (2, 1.5), (1, 9.0)])
        connection.execute("UPDATE jobs SET size = 10")
        connection.executemany(UPDATE.sqlite, [(5, "a", 2), (1, None, 2)])
        rows = connection.execute("SELECT seq, size, note, at, kind FROM jobs ORDER BY seq")
        assert rows.fetchall() == [(1, 10, None, 0.5, "new"), (2, 16, None, 1.5, "new")]
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("kind", "values", "literal"),
    [
        (INT, [1, None, -(2**40)], "{1,NULL,-1099511627776}"),
        (FLOAT, [0.1, None, 3, 1e300], "{0.1,NULL,3,1e+300}"),
        (BOOL, [True, False, None, 1, 0], "{t,f,NULL,t,f}"),
        (
            TEXT,
            ["a", None, "NULL", "", ",{}", 'say "x\\y"'],
            r'{"a",NULL,"NULL","",",{}","say \"x\\y\""}',
        ),
        (TEXT, [], "{}"),
    ],
)
def test_a_column_is_written_as_an_array(kind: str, values: list[object], literal: str) -> None:
    among = Among("SELECT 1 WHERE x = ANY(:keys)", kind)
    assert among.for_postgres({"keys": values, "y": 1}) == {"keys": literal, "y": 1}


def test_many_rows_and_long_ones_are_cut_into_several_statements() -> None:
    rows = [(number, "x", number) for number in range(2 * MAX_ROWS + 1)]
    told = [parameters["seq"].count(",") + 1 for parameters in UPDATE.statements(rows)]
    assert told == [MAX_ROWS, MAX_ROWS, 1]
    long = [(number, "x" * 3_000_000, number) for number in range(5)]
    told = [parameters["seq"].count(",") + 1 for parameters in UPDATE.statements(long)]
    assert told == [2, 2, 1]
    [alone] = UPDATE.statements([(1, "x" * 20_000_000, 1)])
    assert alone["seq"] == "{1}"


def test_a_statement_among_many_keys_is_written_for_both() -> None:
    among = Among("SELECT a FROM b WHERE c = ANY(:keys) AND d = :d", TEXT)
    assert (
        among.sqlite == "SELECT a FROM b WHERE c IN (SELECT value FROM json_each(:keys)) AND d = :d"
    )
    assert among.postgres == "SELECT a FROM b WHERE c = ANY(CAST(:keys AS text[])) AND d = :d"
