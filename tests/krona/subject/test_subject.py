"""Subjects: embedded ones by name, the user's by folder, prompts filled with the right article."""

from pathlib import Path

import pytest

from krona.errors import KronaError
from krona.subject.subject import LIVE_PROMPTS, OBJECT_PROMPTS, Subject, load_subject


def _subject(**changes: object) -> Subject:
    values = {
        "name": "x",
        "class_noun": "toy",
        "identifier": "sks",
        "prompts": ("a {} on the beach",),
        "photos_dir": Path(),
    }
    return Subject(**(values | changes))  # type: ignore[arg-type]


def test_prompts_name_the_subject_or_its_class() -> None:
    subject = _subject()
    assert subject.instance_prompt == "a sks toy"
    assert subject.class_prompt == "a toy"
    assert subject.instance_prompts == ("a sks toy on the beach",)
    assert subject.class_prompts == ("a toy on the beach",)


def test_a_caption_tells_of_the_subject() -> None:
    duck = load_subject("duck")
    assert duck.caption(None) == "a sks bird"
    assert duck.caption("a {} on a sofa") == "a sks bird on a sofa"
    assert duck.caption("my sks bird asleep") == "my sks bird asleep"
    assert duck.caption("sks, the bird") == "sks, the bird"
    with pytest.raises(KronaError, match=r"'a bird' of subject 'duck' must hold \{\} where.*sks"):
        duck.caption("a bird")


def test_the_article_follows_the_word() -> None:
    prompts = ("a {}", "an {}", "A {} in a banana", "a red {}", "banana {}")
    subject = _subject(class_noun="animal", prompts=prompts)
    assert subject.class_prompt == "an animal"
    assert subject.instance_prompt == "a sks animal"
    assert subject.class_prompts == (
        "an animal",
        "an animal",
        "An animal in a banana",
        "a red animal",
        "banana animal",
    )


def test_a_folder_describes_its_subject(subject_dir: Path) -> None:
    subject = load_subject(str(subject_dir))
    assert (subject.name, subject.class_noun, subject.identifier) == ("rex", "dog", "sks")
    assert subject.prompts == ("a {}", "a {} in the snow")
    assert subject.photos_dir == subject_dir


def test_arguments_overrule_the_folder(subject_dir: Path) -> None:
    subject = load_subject("fido", photos=subject_dir, class_noun="puppy", identifier="zwx")
    assert (subject.name, subject.instance_prompt) == ("fido", "a zwx puppy")


@pytest.mark.parametrize(
    ("noun", "expected"), [("teapot", OBJECT_PROMPTS), ("old dog", LIVE_PROMPTS)]
)
def test_prompts_are_dreambenchs_unless_given(
    tmp_path: Path, noun: str, expected: tuple[str, ...]
) -> None:
    subject = load_subject("mine", photos=tmp_path, class_noun=noun)
    assert subject.prompts == expected
    assert len(set(expected)) == 25


def test_a_class_is_required(tmp_path: Path) -> None:
    with pytest.raises(KronaError, match='--class-noun dog, or write class = "dog"'):
        load_subject("mine", photos=tmp_path)
    with pytest.raises(KronaError, match="Say its class"):
        load_subject("mine", photos=tmp_path, class_noun=" ")


def test_an_unknown_subject_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krona.subject.subject.subject_names", lambda: ["duck", "monster"])
    with pytest.raises(KronaError, match="did you mean 'monster'"):
        load_subject("monsta")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class = ", "no valid TOML"),
        ('clas = "dog"', "unknown key 'clas': did you mean 'class'"),
        ("class = 3", "class must be a text, got 3"),
        ('prompts = "a {}"', "prompts must be a list of texts"),
        ('class = "dog"\nprompts = ["a dog"]', "must hold {} once"),
        ('class = "dog"\nidentifier = " "', "empty identifier"),
    ],
)
def test_a_bad_toml_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "subject.toml").write_text(text)
    with pytest.raises(KronaError, match=message):
        load_subject("mine", photos=tmp_path, class_noun=None)
