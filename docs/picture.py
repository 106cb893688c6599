"""Draw docs/picture.png from the newest sweep: the photos, the base and the champion, as scored.

Run after `make sweep`: .venv/bin/python docs/picture.py
"""

from pathlib import Path

from PIL import Image

from evals.protocol import Protocol
from evals.scorer import photo_images
from evals.sheet import contact_sheet
from krona.base.checkpoint import load_base
from krona.diffusion.sample import sample
from krona.exchange.adapter_file import load_adapter
from krona.exchange.attach import attach
from krona.subject.photos import load_photos
from krona.subject.subject import load_subject
from tune.records.adapted import find_adapter

TEMPLATES = (
    "a {} in the snow",
    "a {} on the beach",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} with a wheat field in the background",
)


def main() -> None:
    """Write the picture beside this script."""
    path = find_adapter()
    manifest = load_adapter(path)[1]
    subject, base = load_subject(manifest.subject), load_base(manifest.base_model)
    photos = photo_images(load_photos(subject.photos_dir, resolution=base.resolution))
    shown = [subject.prompts.index(template) for template in TEMPLATES]

    def row(label: str) -> tuple[str, list[Image.Image]]:
        protocol = Protocol()
        images = sample(
            base,
            subject.instance_prompts,
            steps=protocol.sampling_steps,
            guidance_scale=protocol.guidance_scale,
            seed=protocol.sampling_seed,
        )
        return label, [images[i] for i in shown]

    rows = [("photos", photos[: len(shown)]), row("base model")]
    attach(base, path)
    rows.append(row("best adapter"))
    columns = [subject.instance_prompts[i] for i in shown]
    contact_sheet(rows, columns=columns).save(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
