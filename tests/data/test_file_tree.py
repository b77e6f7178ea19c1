"""Files are found by names from other machines, and never mistaken for another file."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskline.data.file_tree import FileTree, Finder, parts_of
from maskline.data.source import Source

NFD = unicodedata.normalize("NFD", "é")


@pytest.mark.parametrize(
    ("files", "name", "found"),
    [
        (["images/a.png"], "a.png", "images/a.png"),
        (["images/default/a.png"], "a.png", "images/default/a.png"),
        (["images/a.png"], "../images/a.png", "images/a.png"),
        (["images/a.png"], "/home/me/set/images/a.png", "images/a.png"),
        (["images/a.png"], r"C:\Users\me\images\a.png", "images/a.png"),
        (["images/a.png"], r"..\..\label-studio\media\upload\4\a.png", "images/a.png"),
        (["images/a b.png"], "a%20b.png", "images/a b.png"),
        (["images/a.png"], "/data/local-files/?d=images/a.png", "images/a.png"),
        ([f"images/{NFD}.png"], "é.png", f"images/{NFD}.png"),
        (["Images/IMG_1.JPG"], "images/img_1.jpg", "Images/IMG_1.JPG"),
        (["x/a.png", "y/a.png"], "y/a.png", "y/a.png"),
        (["x/images/a.png", "y/b.png"], "elsewhere/images/a.png", "x/images/a.png"),
        (["a%20b.png", "a b.png"], "a%20b.png", "a%20b.png"),
        (["A.png", "a.png"], "a.png", "a.png"),
        (["masks/a.png", "images/a.png"], "a.png", "images/a.png"),
        (["x/a.png", "y/a.png"], "z/a.png", None),
        (["images/a.png"], "b.png", None),
        (["images/a.png"], "a.jpg", None),
        (["images/a.png"], "", None),
        (["images/a.png"], "..", None),
    ],
)
def test_a_name_means_a_file(files: list[str], name: str, found: str | None) -> None:
    match = Finder(files).find(name)
    assert (match and match.path) == found


def test_a_file_that_another_name_means_is_not_taken() -> None:
    finder = Finder(["val/0001.jpg"])
    assert {name: match.path for name, match in finder.find_all(["train/0001.jpg", "val/0001.jpg"]).items()} == {
        "val/0001.jpg": "val/0001.jpg"
    }


def test_a_file_that_two_names_may_mean_is_not_given_to_either() -> None:
    finder = Finder(["images/x/1.jpg"])
    assert finder.find_all(["a/1.jpg", "b/1.jpg"]) == {}
    assert list(finder.find_all(["a/1.jpg", "b/x/1.jpg"])) == ["b/x/1.jpg"]


def test_a_file_outside_an_existing_folder_of_the_name_is_not_taken() -> None:
    files = ["images/s1/0.jpg", "images/s1/1.jpg", "images/s2/0.jpg"]
    assert Finder(files).find("images/s2/1.jpg") is None
    assert Finder(files).find("cam/s2/1.jpg") is None
    assert Finder(["a/x/1.jpg", "b/0.jpg"]).find("b/y/1.jpg", local=True) is None
    assert Finder(["a/x/1.jpg", "b/0.jpg"]).find("b/y/1.jpg") is not None  # of another machine


def test_a_file_that_another_name_leads_to_is_not_meant_by_a_shorter_one() -> None:
    found = Finder(["images/a.png", "images/train/a.png"]).find_all(["a.png", "train/a.png"], "train")
    assert {name: match.path for name, match in found.items()} == {
        "a.png": "images/a.png",
        "train/a.png": "images/train/a.png",
    }


def test_a_name_that_fits_several_files_is_not_guessed() -> None:
    finder = Finder(["masks/a.png", "photos/a.png", "photos/b.png"])
    assert finder.find_all(["a.png"]) == {} and finder.rivals("a.png") == ["masks/a.png", "photos/a.png"]
    assert finder.find_all(["a.png", "b.png"])["a.png"].path == "photos/a.png"  # where another is
    assert finder.find("a.png", near="masks/") == ("masks/a.png", "masks/", False)
    assert finder.rivals("b.png") == finder.rivals("c.png") == []


def test_a_file_in_the_folder_of_another_split_is_not_taken() -> None:
    files = ["images/train2017/1.jpg", "images/val2017/2.jpg"]
    assert Finder(files).find("1.jpg", "val") is None
    assert Finder(files).find("1.jpg", "train") == (files[0], "images/train2017/", False)
    assert Finder(files).find("train2017/1.jpg", "val") == (files[0], "images/", False)  # the name says so: LVIS
    assert Finder(files[:1]).find("1.jpg", "val") is None
    assert Finder(["images/test_bench/1.jpg"]).find("1.jpg", "train") is not None


def test_the_folder_that_most_names_start_from_wins() -> None:
    finder = Finder(["images/1.png", "old/1.png", "old/2.png", "images/3.png", "images/2.png"])
    assert {match.base for match in finder.find_all(["1.png", "2.png", "3.png"]).values()} == {"images/"}


def test_thousands_of_files_of_one_name_take_no_time_and_are_not_guessed() -> None:
    files = [f"{number}/image.png" for number in range(20_000)]
    found = Finder(files).find_all([*files, "moved/image.png"])
    assert len(found) == 20_000 and all(name == match.path for name, match in found.items())


@given(st.text(max_size=30))
def test_any_name_is_answered(name: str) -> None:
    match = Finder(["images/a.png"]).find(name)
    assert match is None or match.path == "images/a.png"
    assert not {"", ".", ".."} & set(parts_of(name))


def test_hidden_files_and_shadows_are_not_listed(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".cache/b.png", "__MACOSX/c.png", "sub/d.png", "sub/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert FileTree.of(tmp_path).files == ("a.png", "sub/d.png")


def test_names_are_kept_where_all_images_are_where_they_lead(tmp_path: Path) -> None:
    for name in ("images/default/a.png", "images/default/sub/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    located = Source.of(tmp_path).locate(["a.png", "sub/b.png", "gone.png"])
    assert located.folder == tmp_path / "images/default" and located.moved == {}
    assert located.paths == {"a.png": "a.png", "sub/b.png": "sub/b.png"}
    located = Source.of(tmp_path).locate(["/far/a.png", "C:\\far\\b.png"])
    assert located.folder == tmp_path / "images/default" and list(located.moved) == ["/far/a.png", "C:\\far\\b.png"]
    assert located.paths == {"/far/a.png": "a.png", "C:\\far\\b.png": "sub/b.png"}
