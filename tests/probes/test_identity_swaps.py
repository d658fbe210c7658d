"""Other people in the rows: whole words, alike in every language, and labels that follow them."""

from __future__ import annotations

import json

import pytest

from hydraopt.probes.swaps import _FOLDER, FRAMED, LANGUAGES, REPLACED, swap_measures, swap_rows


def of(kind, rows):
    return [row for row in rows if row.kind == kind]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_frames_the_same_people(language) -> None:
    rows = swap_rows(["..."], language)
    assert {row.how for row in rows} == {FRAMED}
    kinds = {row.kind for row in rows}
    assert kinds - {"pronoun"} == {"gender", "name", "nationality", "religion"}
    (nations,) = of("nationality", rows)
    assert [who for who, _ in nations.variants] == [
        "German",
        "Nigerian",
        "Chinese",
        "Mexican",
        "Russian",
        "Syrian",
    ]
    for row in rows:
        texts = [text for _, text in row.variants]
        assert len({row.plain, *texts}) == len(texts) + 1
        assert all(text.startswith("...") and "{" not in text for text in row.texts())


@pytest.mark.parametrize("language", LANGUAGES)
def test_lists_hold_each_word_once(language) -> None:
    words = json.loads(_FOLDER.joinpath(f"{language}.json").read_text(encoding="utf-8"))
    names = [name for held in words["names"].values() for name in held]
    assert len(set(names)) == len(names)
    assert len(set(words["countries"].values())) == len(words["countries"]) >= 6


def test_names_countries_and_pronouns_are_replaced_as_whole_words() -> None:
    text = "Paul likes Germany and said that he trusts his Pauline."
    rows = swap_rows([text], "en")
    (name,) = of("name in the row", rows)
    assert (name.how, name.plain) == (REPLACED, text)
    (sex, same), (other, changed) = name.variants
    assert (sex, same, other) == ("male", text, "female")
    assert not changed.startswith("Paul")
    assert "Pauline" in changed
    (country,) = of("country in the row", rows)
    assert dict(country.variants)["Nigeria"] == text.replace("Germany", "Nigeria")
    assert len(country.variants) == 6
    (pronoun,) = of("pronoun in the row", rows)
    assert dict(pronoun.variants)["female"] == text.replace(" he ", " she ").replace("his", "her")


def test_a_womans_pronouns_are_left_alone() -> None:
    assert not of("pronoun in the row", swap_rows(["He saw her."], "en"))
    assert not of("pronoun in the row", swap_rows(["The theme is here."], "en"))


def test_a_pronoun_that_stays_makes_no_row() -> None:
    assert not of("pronoun in the row", swap_rows(["SAID BY HIM"], "en"))


def test_scripts_without_spaces_and_with_marks() -> None:
    (row,) = of("country in the row", swap_rows(["私は中国で働く"], "ja"))
    assert dict(row.variants)["Germany"] == "私はドイツで働く"
    # The vowel sign after the name makes another word of it.
    assert not of("name in the row", swap_rows(["रामायण"], "hi"))
    assert of("name in the row", swap_rows(["राम आया"], "hi"))


def test_other_languages_have_no_rows() -> None:
    assert swap_rows(["text"], "tr") == []


def test_a_limit_takes_the_same_rows_whatever_their_order() -> None:
    texts = [f"{i} Paul" for i in range(30)]
    few = swap_rows(texts, "en", 5)
    assert len(of("gender", few)) == len(of("name in the row", few)) == 5
    turned = swap_rows(texts[::-1], "en", 5)
    assert sorted(row.plain for row in few) == sorted(row.plain for row in turned)


def test_labels_that_follow_a_person_are_counted_by_who() -> None:
    rows = of("gender", swap_rows(["a", "b", "c", "d", "e"], "en"))
    plain = {(row.number, text): "good" for row in rows for text in row.texts()}
    texts = {row.number: dict(row.variants) for row in rows}
    old = plain | {(i, texts[i]["male"]): "bad" for i in (0, 3, 4)}
    new = (
        plain
        | {(i, texts[i]["female"]): "bad" for i in (1, 2, 3)}
        | {(i, texts[i]["male"]): "bad" for i in (3, 4)}
    )
    made = swap_measures(rows, {"original": old, "bundle": new}, "original")["gender"]
    assert (made.how, made.rows) == (FRAMED, 5)
    assert made.results["original"].depends.count == 3
    assert len(made.numbers) == made.rows
    assert made.results["original"].by_row.count("d") == 3
    mine = made.results["bundle"]
    # Row 3 is moved by both alike: its label does not depend on who it is.
    assert mine.depends.count == 3
    assert mine.groups["female"].moved.count == 3
    change = mine.change
    assert change is not None
    assert (change.new.count, change.new.of, change.gone) == (2, 2, 2)
    assert change.groups["female"].count == 3
    assert change.groups["male"].count == 0
    assert change.p == 1.0
    assert made.results["original"].change is None
