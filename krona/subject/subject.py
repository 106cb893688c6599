"""What is taught: a name or a folder in, a Subject with its class, identifier and prompts out."""

import re
from dataclasses import dataclass
from pathlib import Path

from krona.errors import KronaError, nearest
from krona.subject.description import read_description
from krona.subject.folder import check_is_folder
from krona.toyland.embedded import SUBJECTS, subject_names

_PLACES = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)
_LOOKS = ("a red {}", "a purple {}", "a shiny {}", "a wet {}", "a cube shaped {}")

# DreamBooth (arXiv 2208.12242): DreamBench's 25 prompts for objects and 25 for live subjects.
OBJECT_PROMPTS = (
    *_PLACES,
    "a {} with a wheat field in the background",
    "a {} with a tree and autumn leaves in the background",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} floating in an ocean of milk",
    "a {} on top of green grass with sunflowers around it",
    "a {} on top of a mirror",
    "a {} on top of the sidewalk in a crowded street",
    "a {} on top of a dirt road",
    "a {} on top of a white rug",
    *_LOOKS,
)
LIVE_PROMPTS = (
    *_PLACES,
    "a {} wearing a red hat",
    "a {} wearing a santa hat",
    "a {} wearing a rainbow scarf",
    "a {} wearing a black top hat and a monocle",
    "a {} in a chef outfit",
    "a {} in a firefighter outfit",
    "a {} in a police outfit",
    "a {} wearing pink glasses",
    "a {} wearing a yellow shirt",
    "a {} in a purple wizard outfit",
    *_LOOKS,
)
_ANIMALS = ("animal", "bird", "cat", "cow", "dog", "hamster", "horse", "kitten", "puppy", "rabbit")
LIVE_CLASSES = frozenset((*_ANIMALS, "boy", "child", "girl", "man", "person", "pet", "woman"))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject to teach: `identifier` is the rare word that will name it.

    prompts: what to ask for, with {} where the subject goes.  photos_dir: folder of its photos.
    """

    name: str
    class_noun: str
    identifier: str
    prompts: tuple[str, ...]
    photos_dir: Path

    def __post_init__(self) -> None:
        for prompt in self.prompts:
            if prompt.count("{}") != 1 or prompt.replace("{}", "").count("{"):
                raise KronaError(
                    f"prompt '{prompt}' of subject '{self.name}' must hold {{}} once, where the "
                    "subject goes: 'a {} on the beach'"
                )
        for what, value in (("class", self.class_noun), ("identifier", self.identifier)):
            if not value.strip():
                raise KronaError(f"subject '{self.name}' has an empty {what}")

    @property
    def instance_prompt(self) -> str:
        """The training caption: "a sks toy"."""
        return fill("a {}", f"{self.identifier} {self.class_noun}")

    def caption(self, said: str | None) -> str:
        """The training caption of a photo of which `said` is told, {} being the subject.

        Raises: KronaError if it tells of no subject.
        """
        if said is None:
            return self.instance_prompt
        if "{}" not in said and self.identifier not in said:
            raise KronaError(
                f"caption '{said}' of subject '{self.name}' must hold {{}} where the subject is, "
                f"or its identifier: 'a {{}} on a sofa', 'a {self.identifier} "
                f"{self.class_noun} on a sofa'"
            )
        return fill(said, f"{self.identifier} {self.class_noun}")

    @property
    def class_prompt(self) -> str:
        """The caption of the prior: "a toy"."""
        return fill("a {}", self.class_noun)

    @property
    def instance_prompts(self) -> tuple[str, ...]:
        """The prompts, asking for this very subject: "a sks toy on the beach"."""
        return tuple(fill(p, f"{self.identifier} {self.class_noun}") for p in self.prompts)

    @property
    def class_prompts(self) -> tuple[str, ...]:
        """The prompts, asking for anything of the class: "a toy on the beach"."""
        return tuple(fill(p, self.class_noun) for p in self.prompts)


def load_subject(
    subject: str,
    *,
    photos: Path | None = None,
    class_noun: str | None = None,
    identifier: str | None = None,
) -> Subject:
    """Find a subject by its embedded name, or describe the one in a folder of photos.

    Args:
        subject: an embedded subject's name, a folder, or any name if `photos` is given.
        photos: folder of the user's photos; a subject.toml in it is read.
        class_noun, identifier: what the subject is, and the rare word for it; both overrule
            subject.toml. The identifier is "sks" if nothing is said.
    Raises: KronaError for an unknown subject, an unknown class, or a bad subject.toml.
    """
    folder = photos or _find(subject)
    check_is_folder(folder)
    said = read_description(folder)
    noun = class_noun or said.get("class")
    if not noun or not noun.strip():
        raise KronaError(
            f"what is '{subject}'? Say its class, as in --class-noun dog, "
            f'or write class = "dog" to {folder / "subject.toml"}'
        )
    default_prompts = LIVE_PROMPTS if noun.split()[-1] in LIVE_CLASSES else OBJECT_PROMPTS
    return Subject(
        name=said.get("name") or (subject if photos else folder.name),
        class_noun=noun,
        identifier=identifier or said.get("identifier", "sks"),
        prompts=tuple(said.get("prompts", default_prompts)),
        photos_dir=folder,
    )


def _find(subject: str) -> Path:
    if subject in subject_names():
        return SUBJECTS / subject
    if Path(subject).is_dir():
        return Path(subject)
    raise KronaError(
        f"unknown subject '{subject}': {nearest(subject, subject_names())}. "
        "For photos of your own, give their folder (--photos)"
    )


def fill(prompt: str, noun: str) -> str:
    """Put `noun` in the prompt's {}, with the article that it takes."""
    article = r"\1n " if noun[0].lower() in "aeiou" else r"\1 "
    return re.sub(r"\b([aA])n? (?={})", article, prompt).replace("{}", noun)
