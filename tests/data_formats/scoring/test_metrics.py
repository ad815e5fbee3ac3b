import json
import random
import re
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data_formats.scoring import metrics
from posttrain.data_formats.scoring.metrics import Answer
from posttrain.errors import DataError, SettingError

untimed = settings(deadline=None)  # a busy machine, and the first import of sklearn

# --- texts -----------------------------------------------------------------------------------------------


def test_stop_rate_is_the_share_that_stopped():
    answers = [Answer("a", True), Answer("b", False), Answer("", True), Answer("c", True)]
    assert metrics.stop_rate(answers) == 3 / 4


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The  Eiffel Tower!", ["eiffel tower"], 1.0),
        ("tower", ["eiffel tower"], 0.0),
        ("U.S.", ["us"], 1.0),
        ("Paris", ["London", "paris."], 1.0),
        ("«Москва»", ["москва"], 1.0),  # Unicode punctuation
        ("“Don’t”", ["dont"], 1.0),
        ("北京，大学。", ["北京大学"], 1.0),
        ("iPhone 手机", ["iphone手机"], 1.0),  # a space beside a character says nothing
        ("theatre", ["atre"], 0.0),  # an article is a whole word
        ("选项A", ["选项"], 0.0),
        ("", [""], 1.0),
        (" \n", ["", "x"], 1.0),
        ("A", ["A."], 1.0),
        ("A", [""], 0.0),  # only articles or signs: they stay
        ("A", ["the"], 0.0),
        ("+", ["-"], 0.0),
        ("", ["A"], 0.0),
    ],
)
def test_exact_match(answer, references, expected):
    assert metrics.exact_match(answer, references) == expected


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("the cat sat", ["a cat sat down"], 0.8),  # 2 of 2 and 2 of 3 words: 2 * 1 * (2/3) / (5/3)
        ("cat cat dog", ["cat dog dog"], 2 / 3),  # cat, dog shared of 3 and 3
        ("cat", ["dog"], 0.0),
        ("cat", ["dog", "black cat"], 2 / 3),  # the closest: precision 1, recall 1/2
        ("", [""], 1.0),
        ("", ["cat"], 0.0),
        ("北京大学", ["北京"], 2 / 3),  # 2 of 4 and 2 of 2 characters
        ("我用iPhone手机", ["iphone 手机"], 3 / 4),  # 我 用 iphone 手 机 : iphone 手 机
        ("東京タワー", ["東京"], 4 / 7),  # 東 京 タ ワ ー : 東 京
        ("ไทย", ["ไท"], 4 / 5),
        ("한국 서울", ["서울"], 2 / 3),  # Korean has spaces
        ("𠀀𠀁", ["𠀀"], 2 / 3),  # outside the basic plane
    ],
)
def test_token_f1(answer, references, expected):
    assert metrics.token_f1(answer, references) == pytest.approx(expected)


def squad_words(text):
    """The normalisation of SQuAD's evaluation script, for ASCII."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(one, other):
    one, rest = squad_words(one), squad_words(other)
    wanted, hits = len(rest), 0
    for word in one:
        if word in rest:
            rest.remove(word)
            hits += 1
    if not hits:
        return float(not one and not wanted)
    precision, recall = hits / len(one), hits / wanted
    return 2 * precision * recall / (precision + recall)


ascii_texts = st.lists(st.sampled_from(["the", "A", "an", "cat", "dog", "cat's", "x-y", ".", "!?", "7", "\n"])).map(
    " ".join
)  # fmt: skip
texts = st.text() | ascii_texts | st.text("北京 aA,。のไ")


@untimed
@given(ascii_texts, ascii_texts)
def test_english_is_scored_as_squad_does(one, other):
    if squad_words(one) and squad_words(other):  # texts of nothing but articles are ours, see above
        assert metrics.exact_match(one, [other]) == float(squad_words(one) == squad_words(other))
        assert metrics.token_f1(one, [other]) == pytest.approx(squad_f1(one, other))


@untimed
@given(texts, texts, texts)
def test_text_scores_are_symmetric_and_the_best_reference_counts(one, two, three):
    for score in (metrics.exact_match, metrics.token_f1):
        assert score(one, [one]) == 1.0
        assert score(one, [two]) == score(two, [one])
        assert score(one, [two, three]) == max(score(one, [two]), score(one, [three]))
        assert 0.0 <= score(one, [two]) <= 1.0
    assert metrics.token_f1(one, [two]) >= metrics.exact_match(one, [two])


# --- labels ----------------------------------------------------------------------------------------------

LABELS = ["cat", "dog", "cow"]


def test_classification_by_hand():
    gold = ["cat", "cat", "dog", "dog"]
    predicted = ["cat", "dog", "dog", "bird"]
    # cat: precision 1/1, recall 1/2, F1 2/3. dog: 1/2, 1/2, F1 1/2. cow occurs nowhere.
    assert metrics.classification(LABELS, gold, predicted) == pytest.approx(
        {"accuracy": 0.5, "macro_f1": (2 / 3 + 1 / 2) / 2, "unknown": 0.25}
    )
    assert metrics.confusion(LABELS, gold, predicted) == [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_a_label_only_predicted_counts_in_macro_f1():
    # cat: precision 1, recall 1/2, F1 2/3. cow: 0.
    scores = metrics.classification(LABELS, ["cat", "cat"], ["cat", "cow"])
    assert scores["macro_f1"] == pytest.approx(1 / 3)


rows_of_labels = st.lists(
    st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "bird", ""])), min_size=1
)


@untimed
@given(rows_of_labels)
def test_classification_follows_from_its_confusion(rows):
    gold, predicted = zip(*rows, strict=True)
    table = metrics.confusion(LABELS, gold, predicted)
    scores = metrics.classification(LABELS, gold, predicted)
    assert sum(map(sum, table)) == len(rows)
    assert scores["accuracy"] == pytest.approx(sum(table[i][i] for i in range(3)) / len(rows))
    assert scores["unknown"] == pytest.approx(sum(row[3] for row in table) / len(rows))
    f1 = []
    for i in range(3):
        wanted, said = sum(table[i]), sum(row[i] for row in table)
        precision, recall = table[i][i] / max(said, 1), table[i][i] / max(wanted, 1)
        if wanted + said:
            f1.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    assert scores["macro_f1"] == pytest.approx(sum(f1) / len(f1))


@untimed
@given(rows_of_labels)
def test_classification_is_sklearns(rows):
    sklearn = pytest.importorskip("sklearn.metrics")
    gold, predicted = map(list, zip(*rows, strict=True))
    scores = metrics.classification(LABELS, gold, predicted)
    occurring = [label for label in LABELS if label in {*gold, *predicted}]
    assert scores["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, predicted))
    assert scores["macro_f1"] == pytest.approx(
        sklearn.f1_score(gold, predicted, labels=occurring, average="macro", zero_division=0)
    )


def test_multilabel_by_hand():
    gold = [{"cat"}, {"cat", "dog"}, set()]
    predicted = [{"cat"}, {"cat", "cow"}, {"bird"}]
    # Hits 2, said 4 (bird too), wanted 3: micro 2 * 2 / 7. cat 1, dog 0, cow 0: macro 1/3.
    assert metrics.multilabel(LABELS, gold, predicted) == pytest.approx(
        {"accuracy": 1 / 3, "micro_f1": 4 / 7, "macro_f1": 1 / 3}
    )
    nothing = metrics.multilabel(LABELS, [set()], [set()])
    assert nothing == {"accuracy": 1.0, "micro_f1": 0.0, "macro_f1": 0.0}


label_sets = st.sets(st.sampled_from(LABELS))
rows_of_sets = st.lists(st.tuples(label_sets, label_sets), min_size=1)


@untimed
@given(rows_of_sets)
def test_multilabel_is_symmetric_and_counts_cells(rows):
    gold, predicted = zip(*rows, strict=True)
    scores = metrics.multilabel(LABELS, gold, predicted)
    assert scores == pytest.approx(metrics.multilabel(LABELS, predicted, gold))
    cells = Counter((label in g, label in p) for g, p in rows for label in LABELS)
    both, either = cells[True, True], cells[True, True] + cells[True, False] + cells[False, True]
    assert scores["micro_f1"] == pytest.approx(2 * both / (both + either) if either else 0.0)
    assert scores["accuracy"] == pytest.approx(sum(not g ^ p for g, p in rows) / len(rows))


@untimed
@given(rows_of_sets)
def test_multilabel_is_sklearns(rows):
    sklearn = pytest.importorskip("sklearn.metrics")
    gold, predicted = zip(*rows, strict=True)
    scores = metrics.multilabel(LABELS, gold, predicted)
    matrix = [[[int(label in one) for label in LABELS] for one in side] for side in (gold, predicted)]
    occurring = [i for i, label in enumerate(LABELS) if any(label in one for one in (*gold, *predicted))]
    assert scores["accuracy"] == pytest.approx(sklearn.accuracy_score(*matrix))
    assert scores["micro_f1"] == pytest.approx(sklearn.f1_score(*matrix, average="micro", zero_division=0))
    if occurring:
        macro = sklearn.f1_score(*matrix, labels=occurring, average="macro", zero_division=0)
        assert scores["macro_f1"] == pytest.approx(macro)


# --- calls -----------------------------------------------------------------------------------------------


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("gold", "said", "expected"),
    [
        ([], [], 1.0),
        ([call("f")], [], 0.0),
        ([], [call("f")], 0.0),
        ([call("f", a=1, b=2)], [call("f", b=2, a=1)], 1.0),
        ([call("f", a=1)], [call("f", a=1.0)], 1.0),
        ([call("f", a=1)], [call("f", a=True)], 0.0),
        ([call("f", a=0)], [call("f", a=False)], 0.0),
        ([call("f", a=[1, {"b": 1}])], [call("f", a=[1.0, {"b": True}])], 0.0),
        ([call("f", a=1)], [call("f", a="1")], 0.0),
        ([call("f", a="Paris")], [call("f", a="paris")], 0.0),
        ([call("f", a=None)], [call("f")], 0.0),
        ([call("f", a=[])], [call("f", a={})], 0.0),
        ([call("f", a=[1, 2])], [call("f", a=[2, 1])], 0.0),
        ([call("f", a=1)], [call("g", a=1)], 0.0),
        ([call("f"), call("f")], [call("f")], 0.0),  # said once, wanted twice
        ([call("f", a=2**53)], [call("f", a=2**53 + 1)], 0.0),
    ],
)
def test_call_match(gold, said, expected):
    assert metrics.call_match(gold, said) == metrics.call_match(said, gold) == expected


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, 1.0, 0.5])
    | st.text("ab1", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=6,
)
some_calls = st.lists(
    st.builds(
        lambda name, arguments: {"name": name, "arguments": arguments},
        st.sampled_from("fg"),
        st.dictionaries(st.sampled_from("xy"), json_values),
    ),
    max_size=4,
)


def json_equal(one, other):
    """JSON equality in another way: through sorted text, with whole floats written as integers."""

    def text(value):
        whole = json.loads(
            json.dumps(value), parse_float=lambda s: int(float(s)) if float(s) % 1 == 0 else float(s)
        )
        return json.dumps(whole, sort_keys=True)

    return text(one) == text(other)


def reordered(value, draw):
    if isinstance(value, dict):
        items = list(value.items())
        draw.shuffle(items)
        return {key: reordered(inner, draw) for key, inner in items}
    return [reordered(inner, draw) for inner in value] if isinstance(value, list) else value


@untimed
@given(some_calls, st.randoms(use_true_random=False))
def test_order_of_parallel_calls_and_of_keys_is_free(calls, draw):
    mixed = [reordered(one, draw) for one in calls]
    draw.shuffle(mixed)
    assert metrics.call_match(calls, mixed) == 1.0


@untimed
@given(some_calls, some_calls)
def test_call_match_is_equality_of_multisets(one, other):
    rest = list(other)
    for wanted in one:
        same = next((i for i, said in enumerate(rest) if json_equal(wanted, said)), None)
        if same is None:
            rest = ["missing"]
            break
        del rest[same]
    assert metrics.call_match(one, other) == metrics.call_match(other, one) == float(not rest)


def hermes(*calls):
    return "".join(f"<tool_call>{json.dumps(one)}</tool_call>" for one in calls)


def test_call_scores_by_hand():
    f, g = call("f", a=1), call("g", b=[True])
    rows = [
        ([f, g], hermes(g, f)),  # match
        ([f], hermes(call("f", a=2))),  # the name only
        ([f], hermes(g)),  # neither
        ([f], hermes(f) + "<tool_call>{oops}</tool_call>"),  # an attempt too many, broken
        ([], "It is sunny."),  # rightly no call
        ([f], "It is sunny."),  # no call, though one was wanted
    ]
    # 2 of 6 match, 3 of 6 by name; 4 of 6 try, 3 of these are valid
    assert metrics.call_scores(*zip(*rows, strict=True)) == pytest.approx(
        {"call_match": 2 / 6, "call_name_match": 3 / 6, "valid_calls": 3 / 4}
    )


def test_nobody_calls():
    scores = metrics.call_scores([[], []], ["Hello.", ""])
    assert scores == {"call_match": 1.0, "call_name_match": 1.0, "valid_calls": 0.0}


@untimed
@given(st.lists(st.tuples(some_calls, some_calls), min_size=1))
def test_a_right_call_has_the_right_name(rows):
    scores = metrics.call_scores([gold for gold, _ in rows], [hermes(*said) for _, said in rows])
    expected = [metrics.call_match(gold, said) for gold, said in rows]
    assert scores["call_match"] == pytest.approx(sum(expected) / len(rows))
    assert scores["call_match"] <= scores["call_name_match"]
    assert scores["valid_calls"] == float(any(said for _, said in rows))


# --- spans -----------------------------------------------------------------------------------------------


def test_span_f1_by_hand():
    gold = [[("PER", "Ada"), ("PER", "Ada"), ("LOC", "Rome")], [("ORG", "UN")]]
    predicted = [[("PER", "Ada"), ("ORG", "Rome")], [("ORG", "UN"), ("ORG", "UN")]]
    # Hits: Ada once, UN once. Said 4, wanted 4.
    assert metrics.span_f1(gold, predicted) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    # Hits 1, said 1, wanted 3: F1 2 * 1 * (1/3) / (4/3).
    third = metrics.span_f1([gold[0]], [[("LOC", "Rome")]])
    assert third == pytest.approx({"precision": 1.0, "recall": 1 / 3, "f1": 0.5})
    assert metrics.span_f1([[]], [[]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


spans = st.lists(st.tuples(st.sampled_from(["PER", "LOC"]), st.sampled_from("ab")), max_size=5)


@untimed
@given(st.lists(st.tuples(spans, spans), min_size=1), st.randoms(use_true_random=False))
def test_span_f1_is_symmetric_and_order_free(rows, draw):
    gold, predicted = map(list, zip(*rows, strict=True))
    scores = metrics.span_f1(gold, predicted)
    back = metrics.span_f1(predicted, gold)
    assert (scores["precision"], scores["recall"]) == (back["recall"], back["precision"])
    shuffled = [draw.sample(one, len(one)) for one in predicted]
    assert metrics.span_f1(gold, shuffled) == scores
    precision, recall = scores["precision"], scores["recall"]
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert scores["f1"] == pytest.approx(harmonic)


# --- chrF ------------------------------------------------------------------------------------------------


def chrf_by_formula(answers, references, order=6, beta=2):
    """Popović 2015, without spaces: the mean precision and recall of the n-gram orders that both sides have."""
    precisions, recalls = [], []
    for n in range(1, order + 1):
        hits = said = wanted = 0
        for pair in zip(answers, references, strict=True):
            one, other = (
                Counter("".join(t.split())[i : i + n] for i in range(len("".join(t.split())) - n + 1))
                for t in pair
            )
            hits, said, wanted = hits + (one & other).total(), said + one.total(), wanted + other.total()
        if said and wanted:
            precisions.append(hits / said)
            recalls.append(hits / wanted)
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if not precision + recall:
        return 0.0
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def test_chrf_is_the_papers_formula():
    answers = ["the cat sat on the mat", "Guten Morgen, Welt"]
    references = ["a cat sat on a mat", "Guten Tag, Welt"]
    assert metrics.chrf(answers, references) == pytest.approx(chrf_by_formula(answers, references))
    assert metrics.chrf(references, references) == pytest.approx(100)
    assert metrics.chrf(["xyz"], ["abc"]) == 0.0
    assert metrics.chrf([""], ["abc"]) == 0.0


@given(st.lists(st.tuples(st.text("ab c", max_size=9), st.text("ab c", min_size=1, max_size=9)), min_size=1))
@settings(max_examples=50, deadline=None)
def test_chrf_is_sacrebleus(pairs):
    sacrebleu = pytest.importorskip("sacrebleu")
    answers, references = [one for one, _ in pairs], [other for _, other in pairs]
    expected = sacrebleu.corpus_chrf(answers, [references]).score
    assert metrics.chrf(answers, references) == pytest.approx(expected, abs=1e-6)


# --- what a user can get wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "error", "sentence"),
    [
        (lambda: metrics.stop_rate([]), DataError, "There are no answers"),
        (lambda: metrics.exact_match("a", []), DataError, "at least one text"),
        (lambda: metrics.token_f1("a", "abc"), DataError, "'abc'; give a list"),
        (lambda: metrics.classification(LABELS, [], []), DataError, "There are no answers"),
        (lambda: metrics.classification(LABELS, ["cat"], []), DataError, "There are no answers"),
        (lambda: metrics.confusion(LABELS, ["cat"], ["cat", "dog"]), DataError, "2 answers for 1 rows"),
        (lambda: metrics.classification(LABELS, ["bird"], ["cat"]), DataError, "'bird' is none of"),
        (lambda: metrics.multilabel(LABELS, [{"bird"}], [set()]), DataError, "'bird' is none of"),
        (lambda: metrics.confusion(["a", "a"], ["a"], ["a"]), SettingError, "'a' twice"),
        (lambda: metrics.call_scores([[]], []), DataError, "There are no answers"),
        (
            lambda: metrics.call_match([{"name": "f", "arguments": "{}"}], []),
            DataError,
            "'f' are of type str",
        ),
        (lambda: metrics.span_f1([[]], [[], []]), DataError, "2 answers for 1 rows"),
        (lambda: metrics.chrf(["a"], []), DataError, "1 answers for 0 rows"),
    ],
)
def test_wrong_input_is_named(score, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        score()


def test_the_order_of_rows_is_free():
    draw = random.Random(0)
    rows = [(draw.choice(LABELS), draw.choice([*LABELS, "bird"])) for _ in range(50)]
    mixed = draw.sample(rows, len(rows))
    scores = [metrics.classification(LABELS, *zip(*some, strict=True)) for some in (rows, mixed)]
    assert scores[0] == scores[1]
