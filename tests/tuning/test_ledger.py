import math

import pytest
from optuna.trial import TrialState

from vadtune.tuning.crew import Alone
from vadtune.tuning.ledger import Ledger
from vadtune.tuning.samplers import TPE


class Shelf:
    """Checkpoints in memory."""

    def __init__(self):
        self.deleted = []

    def exists(self, checkpoint):
        return checkpoint not in self.deleted

    def delete(self, checkpoint):
        self.deleted.append(checkpoint)


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def book(tmp_path, line, shelf):
    """Opens the ledger of a run; again, as a resumed search does."""

    def open_book(**options):
        crew = Alone(tmp_path / "study.log")
        crew.study.sampler = TPE().build(0, 0)
        crew.reap()
        return Ledger(crew, line, shelf, seed=7, rungs=(5, 15), **options)

    return open_book


def report(epoch, rmse, **more):
    return {"epoch": epoch, "imputation_rmse": rmse, "train_s": 1.0, "infer_s": 0.5, "hostname": "h", "pid": 9} | more


def final(rmse):
    return report(45, rmse, final_rmse=rmse - 0.01, best_epoch=40, done=True)


def play(ledger, ray_id, *results, checkpoint=None):
    """A trial that reports and ends; it is saved when it wants to be, as Ray does it."""
    task = ledger.ask(ray_id)
    for result in results:
        ledger.report(ray_id, result)
        if ledger.wants_checkpoint(result):
            ledger.saved(ray_id, checkpoint or f"ray/{ray_id}/checkpoint_{result['epoch']}")
    ledger.end(ray_id)
    return task.number


def test_a_trial_that_came_to_its_end_is_complete_with_its_final_score(book):
    ledger = book()
    play(ledger, "a", report(5, 0.5, should_checkpoint=True), final(0.3))
    trial = ledger.study.trials[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, pytest.approx(0.29))
    assert trial.intermediate_values == {5: 0.5, 45: 0.3}
    attributes = trial.user_attrs
    assert attributes["ray_trial_id"] == "a"
    assert (attributes["epochs"], attributes["best_epoch"], attributes["worker"]) == (45, 40, "h:9")
    assert attributes["checkpoint"] == "ray/a/checkpoint_45"
    assert "stopped_by" not in attributes


def test_a_trial_that_never_ends_has_the_worker_that_was_last_heard_of(book):
    ledger = book()
    ledger.ask("a")
    ledger.report("a", report(5, 0.5))
    assert ledger.study.trials[0].user_attrs["worker"] == "h:9"
    ledger.report("a", report(6, 0.5, hostname="other", pid=3))
    ledger.crew.leave()
    trial = ledger.study.trials[0]
    assert trial.state == TrialState.WAITING
    assert (trial.user_attrs["host"], trial.user_attrs["worker"]) == ("other", "other:3")


def test_a_trial_that_was_stopped_is_pruned_at_its_rung_with_the_value_that_stopped_it(book):
    ledger = book()
    play(ledger, "a", report(5, 0.5), report(15, 0.4, done=True))
    trial = ledger.study.trials[0]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {5: 0.5, 15: 0.4}
    assert trial.user_attrs["stopped_by"] == "rung 15"


def test_a_trial_that_diverged_failed_with_its_reason(book):
    ledger = book()
    play(ledger, "a", report(3, math.nan, failure="the loss is nan", done=True))
    trial = ledger.study.trials[0]
    assert (trial.state, trial.user_attrs["failure"]) == (TrialState.FAIL, "the loss is nan")
    assert trial.intermediate_values == {}


def test_a_final_score_that_is_not_finite_is_a_failure(book):
    ledger = book()
    play(ledger, "a", report(45, 0.3, final_rmse=math.inf, best_epoch=1, done=True))
    assert ledger.study.trials[0].state == TrialState.FAIL
    assert ledger.study.trials[0].user_attrs["failure"] == "final_rmse is inf"


def test_a_broken_worker_is_a_failure(book):
    ledger = book()
    ledger.ask("a")
    ledger.end("a", failure="boom")
    assert ledger.study.trials[0].user_attrs["failure"] == "boom"


def test_the_number_of_trials_counts_ended_and_live_ones_of_all_sessions(book):
    ledger = book(n_trials=3)
    play(ledger, "a", final(0.3))
    play(ledger, "b", report(5, 0.4, done=True))
    ledger.ask("c")
    assert ledger.is_exhausted()
    again = book(n_trials=3)
    assert not again.is_exhausted()
    assert again.ask("d").number == 2
    assert again.is_exhausted()


def test_a_trial_is_compared_with_what_others_had_reached_by_its_epoch_in_this_session_or_an_earlier_one(book):
    play(book(), "a", report(5, 0.5), report(15, 0.2, done=True))
    ledger = book()
    ledger.ask("b")
    ledger.report("b", report(3, 0.9))
    ledger.ask("c")
    ledger.report("c", report(4, 0.6))
    assert ledger.compare("c", report(9, 0.7)) == (0.6, 0.5)
    assert ledger.compare("c", report(15, math.nan)) == (0.6, 0.2)
    assert ledger.compare("b", report(4, 0.8)) == (0.8, 0.6)


def test_an_interrupted_trial_goes_on_from_its_checkpoint(book):
    ledger = book()
    first = ledger.ask("a")
    for result in (report(3, 0.8), report(5, 0.7), report(9, 0.6)):
        ledger.report("a", result)
        if result["epoch"] == 5:
            ledger.saved("a", "ray/a/checkpoint_000000")
    ledger = book()
    assert ledger.waiting == {0}
    task = ledger.ask("b")
    assert (task.number, task.config) == (first.number, first.config)
    assert task.checkpoint == "ray/a/checkpoint_000000"
    assert ledger.passed("b") == {3: 0.8, 5: 0.7}
    ledger.report("b", report(9, 0.61))
    ledger.report("b", final(0.3))
    ledger.end("b")
    trial = ledger.study.trials[0]
    assert trial.intermediate_values == {3: 0.8, 5: 0.7, 9: 0.6, 45: 0.3}
    assert trial.user_attrs["ray_trial_id"] == "b"
    assert len(ledger.study.trials) == 1


def test_what_a_report_passed_is_recorded_too(book):
    ledger = book()
    ledger.ask("a")
    ledger.report("a", report(9, 0.6, passed=[(3, 0.8), (5, 0.7)]))
    assert ledger.live["a"].epoch == 9
    assert ledger.passed("a") == ledger.study.trials[0].intermediate_values == {3: 0.8, 5: 0.7, 9: 0.6}
    assert [rung.reached for rung in ledger.rung_counts()] == [1, 0]
    ledger.report("a", report(9, math.nan, passed=[(7, 0.65)], failure="the loss is nan", done=True))
    ledger.end("a")
    trial = ledger.study.trials[0]
    assert trial.state == TrialState.FAIL
    assert trial.intermediate_values == {3: 0.8, 5: 0.7, 7: 0.65, 9: 0.6}


def test_an_interrupted_trial_whose_checkpoint_is_gone_begins_again(book, shelf):
    ledger = book()
    ledger.ask("a")
    ledger.report("a", report(5, 0.7))
    ledger.saved("a", "ray/a/checkpoint_000000")
    shelf.delete("ray/a/checkpoint_000000")
    ledger = book()
    assert ledger.ask("b").checkpoint is None
    assert ledger.passed("b") == {}


def test_the_seed_of_a_trial_follows_from_the_search_and_the_number(book):
    ledger = book()
    seeds = [ledger.ask(str(i)).config["seed"] for i in range(3)]
    assert len(set(seeds)) == 3
    assert book().ask("again").config["seed"] == seeds[0]


def test_only_the_latest_checkpoint_of_a_trial_is_kept(book, shelf):
    ledger = book()
    ledger.ask("a")
    for epoch in (5, 15):
        ledger.report("a", report(epoch, 1 / epoch))
        ledger.saved("a", f"c{epoch}")
    assert shelf.deleted == ["c5"]


def test_the_checkpoints_of_the_best_are_kept_and_those_of_losers_deleted(book, shelf):
    ledger = book(keep_top=2)
    for name, rmse in (("a", 0.5), ("b", 0.3), ("c", 0.4), ("d", 0.6)):
        play(ledger, name, final(rmse), checkpoint=name)
    assert shelf.deleted == ["a"]
    assert [(kept.number, kept.checkpoint) for kept in ledger.top] == [(1, "b"), (2, "c")]
    assert ledger.study.trials[3].user_attrs.get("checkpoint") is None


def test_a_loser_is_not_saved_at_its_end(book):
    ledger = book()
    play(ledger, "a", final(0.3))
    assert not ledger.wants_checkpoint(final(0.5))
    assert not ledger.wants_checkpoint(report(5, 0.1, done=True, should_checkpoint=True))
    assert ledger.wants_checkpoint(report(5, 0.9, should_checkpoint=True))
    assert not ledger.wants_checkpoint(report(6, 0.9, should_checkpoint=False))


def test_until_one_is_complete_the_best_of_the_pruned_keeps_its_checkpoint(book, shelf):
    ledger = book()
    play(ledger, "a", report(5, 0.5, done=True), checkpoint="a")
    play(ledger, "b", report(5, 0.4, done=True), checkpoint="b")
    play(ledger, "c", report(5, 0.6, done=True), checkpoint="c")
    assert shelf.deleted == ["a"]
    play(ledger, "d", final(0.7), checkpoint="d")
    assert shelf.deleted == ["a", "b"]


def test_what_to_keep_is_remembered_by_a_resumed_search(book, shelf):
    ledger = book()
    play(ledger, "a", final(0.3), checkpoint="a")
    ledger = book()
    assert ledger.best == (pytest.approx(0.29), 0)
    play(ledger, "b", final(0.2), checkpoint="b")
    assert shelf.deleted == ["a"]


def test_paused_trials_make_room(book):
    ledger = book()
    ledger.ask("a")
    ledger.ask("b")
    ledger.live["a"].is_paused = True
    assert ledger.n_active == 1


def test_a_trial_that_never_reported_waits(book):
    ledger = book()
    ledger.ask("a")
    ledger.end("a")
    assert book().waiting == {0}


def test_rungs_count_those_who_came_and_those_who_were_stopped_over_all_sessions(book):
    ledger = book()
    play(ledger, "a", report(5, 0.5), report(15, 0.4), final(0.3))
    play(ledger, "b", report(5, 0.6))
    play(ledger, "c", report(5, 0.5), report(15, 0.5))
    expected = [(5, 3, 1), (15, 2, 1)]
    assert [(rung.epoch, rung.reached, rung.stopped) for rung in ledger.rung_counts()] == expected
    again = book()
    assert [(rung.epoch, rung.reached, rung.stopped) for rung in again.rung_counts()] == expected
    play(again, "d", report(5, 0.7))
    assert again.rung_counts()[0].stopped == 2
