"""Shows pictures in a notebook."""

from __future__ import annotations

import numpy as np
from PIL import Image

from siren import notebook
from siren.checks import refuse_masked
from siren.output.panel import draw_panel
from siren.pictures import Picture


def show(*images: np.ndarray | Picture, captions=()) -> Image.Image | None:
    """Draw ``images`` side by side; a notebook displays them at once, wherever in a cell this is.

    images    float arrays (height, width[, 1 or 3]) in [-1, 1], as ``siren.read_image`` and
              ``siren.predict_image`` return them; or pictures that have a caption of their own, as
              ``siren.gradient_picture``, ``laplacian_picture`` and ``error_picture`` return them
    captions  of the arrays, in their order: none, or one for each

    Returns None in a notebook; elsewhere a PIL picture, for its own ``show`` and ``save``. Raises
    ValueError for anything else than such images, and TypeError for a masked array.
    """
    captions = [captions] if isinstance(captions, str) else list(captions)
    arrays = sum(not isinstance(image, Picture) for image in images)
    if not images:
        raise ValueError("show needs an image")
    if captions and len(captions) != arrays:
        raise ValueError(f"show has {len(captions)} captions for {arrays} arrays")
    texts = iter(captions or [""] * arrays)
    panel = [
        image if isinstance(image, Picture) else Picture(next(texts), _as_image(image))
        for image in images
    ]
    sheet = draw_panel(panel)
    if not notebook.is_notebook():
        return sheet
    notebook.display(sheet)
    return None


def _as_image(array) -> np.ndarray:
    """``array`` with a last axis of channels; ValueError if it is not an image in [-1, 1]."""
    refuse_masked(array, "an image")
    image = np.asarray(array)
    if image.ndim == 2:
        image = image[..., None]
    if image.size == 0 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"an image has shape (height, width[, 1 or 3]), not {np.shape(array)}")
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image has floating-point values in [-1, 1], not {image.dtype}")
    return image
