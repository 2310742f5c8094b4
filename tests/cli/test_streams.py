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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="writes to a device that is always full")
@pytest.mark.parametrize("command", ["list", "list --json", "--help"])
def test_a_full_disk_is_said_in_one_line(command):
    done = shell(f"{command} >/dev/full")
    assert done.returncode == 1
    assert done.stderr == b"leanformer: cannot write: No space left on device; make room and run it again\n"


def test_a_reader_that_has_had_enough_is_no_error():
    done = shell("list --json | head -n 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"[\n", b"")


def test_a_file_name_that_is_not_utf_8_is_printed_with_escapes(trained, photos, tmp_path):
    photo = tmp_path / os.fsdecode(b"caf\xe9.png")
    photo.write_bytes(next(iter(sorted(photos.rglob("*.png")))).read_bytes())
    done = shell(f"predict '{trained.out}' '{tmp_path}'/*.png")
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9.png: " in done.stdout
