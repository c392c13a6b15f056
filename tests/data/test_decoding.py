"""Many pictures are opened in processes of their own, to the same pixels and the same errors."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from pictures import drawn, encoded

from robust_transfer.data import decoding, layouts


@pytest.fixture
def sources(tmp_path):
    """Pictures of each kind of source, of several sizes, and a grey one."""
    images = drawn(4, 24)[:, :20]
    (tmp_path / "file.png").write_bytes(encoded(images[0]))
    grey = encoded(images[1, :, :, 0])
    return [tmp_path / "file.png", grey, encoded(images[2, :16, :16], "WEBP"), images[3]] * 5


@pytest.fixture
def two_processes(monkeypatch):
    """Pictures enough for two, and a list of what each was given."""
    monkeypatch.setattr(layouts, "SHARE", 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    began, elsewhere = [], decoding.elsewhere

    def watched(sources, out):
        began.append(len(sources))
        return elsewhere(sources, out)

    monkeypatch.setattr(decoding, "elsewhere", watched)
    return began


def test_processes_give_the_pixels_that_this_one_gives(sources, two_processes):
    pictures = [layouts.Picture(None, source) for source in sources]
    pixels = layouts.decode(pictures, "many", 16)
    assert two_processes == [10, 10]
    assert np.array_equal(pixels, [decoding.square(source, 16) for source in sources])


def test_few_pictures_are_not_worth_a_process(sources, two_processes):
    layouts.decode(layouts.in_memory([np.zeros((8, 8, 3), np.uint8)] * 3), "few", 8)
    assert two_processes == []


def test_a_damaged_picture_is_named_by_its_file(sources, two_processes, tmp_path):
    pictures = [layouts.Picture(tmp_path / "shard", source) for source in sources]
    pictures[13] = layouts.Picture(tmp_path / "bad shard", b"not a picture")
    with pytest.raises(
        OSError, match="bad shard: not a readable many file, copy it anew"
    ) as caught:
        layouts.decode(pictures, "many", 16)
    assert "\n" not in str(caught.value)


def test_where_no_process_can_start_this_one_decodes(sources, two_processes, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    pictures = [layouts.Picture(None, source) for source in sources]
    pixels = layouts.decode(pictures, "many", 16)
    assert np.array_equal(pixels, [decoding.square(source, 16) for source in sources])


def test_the_program_needs_no_pytorch():
    code = f"import sys, runpy; runpy.run_path({decoding.__file__!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "PIL" in loaded and not loaded & {"torch", "pandas", "pyarrow", "robust_transfer"}
