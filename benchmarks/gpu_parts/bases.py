"""The parts `sd15` and `sdxl`: training on a whole UNet with random weights, at its native size."""

from gpu_parts.report import Notes
from gpu_parts.setup import Setup
from gpu_parts.steps import contest, ways
from gpu_parts.training import Trained, memory, packs


def sd15(setup: Setup, notes: Notes) -> None:
    """SD 1.5, 512 px; blocks are compiled last, which takes longest."""
    base = setup.load("sd15")
    trained = Trained.on(base, steps=setup.pick(3, 1))
    memory(trained, notes, batch_sizes=setup.pick((1, 4), (1,)), rounds=setup.pick(3, 1))
    contest(base, notes, rounds=setup.pick(5, 1))
    packs(trained, notes, sizes=(2, 4, 8), rounds=setup.pick(3, 1))
    ways(base, notes, rounds=setup.pick(4, 1), compiles=not setup.is_toy)


def sdxl(setup: Setup, notes: Notes) -> None:
    """SDXL, 1024 px; its plan alone takes ten seconds and more, so it is for one image."""
    base = setup.load("sdxl")
    trained = Trained.on(base, steps=setup.pick(2, 1))
    memory(trained, notes, batch_sizes=(1,), rounds=setup.pick(3, 1))
    contest(base, notes, rounds=setup.pick(3, 1))
    packs(trained, notes, sizes=(2, 4, 8), rounds=setup.pick(2, 1))
    ways(base, notes, rounds=setup.pick(2, 1), compiles=False)
