"""What a method used against what it declares."""

from preceptor_trainer.experiments.compare.sees import Sees, contradictions, unused

NOBODY = frozenset()
PLAIN = {"rollouts": 8, "own": 8, "scored": 8}


def test_a_method_that_used_what_it_declared_is_consistent():
    sees = Sees(score="both", trace=True, solution=True)

    assert (
        contradictions(sees, PLAIN | {"kind/execution": 3, "kind/demonstration": 2}, NOBODY) == []
    )


def test_a_trace_in_view_contradicts_a_method_without():
    (found,) = contradictions(Sees(score="reward"), PLAIN | {"kind/execution": 3}, NOBODY)

    assert found == "declares trace=False, but 3 targets had it in view"


def test_given_answers_are_a_reference_and_no_own_attempts():
    given = PLAIN | {"own": 4}

    assert len(contradictions(Sees(score="no"), given, NOBODY)) == 2
    honest = Sees(score="no", reference=True, own_attempts="some")
    assert contradictions(honest, given, NOBODY) == []


def test_own_attempts_only_contradict_a_method_that_declares_given_ones():
    sees = Sees(score="no", reference=True, own_attempts="none")

    assert contradictions(sees, PLAIN, NOBODY)


def test_a_larger_model_is_found_by_who_answered():
    counts = PLAIN | {"expert/big": 5}

    (found,) = contradictions(Sees(score="no"), counts, frozenset({"big"}))

    assert found == "declares larger_model=False, but 5 targets came from one"


def test_an_answering_expert_contradicts_a_method_without_opinions():
    sees = Sees(score="reward", opinion="none")

    assert contradictions(sees, PLAIN | {"expert/self-teacher": 1}, NOBODY)


def test_what_was_declared_and_never_used_is_said():
    sees = Sees(score="both", trace=True, solution=True)

    assert unused(sees, PLAIN | {"kind/execution": 3}, NOBODY) == ["solution"]
