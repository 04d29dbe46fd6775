"""Penn Treebank tokens in Python, used if the Stanford tokenizer cannot run.

It follows Stanford's PTBTokenizer (CoreNLP 3.4.1, with ``-lowerCase``) for English texts of one or
two sentences: clitics (``it 's``, ``do n't``), hyphenated words in one piece, abbreviations,
decimals, currency (``£`` becomes ``#``), quotes and brackets.

    tokenize("It's family-friendly.")
"""

import re

_ABBREVIATIONS = (
    "mr|mrs|ms|dr|st|prof|gen|col|capt|lt|sgt|rev|hon|sen|rep|gov|jr|sr|co|corp|inc|ltd|bros|vs|"
    "etc|dept|univ|assn|ave|blvd|rd|mt|ft|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
_APOSTROPHE = "['’]"

# The alternatives are tried in this order at every place.
_TOKEN = re.compile(
    rf"""
      https?://\S*[\w/]                                                # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
    | [@\#](?=[^\W\d])\w+                                              # handles and tags
    | (?:[^\W\d_]\.){{2,}} | (?<![\w'’])[^\W\d_]\.(?!\w)               # u.s.a. and initials
    | \b(?:{_ABBREVIATIONS})\.(?!\w)
    | \bno\.(?=\s*\d)
    | \b\w+\.(?=,)                                                     # an abbreviation, then
    | \bcan(?=not\b) | \b(?:gon|wan)(?=na\b) | \bgot(?=ta\b)
    | {_APOSTROPHE}(?:s|m|d|re|ve|ll)(?!\w) | n{_APOSTROPHE}t(?!\w)    # clitics
    | {_APOSTROPHE}(?:\d\ds?|n|em)(?!\w)                               # '90s
    | [+-]?(?<![\w.])\d+(?:[.,:/-]\d+)*(?:(?:st|nd|rd|th|s)\b)?(?!-?[^\W_])  # numbers and ranges
    | [^\W_]+?(?=n{_APOSTROPHE}t(?!\w))                                # do + n't
    | [^\W_](?:[\w&\u0300-\u036f]|(?<=[odl]){_APOSTROPHE}(?=[^\W\d_]{{2}})|[-/.](?=[^\W_]))*
    | \.{{3,}} | [!?]+ | -{{2,}} | \w+ | \S
    """,
    re.VERBOSE,
)
_SPELT = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"£": "#", "€": "$", "…": "...", "–": "--", "—": "--"},
    **{"“": "``", "”": "''", "„": "``", "‘": "`", "’": "'"},
}


def tokenize(text: str) -> list[str]:
    """Return the lower-case tokens of one line, punctuation included."""
    tokens: list[str] = []
    quoted = False
    for match in _TOKEN.finditer(text.lower().replace("&amp;", "&")):
        token = match.group()
        if token == '"':
            token, quoted = ("''", False) if quoted else ("``", True)
        elif len(token) > 1:
            token = token.replace("’", "'") if token.strip(".") else "..."
        tokens.append(_SPELT.get(token, token))
    return tokens
