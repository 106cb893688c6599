"""Subject and prompt scores: unit-length features in, a value for each image out, or their mean."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean over n images; `se` is its standard error over those images (0 for one image)."""

    mean: float
    se: float
    n: int


def summarize(values: Tensor) -> Score:
    """Mean and standard error of one value an image, (n,)."""
    n = values.numel()
    se = values.std(correction=1).item() / n**0.5 if n > 1 else 0.0
    return Score(mean=values.mean().item(), se=se, n=n)


def prompt_fidelity(images: Tensor, texts: Tensor) -> Tensor:
    """CLIP-T: cosine of image i with its own prompt i, (n,); (n, d) and (n, d)."""
    return (images * texts).sum(dim=-1)


def subject_fidelity(images: Tensor, photos: Tensor) -> Tensor:
    """CLIP-I or DINO: mean cosine of each image with all photos, (n,); (n, d) and (m, d).

    Source: DreamBooth (arXiv 2208.12242): all generated × real pairs.
    """
    return (images @ photos.T).mean(dim=-1)


def pairwise_similarity(photos: Tensor) -> float:
    """Mean cosine between different rows of (m, d), m ≥ 2: the ceiling of `subject_fidelity`."""
    m = photos.shape[0]
    similarity = photos @ photos.T
    return float((similarity.sum() - similarity.diagonal().sum()) / (m * (m - 1)))


def mismatched_fidelity(images: Tensor, texts: Tensor) -> float:
    """Mean cosine of images with the prompts of *other* images; (n, d) and (n, d).

    Rows with an equal prompt do not count as mismatched; some must differ.
    """
    similarity = images @ texts.T
    other = (texts @ texts.T) < 1 - 1e-5
    return float(similarity[other].mean())
