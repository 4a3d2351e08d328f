"""Published weights of our models: where they are, under which licence, and how their pictures were prepared.

The rows follow the default configurations of timm 1.0.31, whose repositories on the Hugging Face hub are named
`timm/MODEL.TAG`. Left out are weights without a stated licence, weights that timm does not host, and CLIP's weights
under names with another activation than they were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddlevit.errors import did_you_mean
from paddlevit.preprocessing import CLIP_MEAN, CLIP_STD, HALF_MEAN, HALF_STD, IMAGENET_MEAN, IMAGENET_STD

APACHE, MIT, NON_COMMERCIAL = "apache-2.0", "mit", "cc-by-nc-4.0"
APPLE, APPLE_RESEARCH = "apple-ascl", "apple-amlr"
IMAGENET, HALF, CLIP = (IMAGENET_MEAN, IMAGENET_STD), (HALF_MEAN, HALF_STD), (CLIP_MEAN, CLIP_STD)


@dataclass(frozen=True)
class Published:
    """One set of published weights; the picture's size is that of the model's name, resized bicubically."""

    model: str
    """Name of the model."""
    tag: str
    """What tells it from other weights of the same model: who trained it, on what."""
    num_classes: int
    """Outputs of its classifier; 0 when it has none."""
    crop_pct: float
    """See `Preprocessing`."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and standard deviation."""
    licence: str
    """As the repository states it."""
    crop_mode: str = "center"
    """See `Preprocessing`."""

    @property
    def repository(self) -> str:
        """Its name on the hub."""
        return f"timm/{self.model.replace('_clip_quickgelu_', '_clip_')}.{self.tag}"


def find_published(model: str, tag: str | None = None) -> Published:
    """The weights of a model with a tag, or those that timm takes by default.

    Raises:
        ValueError: None are known; the message names the tags that are.
    """
    known = [row for row in PUBLISHED if row.model == model]
    if not known:
        raise ValueError(
            f"No published weights of {model} are known; pretrained may be the path of a file that you have."
            f"{did_you_mean(model, {row.model for row in PUBLISHED})}"
        )
    if tag is None:
        return known[0]
    for row in known:
        if row.tag == tag:
            return row
    tags = [row.tag for row in known]
    raise ValueError(f"{model} has no weights {tag!r}.{did_you_mean(tag, tags)} Its tags are {', '.join(tags)}.")


# model, tag, classes, crop_pct, mean and std, licence; the first of each model is its default.
_ROWS: list[tuple] = [
    ("vit_tiny_patch16_224", "augreg_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_tiny_patch16_224", "augreg_in21k", 21843, 0.9, HALF, APACHE),
    ("vit_tiny_patch16_384", "augreg_in21k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_small_patch32_224", "augreg_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_small_patch32_224", "augreg_in21k", 21843, 0.9, HALF, APACHE),
    ("vit_small_patch32_384", "augreg_in21k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_small_patch16_224", "augreg_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_small_patch16_224", "augreg_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_small_patch16_224", "augreg_in21k", 21843, 0.9, HALF, APACHE),
    ("vit_small_patch16_224", "dino", 0, 0.9, IMAGENET, APACHE),
    ("vit_small_patch16_384", "augreg_in21k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_small_patch16_384", "augreg_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_base_patch32_224", "augreg_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch32_224", "augreg_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch32_224", "augreg_in21k", 21843, 0.9, HALF, APACHE),
    ("vit_base_patch32_224", "orig_in21k", 0, 0.9, HALF, APACHE),
    ("vit_base_patch32_224", "sam_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch32_384", "augreg_in21k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_base_patch32_384", "augreg_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_base_patch16_224", "augreg2_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch16_224", "augreg_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch16_224", "augreg_in21k", 21843, 0.9, HALF, APACHE),
    ("vit_base_patch16_224", "augreg_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch16_224", "dino", 0, 0.9, IMAGENET, APACHE),
    ("vit_base_patch16_224", "mae", 0, 0.9, IMAGENET, NON_COMMERCIAL),
    ("vit_base_patch16_224", "orig_in21k", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_224", "orig_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch16_224", "sam_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch16_384", "augreg_in21k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_base_patch16_384", "augreg_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_base_patch16_384", "orig_in21k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_base_patch8_224", "augreg2_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch8_224", "augreg_in21k", 21843, 0.9, HALF, APACHE),
    ("vit_base_patch8_224", "augreg_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_base_patch8_224", "dino", 0, 0.9, IMAGENET, APACHE),
    ("vit_large_patch32_224", "orig_in21k", 0, 0.9, HALF, APACHE),
    ("vit_large_patch32_384", "orig_in21k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_large_patch16_224", "augreg_in21k_ft_in1k", 1000, 0.9, HALF, APACHE),
    ("vit_large_patch16_224", "augreg_in21k", 21843, 0.9, HALF, APACHE),
    ("vit_large_patch16_224", "mae", 0, 0.9, IMAGENET, NON_COMMERCIAL),
    ("vit_large_patch16_224", "orig_in21k", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_384", "augreg_in21k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_huge_patch14_224", "orig_in21k", 0, 0.9, HALF, APACHE),
    ("vit_huge_patch14_224", "mae", 0, 0.9, IMAGENET, NON_COMMERCIAL),
    ("deit_tiny_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit_tiny_distilled_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit_small_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit_small_distilled_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit_base_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit_base_distilled_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit_base_patch16_384", "fb_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit_base_distilled_patch16_384", "fb_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_small_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit3_small_patch16_224", "fb_in22k_ft_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_small_patch16_384", "fb_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_small_patch16_384", "fb_in22k_ft_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_medium_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit3_medium_patch16_224", "fb_in22k_ft_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_base_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit3_base_patch16_224", "fb_in22k_ft_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_base_patch16_384", "fb_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_base_patch16_384", "fb_in22k_ft_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_large_patch16_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit3_large_patch16_224", "fb_in22k_ft_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_large_patch16_384", "fb_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_large_patch16_384", "fb_in22k_ft_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("deit3_huge_patch14_224", "fb_in1k", 1000, 0.9, IMAGENET, APACHE),
    ("deit3_huge_patch14_224", "fb_in22k_ft_in1k", 1000, 1.0, IMAGENET, APACHE),
    ("vit_small_patch14_dinov2", "lvd142m", 0, 1.0, IMAGENET, APACHE),
    ("vit_small_patch14_reg4_dinov2", "lvd142m", 0, 1.0, IMAGENET, APACHE),
    ("vit_base_patch14_dinov2", "lvd142m", 0, 1.0, IMAGENET, APACHE),
    ("vit_base_patch14_reg4_dinov2", "lvd142m", 0, 1.0, IMAGENET, APACHE),
    ("vit_large_patch14_dinov2", "lvd142m", 0, 1.0, IMAGENET, APACHE),
    ("vit_large_patch14_reg4_dinov2", "lvd142m", 0, 1.0, IMAGENET, APACHE),
    ("vit_giant_patch14_dinov2", "lvd142m", 0, 1.0, IMAGENET, APACHE),
    ("vit_giant_patch14_reg4_dinov2", "lvd142m", 0, 1.0, IMAGENET, APACHE),
    ("vit_xsmall_patch16_clip_224", "tinyclip_yfcc15m", 512, 0.9, CLIP, MIT),
    ("vit_medium_patch32_clip_224", "tinyclip_laion400m", 512, 0.9, CLIP, MIT),
    ("vit_medium_patch16_clip_224", "tinyclip_yfcc15m", 512, 0.9, CLIP, MIT),
    ("vit_betwixt_patch32_clip_224", "tinyclip_laion400m", 512, 0.9, CLIP, MIT),
    ("vit_base_patch32_clip_224", "laion2b_ft_in12k_in1k", 1000, 0.9, CLIP, APACHE),
    ("vit_base_patch32_clip_224", "datacompxl", 512, 1.0, CLIP, APACHE),
    ("vit_base_patch32_clip_224", "laion2b", 512, 0.9, CLIP, APACHE),
    ("vit_base_patch32_clip_224", "laion2b_ft_in1k", 1000, 0.9, CLIP, APACHE),
    ("vit_base_patch32_clip_224", "openai_ft_in1k", 1000, 0.9, CLIP, APACHE),
    ("vit_base_patch32_clip_256", "datacompxl", 512, 1.0, CLIP, APACHE),
    ("vit_base_patch32_clip_384", "laion2b_ft_in12k_in1k", 1000, 1.0, CLIP, APACHE),
    ("vit_base_patch32_clip_384", "openai_ft_in12k_in1k", 1000, 0.95, CLIP, APACHE, "squash"),
    ("vit_base_patch32_clip_448", "laion2b_ft_in12k_in1k", 1000, 1.0, CLIP, APACHE),
    ("vit_base_patch16_clip_224", "laion2b_ft_in12k_in1k", 1000, 0.95, CLIP, APACHE),
    ("vit_base_patch16_clip_224", "datacompxl", 512, 1.0, CLIP, APACHE),
    ("vit_base_patch16_clip_224", "dfn2b", 512, 1.0, CLIP, APPLE),
    ("vit_base_patch16_clip_224", "laion2b", 512, 1.0, CLIP, APACHE),
    ("vit_base_patch16_clip_224", "laion2b_ft_in12k", 11821, 0.9, CLIP, APACHE),
    ("vit_base_patch16_clip_224", "laion2b_ft_in1k", 1000, 1.0, CLIP, APACHE),
    ("vit_base_patch16_clip_224", "laion400m_e32", 512, 1.0, CLIP, MIT),
    ("vit_base_patch16_clip_224", "openai_ft_in12k", 11821, 0.9, CLIP, APACHE),
    ("vit_base_patch16_clip_224", "openai_ft_in12k_in1k", 1000, 0.95, CLIP, APACHE),
    ("vit_base_patch16_clip_224", "openai_ft_in1k", 1000, 0.9, CLIP, APACHE),
    ("vit_base_patch16_clip_384", "laion2b_ft_in12k_in1k", 1000, 1.0, CLIP, APACHE, "squash"),
    ("vit_base_patch16_clip_384", "laion2b_ft_in1k", 1000, 1.0, CLIP, APACHE, "squash"),
    ("vit_base_patch16_clip_384", "openai_ft_in12k_in1k", 1000, 0.95, CLIP, APACHE, "squash"),
    ("vit_base_patch16_clip_384", "openai_ft_in1k", 1000, 1.0, CLIP, APACHE, "squash"),
    ("vit_base_patch16_plus_clip_240", "laion400m_e32", 640, 1.0, CLIP, MIT),
    ("vit_large_patch14_clip_224", "laion2b_ft_in12k_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_large_patch14_clip_224", "apple_mclip2_dfndr2b", 768, 1.0, CLIP, APPLE_RESEARCH),
    ("vit_large_patch14_clip_224", "datacompxl", 768, 1.0, CLIP, APACHE),
    ("vit_large_patch14_clip_224", "dfn2b_s39b", 768, 1.0, CLIP, APPLE),
    ("vit_large_patch14_clip_224", "laion2b", 768, 1.0, HALF, APACHE),
    ("vit_large_patch14_clip_224", "laion2b_ft_in12k", 11821, 1.0, HALF, APACHE),
    ("vit_large_patch14_clip_224", "laion2b_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_large_patch14_clip_224", "laion400m_e32", 768, 1.0, CLIP, MIT),
    ("vit_large_patch14_clip_224", "openai_ft_in12k", 11821, 1.0, CLIP, APACHE),
    ("vit_large_patch14_clip_224", "openai_ft_in12k_in1k", 1000, 1.0, CLIP, APACHE),
    ("vit_large_patch14_clip_224", "openai_ft_in1k", 1000, 1.0, CLIP, APACHE),
    ("vit_large_patch14_clip_336", "laion2b_ft_in12k_in1k", 1000, 1.0, HALF, APACHE, "squash"),
    ("vit_large_patch14_clip_336", "laion2b_ft_in1k", 1000, 1.0, HALF, APACHE, "squash"),
    ("vit_large_patch14_clip_336", "openai_ft_in12k_in1k", 1000, 1.0, CLIP, APACHE, "squash"),
    ("vit_huge_patch14_clip_224", "laion2b_ft_in12k_in1k", 1000, 1.0, CLIP, APACHE),
    ("vit_huge_patch14_clip_224", "laion2b", 1024, 1.0, CLIP, APACHE),
    ("vit_huge_patch14_clip_224", "laion2b_ft_in12k", 11821, 1.0, CLIP, APACHE),
    ("vit_huge_patch14_clip_224", "laion2b_ft_in1k", 1000, 1.0, CLIP, APACHE),
    ("vit_huge_patch14_clip_224", "metaclip_altogether", 1024, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_huge_patch14_clip_336", "laion2b_ft_in12k_in1k", 1000, 1.0, CLIP, APACHE, "squash"),
    ("vit_huge_patch14_clip_378", "metaclip2_worldwide", 1024, 1.0, CLIP, NON_COMMERCIAL, "squash"),
    ("vit_giant_patch14_clip_224", "laion2b", 1024, 1.0, CLIP, APACHE),
    ("vit_gigantic_patch14_clip_224", "laion2b", 1280, 1.0, CLIP, APACHE),
    ("vit_gigantic_patch14_clip_224", "metaclip2_worldwide", 1280, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_gigantic_patch14_clip_378", "metaclip2_worldwide", 1280, 1.0, CLIP, NON_COMMERCIAL, "squash"),
    ("vit_base_patch32_clip_quickgelu_224", "laion400m_e32", 512, 0.9, CLIP, MIT),
    ("vit_base_patch32_clip_quickgelu_224", "metaclip_2pt5b", 512, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_base_patch32_clip_quickgelu_224", "metaclip_400m", 512, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_base_patch32_clip_quickgelu_224", "openai", 512, 0.9, CLIP, APACHE),
    ("vit_base_patch16_clip_quickgelu_224", "metaclip_2pt5b", 512, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_base_patch16_clip_quickgelu_224", "metaclip_400m", 512, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_base_patch16_clip_quickgelu_224", "openai", 512, 0.9, CLIP, APACHE),
    ("vit_large_patch14_clip_quickgelu_224", "dfn2b", 768, 1.0, CLIP, APPLE),
    ("vit_large_patch14_clip_quickgelu_224", "metaclip_2pt5b", 768, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_large_patch14_clip_quickgelu_224", "metaclip_400m", 768, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_large_patch14_clip_quickgelu_224", "openai", 768, 1.0, CLIP, APACHE),
    ("vit_large_patch14_clip_quickgelu_336", "openai", 768, 1.0, CLIP, APACHE),
    ("vit_huge_patch14_clip_quickgelu_224", "dfn5b", 1024, 1.0, CLIP, APPLE),
    ("vit_huge_patch14_clip_quickgelu_224", "metaclip2_worldwide", 1024, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_huge_patch14_clip_quickgelu_224", "metaclip_2pt5b", 1024, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_huge_patch14_clip_quickgelu_378", "dfn5b", 1024, 1.0, CLIP, APPLE),
    ("vit_gigantic_patch14_clip_quickgelu_224", "metaclip_2pt5b", 1280, 1.0, CLIP, NON_COMMERCIAL),
    ("vit_base_patch32_siglip_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch32_siglip_gap_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_224", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_224", "webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_224", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_224", "webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_256", "webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_256", "webli_i18n", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_256", "webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_256", "webli_i18n", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_384", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_384", "webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_384", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_384", "webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_512", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_512", "webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_512", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_base_patch16_siglip_gap_512", "webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_256", "webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_gap_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_gap_256", "webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_384", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_384", "webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_gap_384", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_gap_384", "webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_512", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_large_patch16_siglip_gap_512", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_224", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_224", "webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_gap_224", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_gap_224", "webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_378", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_378", "webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_378", "webli_ft_in1k", 1000, 1.0, HALF, APACHE, "squash"),
    ("vit_so400m_patch14_siglip_gap_378", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_gap_378", "webli", 0, 1.0, HALF, APACHE),
    ("vit_so400m_patch14_siglip_gap_378", "webli_ft_in1k", 1000, 1.0, HALF, APACHE, "squash"),
    ("vit_so400m_patch14_siglip_384", "webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch14_siglip_gap_384", "webli", 0, 1.0, HALF, APACHE),
    ("vit_so400m_patch16_siglip_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch16_siglip_256", "webli_i18n", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch16_siglip_gap_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch16_siglip_gap_256", "webli_i18n", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch16_siglip_384", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch16_siglip_gap_384", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch16_siglip_512", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_so400m_patch16_siglip_gap_512", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_giantopt_patch16_siglip_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_giantopt_patch16_siglip_gap_256", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_giantopt_patch16_siglip_384", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_giantopt_patch16_siglip_gap_384", "v2_webli", 0, 0.9, HALF, APACHE),
    ("vit_wee_patch16_reg1_gap_256", "sbb_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_little_patch16_reg1_gap_256", "sbb_in12k_ft_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_little_patch16_reg1_gap_256", "sbb_in12k", 11821, 0.95, HALF, APACHE),
    ("vit_little_patch16_reg4_gap_256", "sbb_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_medium_patch16_reg1_gap_256", "sbb_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_medium_patch16_reg4_gap_256", "sbb_in12k_ft_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_medium_patch16_reg4_gap_256", "sbb_in12k", 11821, 0.95, HALF, APACHE),
    ("vit_medium_patch16_reg4_gap_256", "sbb_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_mediumd_patch16_reg4_gap_256", "sbb2_e200_in12k_ft_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_mediumd_patch16_reg4_gap_256", "sbb2_e200_in12k", 11821, 0.95, HALF, APACHE),
    ("vit_mediumd_patch16_reg4_gap_256", "sbb_in12k", 11821, 0.95, HALF, APACHE),
    ("vit_mediumd_patch16_reg4_gap_256", "sbb_in12k_ft_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_mediumd_patch16_reg4_gap_384", "sbb2_e200_in12k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("vit_betwixt_patch16_reg1_gap_256", "sbb_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_betwixt_patch16_reg4_gap_256", "sbb2_e200_in12k_ft_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_betwixt_patch16_reg4_gap_256", "sbb2_e200_in12k", 11821, 0.95, HALF, APACHE),
    ("vit_betwixt_patch16_reg4_gap_256", "sbb_in12k", 11821, 0.95, HALF, APACHE),
    ("vit_betwixt_patch16_reg4_gap_256", "sbb_in12k_ft_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_betwixt_patch16_reg4_gap_256", "sbb_in1k", 1000, 0.95, HALF, APACHE),
    ("vit_betwixt_patch16_reg4_gap_384", "sbb2_e200_in12k_ft_in1k", 1000, 1.0, HALF, APACHE),
    ("swin_tiny_patch4_window7_224", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_tiny_patch4_window7_224", "ms_in22k", 21841, 0.9, IMAGENET, MIT),
    ("swin_tiny_patch4_window7_224", "ms_in22k_ft_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_small_patch4_window7_224", "ms_in22k_ft_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_small_patch4_window7_224", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_small_patch4_window7_224", "ms_in22k", 21841, 0.9, IMAGENET, MIT),
    ("swin_base_patch4_window7_224", "ms_in22k_ft_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_base_patch4_window7_224", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_base_patch4_window7_224", "ms_in22k", 21841, 0.9, IMAGENET, MIT),
    ("swin_base_patch4_window12_384", "ms_in22k_ft_in1k", 1000, 1.0, IMAGENET, MIT),
    ("swin_base_patch4_window12_384", "ms_in1k", 1000, 1.0, IMAGENET, MIT),
    ("swin_base_patch4_window12_384", "ms_in22k", 21841, 1.0, IMAGENET, MIT),
    ("swin_large_patch4_window7_224", "ms_in22k_ft_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_large_patch4_window7_224", "ms_in22k", 21841, 0.9, IMAGENET, MIT),
    ("swin_large_patch4_window12_384", "ms_in22k_ft_in1k", 1000, 1.0, IMAGENET, MIT),
    ("swin_large_patch4_window12_384", "ms_in22k", 21841, 1.0, IMAGENET, MIT),
    ("swin_s3_tiny_224", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_s3_small_224", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swin_s3_base_224", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_tiny_window8_256", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_tiny_window16_256", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_small_window8_256", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_small_window16_256", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_base_window8_256", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_base_window16_256", "ms_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_base_window12_192", "ms_in22k", 21841, 0.9, IMAGENET, MIT),
    ("swinv2_large_window12_192", "ms_in22k", 21841, 0.9, IMAGENET, MIT),
    ("swinv2_base_window12to16_192to256", "ms_in22k_ft_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_base_window12to24_192to384", "ms_in22k_ft_in1k", 1000, 1.0, IMAGENET, MIT),
    ("swinv2_large_window12to16_192to256", "ms_in22k_ft_in1k", 1000, 0.9, IMAGENET, MIT),
    ("swinv2_large_window12to24_192to384", "ms_in22k_ft_in1k", 1000, 1.0, IMAGENET, MIT),
]

PUBLISHED = tuple(Published(*row) for row in _ROWS)
