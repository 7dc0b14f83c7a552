"""A writer of folders that is killed: what was there stays, or is put back by the next one. Bulk parsing: test_bulk.py."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from assistants import runtime
from frames.folders import atomic_folder, write_manifest
from tests.training import environment

#: Writes a folder anew, and kills itself before the n-th renaming of a folder (the first one is part of the exchange).
WRITER = """
import os, signal, sys
from pathlib import Path
from frames import folders
path, at = Path(sys.argv[1]), int(sys.argv[2])
rename, count = os.rename, [0]
def counted(*places):
    count[0] += 1
    if count[0] == at:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*places)
os.rename = counted
with folders.atomic_folder(path) as staging:
    (staging / "new.txt").write_text("new")
    if at == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    folders.write_manifest(staging, {})
"""


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_bundle_survives_the_kill_of_whoever_writes_it_anew(at: int, repository: Path, tmp_path: Path):
    bundle = tmp_path / "kept.bundle"
    shutil.copytree(repository / "models" / "conv-nar-topv2", bundle)
    done = subprocess.run([sys.executable, "-c", WRITER, str(bundle), str(at)], env=environment(repository))
    assert done.returncode == -signal.SIGKILL
    # Between two renamings the folder is away, until something is written there.
    assert bundle.exists() == (at != 2)
    with pytest.raises(KeyError), atomic_folder(bundle):
        raise KeyError
    assert str(runtime.load(bundle).parse(["wake me at 6"])[0][0].frame) == "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]"
    with atomic_folder(bundle) as staging:
        write_manifest(staging, {})
    assert [path.name for path in bundle.iterdir()] == ["manifest.json"]


def test_a_folder_that_was_written_whole_is_not_put_back(tmp_path: Path):
    with atomic_folder(tmp_path / "new") as staging:
        write_manifest(staging, {})
    old = tmp_path / ".new.old.x"
    (old / "old").mkdir(parents=True)
    with pytest.raises(KeyError), atomic_folder(tmp_path / "new"):
        raise KeyError
    assert (tmp_path / "new" / "manifest.json").is_file() and (old / "old").is_dir()
