"""Several drivers on one study in PostgreSQL."""

import math
import threading

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from tests.patience import PATIENCE_S
from tests.tuning import postgres
from tests.tuning.test_ledger import Shelf, final, play, report
from vadtune.errors import ConfigError
from vadtune.tuning.crew import Shared
from vadtune.tuning.database import Database, agreed_settings, check_url, open_database
from vadtune.tuning.ledger import Ledger
from vadtune.tuning.samplers import TPE
from vadtune.tuning.study import read_study


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:secret@host/db", "holds a password"),
        ("postgresql://me@host/db?password=secret", "holds a password"),
        ("postgresql://host", "not a PostgreSQL database"),
        ("sqlite:///study.db", "not a PostgreSQL database"),
        ("mysql://me@host/db", "not a PostgreSQL database"),
        ("nonsense", "not a PostgreSQL database"),
    ],
)
def test_a_url_with_a_password_or_of_another_database_is_refused(url, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg", reason="needs psycopg")
    with postgres.server() as url:
        yield url


@pytest.fixture
def database(server, request, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", postgres.PASSWORD)
    engines = []

    create = sqlalchemy.engine.create_engine
    monkeypatch.setattr(
        sqlalchemy.engine, "create_engine", lambda *a, **k: engines.append(create(*a, **k)) or engines[-1]
    )
    yield Database(server, request.node.name)
    for engine in engines:
        engine.dispose()


@pytest.fixture
def join(database, tmp_path, line):
    """Another driver of the study, and its ledger."""
    crews = []

    def come(**options):
        folder = tmp_path / str(len(crews))
        folder.mkdir()
        crew = Shared(database, folder / "study.log")
        crews.append(crew)
        crew.study.sampler = TPE().build(0, crew.number)
        return Ledger(crew, line, Shelf(), seed=7, rungs=(5, 15), **options)

    yield come
    for crew in crews:
        crew._over.set()


def test_a_wrong_password_and_a_server_that_is_not_there_are_told(database, monkeypatch):
    with pytest.raises(ConfigError, match=r"--storage-url .*: .*(refused|failed)"):
        open_database(Database("postgresql://vad@127.0.0.1:1/postgres", "x"))
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(ConfigError, match="password authentication failed"):
        open_database(database)


def test_drivers_never_begin_a_trial_twice_nor_more_than_there_are_to_be(join):
    ledgers = [join(n_trials=9) for _ in range(3)]
    assert [ledger.crew.number for ledger in ledgers] == [0, 1, 2]
    ledgers[0].study.enqueue_trial({"model.x": 1.0, "model.depth": 2})
    tasks = []

    def work(ledger):
        while (task := ledger.ask(f"{ledger.crew.number}-{len(ledger.live)}")) is not None:
            tasks.append(task)

    threads = [threading.Thread(target=work, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)
    assert sorted(task.number for task in tasks) == list(range(9))
    assert len({str(task.config) for task in tasks}) == 9
    ledgers[1].read()
    assert ledgers[1].is_exhausted()
    assert ledgers[1].n_elsewhere == 9 - len(ledgers[1].live)


def test_what_one_driver_finds_the_others_know(join):
    one, two = join(n_trials=5), join(n_trials=5)
    two.histories()
    play(one, "a", report(5, 0.5), final(0.3), checkpoint="a")
    two.read()
    assert two.best == (pytest.approx(0.29), 0)
    assert two.histories() == {"trial 0": {5: 0.5, 45: 0.3}}
    assert two.histories() == {}
    play(two, "b", final(0.2), checkpoint="b")
    assert two.checkpoints.deleted == ["a"]


def test_trials_of_a_driver_that_is_gone_are_taken_over_from_their_checkpoints_and_others_are_not(join, monkeypatch):
    one, two = join(), join()
    for ledger in (one, two):
        ledger.ask("x")
        ledger.report("x", report(5, 0.5))
        ledger.saved("x", f"ray/{ledger.crew.number}/checkpoint_000000")
    three = join()
    monkeypatch.setattr(Shared, "SILENCE_S", math.inf)
    three.crew.reap()
    assert three.n_elsewhere == 2
    monkeypatch.undo()
    one.study.set_user_attr(f"driver {one.crew.me}", 0.0)
    with three.crew.lock():
        three.crew.reap()
    three.read()
    assert (three.n_elsewhere, three.waiting) == (1, {0})
    task = three.ask("y")
    assert (task.number, task.checkpoint) == (0, "ray/0/checkpoint_000000")
    assert three.passed("y") == {5: 0.5}


def test_a_driver_that_leaves_lets_its_own_trials_wait_and_leaves_a_copy_of_the_study(join, tmp_path):
    one, two = join(), join()
    play(one, "a", report(5, 0.5), final(0.3), checkpoint="a")
    one.ask("b")
    two.ask("c")
    one.crew.leave()
    states = [trial.state for trial in two.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING]
    copy = read_study(tmp_path / "0" / "study.log")
    assert copy.study_name == "0"
    assert [trial.state for trial in copy.trials] == states
    assert copy.trials[0].intermediate_values == {5: 0.5, 45: 0.3}
    assert copy.trials[0].user_attrs["checkpoint"] == "a"
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["study.log"]


def test_settings_are_those_of_the_first(database):
    assert agreed_settings(database, {"a": 1}) == {"a": 1}
    assert agreed_settings(database, {"a": 2}) == {"a": 1}


def test_the_password_is_in_no_study(database):
    study = open_database(database)
    assert isinstance(study, optuna.Study)
    assert postgres.PASSWORD not in str(study._storage._backend.url)


def test_drivers_that_come_to_an_empty_database_at_once_make_its_tables_once(database):
    engine = sqlalchemy.create_engine(database.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP SCHEMA public CASCADE"))
        connection.execute(sqlalchemy.text("CREATE SCHEMA public"))
    engine.dispose()
    problems = []

    def come():
        try:
            open_database(database)
        except ConfigError as error:
            problems.append(error)

    threads = [threading.Thread(target=come) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)
    assert problems == []
