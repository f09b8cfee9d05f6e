"""Names and keys: nothing that is accepted can leave its folder."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemos.engram.errors import InvalidKeyError
from mnemos.engram.keys import check_bucket, check_key, check_name, check_prefix, check_version

TRAVERSALS = [
    "..",
    "../x",
    "a/../../b",
    "/abs",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "a\\..\\b",
    "..\\b",
    "C:\\x",
    "a\0b",
    "a\x7fb",
    "\u202ename",
    "",
]


@pytest.mark.parametrize("key", TRAVERSALS)
def test_traversal_is_refused_in_one_sentence(key: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        check_key(key)
    assert caught.value.code == "invalid_key"
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", [*TRAVERSALS, ".hidden", "-x", "a b", "a/b", "a..b", "x" * 129])
def test_names_are_narrower_than_keys(name: str) -> None:
    with pytest.raises(InvalidKeyError):
        check_name(name, "family")


@pytest.mark.parametrize("name", ["smollm2", "7B", "135m-instruct", "v1.0_rc", "x" * 128])
def test_ordinary_names_pass(name: str) -> None:
    assert check_version(name) == name


def test_latest_is_no_version() -> None:
    with pytest.raises(InvalidKeyError, match="reserved"):
        check_version("latest")
    assert check_name("latest", "family") == "latest"


def test_lone_surrogates_are_refused_and_not_raised() -> None:
    with pytest.raises(InvalidKeyError):
        check_key("a/\ud800")


@given(st.text(max_size=40))
def test_an_accepted_key_stays_inside(key: str) -> None:
    try:
        check_key(key)
    except InvalidKeyError:
        return
    path = PurePosixPath("/root") / key
    assert path.is_relative_to("/root")
    assert ".." not in path.parts
    assert str(path) == f"/root/{key}"


@given(st.text(max_size=140))
def test_an_accepted_name_is_one_part_of_a_key(name: str) -> None:
    try:
        check_name(name, "family")
    except InvalidKeyError:
        return
    assert check_key(name) == name
    assert "/" not in name


@given(st.text(max_size=70))
def test_an_accepted_bucket_is_one_folder(bucket: str) -> None:
    try:
        check_bucket(bucket)
    except InvalidKeyError:
        return
    assert PurePosixPath(bucket).parts == (bucket,)


def test_a_prefix_may_be_empty_or_end_in_a_slash() -> None:
    assert check_prefix("") == ""
    assert check_prefix("a/b/") == "a/b"
    with pytest.raises(InvalidKeyError):
        check_prefix("a/../b/")
