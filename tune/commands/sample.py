"""`krona sample`: pictures from a base, with an adapter or without."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from PIL.Image import Image


def sample(
    prompts: tyro.conf.Positional[tuple[str, ...]],
    *,
    adapter: str | None = None,
    base: str | None = None,
    vae: str | None = None,
    config: Path | None = None,
    any_base: bool = False,
    output: Path = Path("samples"),
    images_per_prompt: int = 4,
    sampling_steps: int = 20,
    guidance_scale: float = 4.0,
    negative_prompt: str = "",
    resolution: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    memory_gib: float | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Write pictures of prompts; a prompt may say {} where the adapter's subject goes.

    Args:
        prompts: What to draw: "a {} on the beach".
        adapter: Adapter file, or the MLflow run that holds it. Unless given: none, the plain base.
            Krona's own, LoRA or LoKr in kohya, LyCORIS, PEFT or diffusers form, or a checkpoint
            of DiffuseKronA.
        base: Checkpoint. Unless given: the one the adapter was trained on, else toyland.
        vae: Autoencoder instead of its own: a folder, a .safetensors file, or a hub's id.
        config: What a checkpoint in one file is: a folder in diffusers layout, or a YAML.
        any_base: Accept another base than the one the adapter was trained on.
        output: Folder that gets one PNG for each image, and sheet.png with all of them.
        images_per_prompt: Images for each prompt.
        sampling_steps: Denoising steps of the sampler.
        guidance_scale: Weight of classifier-free guidance.
        negative_prompt: What guidance leads away from.
        resolution: Side of the images in pixels. Unless given: the checkpoint's own.
        batch_size: Images at once. Unless given: by their size and the memory.
        seed: Seed of the starting noise.
        device: Torch device. Unless given: cuda if there is one, else cpu.
        precision: Of the base's weights. 'auto' is bf16 on devices that multiply it natively, else
            fp32.
        memory_gib: Device memory to stay within: encoders wait in main memory, fewer images are
            made at once. Unless given: nine tenths of a GPU's.
        tracking_uri: MLflow store of the run. Unless given: $MLFLOW_TRACKING_URI or
            sqlite:///mlflow.db.
    """
    from evals.protocol import Protocol
    from krona.base.source import BaseSource
    from krona.diffusion.sample import sample as draw
    from krona.errors import KronaError
    from krona.exchange.attach import attach, read_origin
    from krona.exchange.origin import Origin
    from krona.planning.budget import fit_sampling
    from krona.planning.placement import Placement
    from krona.subject.subject import fill
    from tune.config.trial import TOYLAND
    from tune.records.adapted import base_of, find_adapter
    from tune.trials.checks import check_folder

    if not prompts:
        raise KronaError("no prompt says what to draw; give one: krona sample 'a toy on the beach'")
    protocol = Protocol(
        images_per_prompt=images_per_prompt,
        sampling_steps=sampling_steps,
        guidance_scale=guidance_scale,
        sampling_seed=seed,
    )
    check_folder(output, "--output")
    path = None if adapter is None else find_adapter(adapter, tracking_uri=tracking_uri)
    origin = Origin(name="") if path is None else read_origin(path)
    if path is None:
        source = BaseSource(name=base or TOYLAND, vae=vae, config=config)
    else:
        source = base_of(path, origin, base, vae=vae, config=config)
    place = Placement.of(device, precision, memory_gib)
    savings, batch_size = fit_sampling(
        source,
        place.budget_bytes,
        precision=place.precision,
        resolution=resolution,
        batch_size=batch_size,
        is_guided=guidance_scale != 1.0,
    )
    loaded = place.load(source, savings)
    if path is not None:
        attach(loaded, path, is_any_base=any_base)
    filled = [fill(prompt, origin.trigger_phrase or "{}") for prompt in prompts]
    images = draw(
        loaded,
        filled,
        negative_prompt=negative_prompt,
        resolution=resolution,
        batch_size=batch_size,
        **protocol.sampling(),
    )
    num = images_per_prompt
    rows = [(prompt, images[i * num : (i + 1) * num]) for i, prompt in enumerate(filled)]
    _save(output, rows)
    print(f"{len(images)} images in {output}, all on {output / 'sheet.png'}")


def _save(output: Path, rows: list[tuple[str, list["Image"]]]) -> None:
    """Write the pictures of each prompt, and a sheet with a row for each."""
    from evals.sheet import contact_sheet

    output.mkdir(parents=True, exist_ok=True)
    for row, (_, pictures) in enumerate(rows):
        for number, picture in enumerate(pictures):
            picture.save(output / f"{row:02d}_{number:02d}.png")
    contact_sheet(rows).save(output / "sheet.png")
