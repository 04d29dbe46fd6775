import pytest

from leff.tasks.metrics.ptb import tokenize

# What Stanford's PTBTokenizer (CoreNLP 3.4.1, -preserveLines -lowerCase) prints.
STANFORD = {
    "It's family-friendly, isn't it?": "it 's family-friendly , is n't it ?",
    "You can't, cannot, gonna; they've": "you ca n't , can not , gon na ; they 've",
    "less than £20. It has 5 out of 5...": "less than # 20 . it has 5 out of 5 ...",
    "£20-25 (cheap)! 5-star": "# 20-25 -lrb- cheap -rrb- ! 5-star",
    'He said "Don\'t" twice': "he said `` do n't '' twice",
    "Mr. Smith's U.S.A. e.g. St. Mary's": "mr. smith 's u.s.a. e.g. st. mary 's",
    "3.5 1,000 50% $30 €40 and/or 10:30": "3.5 1,000 50 % $ 30 $ 40 and/or 10:30",
    "rock'n'roll O'Neill hors d'oeuvres": "rock 'n' roll o'neill hors d'oeuvres",
    "“quoted” ‘x’ non-family-friendly kid–friendly": (
        "`` quoted '' ` x ' non-family-friendly kid -- friendly"
    ),
    "a |||b [x] {y} &amp; @foo #tag http://x.com/a?b=1 foo@bar.com": (
        "a | | | b -lsb- x -rsb- -lcb- y -rcb- & @foo #tag http://x.com/a?b=1 foo@bar.com"
    ),
    "Café Sicilia,it is. hello: a? b!! …": "café sicilia , it is . hello : a ? b !! ...",
    "": "",
}


@pytest.mark.parametrize("text", [text for text in STANFORD if "rock" not in text])
def test_stanfords_tokens(text):
    assert " ".join(tokenize(text)) == STANFORD[text]


def test_the_table_is_what_the_program_prints(programs):
    assert [" ".join(tokens) for tokens in programs.tokenize(list(STANFORD))] == list(
        STANFORD.values()
    )


def test_agrees_with_the_program_on_real_text(programs, e2e_references):
    lines = [text for texts in e2e_references("dev").values() for text in texts]
    theirs = programs.tokenize(lines)
    differ = [line for line, tokens in zip(lines, theirs, strict=True) if tokenize(line) != tokens]
    assert len(differ) < 0.01 * len(lines), differ[:5]
