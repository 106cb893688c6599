"""What is known of where an adapter comes from, whatever file it was read from."""

from dataclasses import dataclass

from krona.exchange.adapter_file import Manifest
from krona.subject.subject import fill


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an adapter comes from.

    Attributes:
        name: the subject's, or that of the file.
        trigger_phrase: what prompts call the subject, "sks toy"; None where the file does not say.
        manifest: None for a file that another tool made.
    """

    name: str
    trigger_phrase: str | None = None
    manifest: Manifest | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> "Origin":
        """The origin that a manifest describes."""
        phrase = f"{manifest.identifier} {manifest.class_noun}"
        return cls(name=manifest.subject, trigger_phrase=phrase, manifest=manifest)

    @property
    def prompts(self) -> tuple[str, ...]:
        """What it was sampled with, the subject in them."""
        if self.manifest is None or self.trigger_phrase is None:
            return ()
        return tuple(fill(prompt, self.trigger_phrase) for prompt in self.manifest.prompts)
