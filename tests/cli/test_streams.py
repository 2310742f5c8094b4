"""Commands do their work whatever their output is connected to."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="closes streams by the shell, names files by bytes")


def shell(line):
    return subprocess.run(["sh", "-c", f"{sys.executable} -m leanformer.cli {line}"], capture_output=True, timeout=120)


def test_closed_output_is_no_error():
    assert shell("list >&-").returncode == 0
    assert shell("list 2>&-").returncode == 0


def test_a_file_name_that_is_not_utf_8_is_printed_with_escapes(trained, photos, tmp_path):
    photo = tmp_path / os.fsdecode(b"caf\xe9.png")
    photo.write_bytes(next(iter(sorted(photos.rglob("*.png")))).read_bytes())
    done = shell(f"predict '{trained.out}' '{tmp_path}'/*.png")
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9.png: " in done.stdout
