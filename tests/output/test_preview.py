import io

import numpy as np
import pytest
from PIL import Image

from siren.output import PREVIEW_MARK, history
from siren.output.history import Preview


@pytest.fixture
def ours(tmp_path):
    return Preview(tmp_path, every=1)


def test_preview_is_the_latest_picture_and_the_animation_all(ours, tmp_path):
    for level in (-1, 0, 1):
        ours.update(np.full((20, 30, 1), level, np.float32))
        assert np.asarray(Image.open(tmp_path / "preview.png"))[0, 0] == round((level + 1) * 127.5)
        assert (tmp_path / "preview.png").read_bytes().endswith(PREVIEW_MARK)
    content = ours.animation(np.full((20, 30, 1), 0.5, np.float32))
    with Image.open(io.BytesIO(content)) as animation:
        assert animation.size == (30, 20)
        assert animation.n_frames == 4
        levels, durations = [], []
        for number in range(4):
            animation.seek(number)
            durations.append(animation.info["duration"])
            levels.append(animation.convert("L").getpixel((5, 5)))
    assert levels == pytest.approx([0, 128, 255, 191], abs=2)
    assert durations == [history.FRAME_TIME] * 3 + [history.LAST_FRAME_TIME]


@pytest.mark.parametrize("count", [59, 60, 61, 500, 1001])
def test_an_animation_is_bounded_and_evenly_spaced(ours, monkeypatch, count):
    monkeypatch.setattr(history, "write_bytes", lambda *_: None)
    for number in range(count):
        ours.update(np.full((300, 8, 3), 2 * (number % 256) / 255 - 1, np.float32))
    assert len(ours.frames) <= history.MAX_FRAMES
    assert len(ours.frames) > min(count, history.MAX_FRAMES) // 2 - 1
    assert all(max(frame.size) <= history.MAX_SIDE for frame in ours.frames)
    levels = [frame.getpixel((0, 0))[0] for frame in ours.frames]
    assert levels == [ours.stride * i % 256 for i in range(len(levels))]
