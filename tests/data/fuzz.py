"""Whoever reads a file of strangers, given spoilt ones: `python -m tests.data.fuzz READER N SEED`.

Prints one JSON document of what became of them; anything but a table or a mistake that is told ends the process.
"""

import faulthandler
import json
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vadtune.data import hdf5
from vadtune.data.files import FORMATS, read
from vadtune.data.frames import from_frame
from vadtune.data.tables import write_table
from vadtune.errors import VadtuneError
from vadtune.settings import read_json, read_toml

LIMIT_S = 60
MEMORY = 2 * 10**9  # beyond what the process has when it has imported everything
# What a format is made of, to be put where it does not belong.
WORDS = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"PAR1",
    b"PK\3\4",
    b"\x89HDF",
    b"NUMPY",
    b"ARROW1",
    b'"',
    b"[[",
]
NUMBERS = [b"1e999", b"-1", b"99999999999999999999", b"nan", b"{}", b"\n", b",", b"=", b"\\u0000", b"9" * 4400]


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": np.where(rng.random(40) < 0.2, np.nan, rng.normal(size=40)),
            "n": pd.array(rng.integers(0, 9, 40), "Int64"),
            "t": rng.choice(["a", "b", "c"], 40),
            "d": pd.Timestamp("2024-02-01") + pd.to_timedelta(np.arange(40), "D"),
        }
    )


def sample_table(suffix: str) -> Callable[[Path], None]:
    whole = frame() if suffix in (".csv", ".csv.gz", ".parquet", ".feather") else frame()[["x", "n"]]
    return lambda path: write_table(from_frame(whole, "t", "t"), path)


def sample_text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text, encoding="utf-8") and None


def sample_study(path: Path) -> None:
    from vadtune.tuning.study import open_study

    study = open_study(path)
    for number in range(4):
        trial = study.ask()
        trial.suggest_float("model.x", 0, 1)
        trial.report(0.5, 1)
        trial.set_user_attr("checkpoint", f"ray/{number}/checkpoint_000000")
        study.tell(trial, 0.1 * number)


def read_study_both_ways(path: Path) -> None:
    from vadtune.report.study import StudyReader
    from vadtune.tuning.study import best_trial, count_states, read_study, trial_table

    with suppress(VadtuneError):
        StudyReader(path, "t").trials()
    study = read_study(path)
    count_states(study)
    trial_table(study)
    best_trial(study, lambda _: True)


def sample_artifact(path: Path) -> None:
    """One file that holds all of an artifact's: each spoilt one is a spoilt artifact with fitting checksums."""
    from tests.training.test_artifact import FILES, example
    from vadtune.training.artifact import save_artifact

    folder = save_artifact(example(), path.with_name("best"))
    path.write_bytes(b"\0--\0".join((folder / name).read_bytes() for name in FILES))


def read_artifact(path: Path) -> None:
    from tests.training.test_artifact import FILES, X
    from vadtune.training.artifact import load_artifact
    from vadtune.training.checksums import write_sums

    parts = path.read_bytes().split(b"\0--\0")
    folder = path.with_name("spoilt")
    folder.mkdir(exist_ok=True)
    for name, part in zip(FILES, parts, strict=False):
        (folder / name).write_bytes(part)
    write_sums(folder)
    artifact = load_artifact(folder)
    if artifact.config.infer.n_steps < 1000 and len(artifact.columns) == 4:
        assert artifact.impute(X).shape == X.shape


SPACE = """
[model]
kind = "vad"
latent_dim = {low = 2, high = 8}
[train]
learning_rate = {low = 1e-3, high = 1e-1, log = true}
"""


def read_space(path: Path) -> None:
    from vadtune.training.config import TrialConfig
    from vadtune.tuning.space import load_space

    read_toml(path)
    load_space(path, TrialConfig, {})


READERS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], Any]]] = {
    suffix.removeprefix("."): (f"t{suffix}", sample_table(suffix), read) for suffix in FORMATS if suffix != ".hdf5"
}
READERS |= {
    "toml": ("t.toml", sample_text(SPACE), read_space),
    "json": ("t.json", sample_text(json.dumps({"a": [1, {"b": 2.5, "c": None}], "d": "text"})), read_json),
    "study": ("study.log", sample_study, read_study_both_ways),
    "artifact": ("best.bin", sample_artifact, read_artifact),
}


def spoil(content: bytes, rng: random.Random) -> bytes:
    """One or a few small changes, as a bad disk or a bad person would make them."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[place:place] = rng.choice(WORDS + NUMBERS)
            case 2:
                del changed[place : place + rng.randrange(1, 64)]
            case 3:
                changed[place : place + 8] = rng.choice([0, 1, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
            case 4:
                start = rng.randrange(len(changed) + 1)
                changed[place:place] = changed[start : start + rng.randrange(1, 256)]
            case _ if rng.random() < 0.2:
                del changed[place:]
    return bytes(changed)


def main(reader: str, n: int, seed: int) -> None:
    faulthandler.enable()
    hdf5._TEXT_LIMIT_S = 5.0
    name, write, read_one = READERS[reader]
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        write(path)
        whole = path.read_bytes()
        read_one(path)
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        rng = random.Random(seed)
        for _ in range(n):
            content = spoil(whole, rng)
            path.write_bytes(content)
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)
            try:
                read_one(path)
                ends["read"] += 1
            except VadtuneError as error:
                ends["refused" if str(error) else "refused without a word"] += 1
            except BaseException:
                kept = Path(tempfile.gettempdir()) / f"spoilt-{reader}-{seed}-{name}"
                kept.write_bytes(content)
                sys.stderr.write(f"kept as {kept}\n")
                raise
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.write(json.dumps(ends) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
