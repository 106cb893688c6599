"""Draw docs/picture.png from the newest sweep: the photos, the base and the champion.

Run after `make sweep`: .venv/bin/python docs/picture.py
"""

from pathlib import Path

from evals.scorer import photo_images
from evals.sheet import contact_sheet
from krona.adapter_file import load_adapter
from krona.attach import attach
from krona.checkpoint import load_base
from krona.photos import load_photos
from krona.sample import sample
from krona.subject import load_subject
from tune.adapted import find_adapter

TEMPLATES = (
    "a {} in the jungle",
    "a {} on the beach",
    "a {} with a mountain in the background",
    "a blue {}",
)
GUIDANCE_SCALE = 4.0
SEED = 1


def main() -> None:
    """Write the picture beside this script."""
    path = find_adapter()
    manifest = load_adapter(path)[1]
    subject, base = load_subject(manifest.subject), load_base(manifest.base_model)
    photos = photo_images(load_photos(subject.photos_dir, resolution=base.resolution))
    noun = f"{subject.identifier} {subject.class_noun}"
    prompts = [template.format(noun) for template in TEMPLATES]
    rows = [("photos", photos[: len(prompts)])]
    rows.append(("base model", sample(base, prompts, guidance_scale=GUIDANCE_SCALE, seed=SEED)))
    attach(base, path)
    rows.append(("best adapter", sample(base, prompts, guidance_scale=GUIDANCE_SCALE, seed=SEED)))
    contact_sheet(rows, columns=prompts).save(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
