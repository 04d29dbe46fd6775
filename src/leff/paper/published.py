"""The numbers that the paper prints, to show beside ours.

    TABLES["table1"]["LEFF"]["CoLA"]      # 27.74

Shen, Cheng, Xu, Wang, Guo, Xu: "LLM at Network Edge: A Layer-wise Efficient Federated Fine-tuning
Approach", NeurIPS 2025, Tables 1 to 7.  Its averages are not here: they follow from the rest, and
ours are often over fewer tasks.  Figures 4 to 8 are pictures without numbers.
"""

Table = dict[str, dict[str, float]]  # row -> column -> value


def _table(text: str) -> Table:
    """Return a table from text: the first line has the column names, every other a row."""
    columns, *rows = (line.split() for line in text.strip().splitlines())
    return {
        row: dict(zip(columns, map(float, values), strict=True))
        for row, *values in rows  # every label is one word
    }


def _columns(table: Table, start: int, stop: int) -> Table:
    return {row: dict(list(values.items())[start:stop]) for row, values in table.items()}


_CLIENTS = _table("""
   CoLA  SST-2 MRPC  STS-B QQP   MNLI  QNLI  RTE   BLEU  NIST   METEOR ROUGE-L CIDEr
8  61.51 94.3  82.82 86.84 88.35 88.2  91.79 60.01 .5762 7.4802 .3448  .6056   1.5174
16 50.21 93.77 77.38 85.9  87.32 88.07 91.09 59.33 .5728 7.2763 .3401  .6042   1.5139
24 44.87 93.15 71.44 85.12 86.76 87.57 90.45 57.16 .5726 7.2368 .3384  .6033   1.5086
32 35.6  92.3  68.38 80.39 86.32 87.36 89.45 52.71 .5715 7.1747 .3352  .6018   1.4988
40 31.26 91.38 64.38 79.35 86    86.52 89.2  50.9  .565  6.8036 .3275  .5981   1.4391
""")

TABLES: dict[str, Table] = {
    "table1": _table("""
              CoLA  SST-2 MRPC  STS-B QQP   MNLI  QNLI  RTE   BLEU  NIST   METEOR ROUGE-L CIDEr
    FedAvg    28.36 81.08 71.45 87.07 73.24 68.43 65.26 52.17 .5878 8.0645 .4123  .6405   1.7848
    FedBitFit  4.65 70.30 69.49 71.64 62.02 43.45 59.82 45.90 .5570 7.3859 .3443  .5917   1.4059
    FedLoRA    6.31 70.49 68.38 78.40 68.97 41.97 58.97 43.07 .5402 7.0344 .3625  .5857   1.3712
    SLoRA     21.82 72.44 69.00 80.35 69.08 53.26 60.68 50.97 .5700 7.9592 .4001  .6243   1.7322
    LEFF      27.74 79.30 70.00 85.00 70.83 62.75 63.24 51.89 .5799 8.0296 .4064  .6346   1.7521
    """),
    "table2": _columns(_CLIENTS, 0, 8),
    "table3": _columns(_CLIENTS, 8, 13),
    "table4": {"FlexLoRA": {"MMLU": 55.7}, "FLoRA": {"MMLU": 55.2}, "LEFF": {"MMLU": 57.5}},
    "table6": _table("""
                 BLEU  NIST   METEOR ROUGE-L CIDEr
    WikiText-103 .5765 8.0012 .4041  .631    1.745
    WebNLG       .5799 8.0296 .4064  .6346   1.7521
    OpenWebText  .5712 7.9688 .4015  .6259   1.7345
    """),
    "table7": _table("""
              CoLA SST-2 MRPC STS-B QQP MNLI QNLI RTE  BLEU  NIST  METEOR ROUGE-L CIDEr
    FedAvg    1.52 .71   .88  .45   .31 .53  .62  1.21 .0041 .1512 .0028  .0033   .0805
    FedBitFit 1.89 .95   1.02 .82   .55 .98  .77  1.53 .0053 .2144 .0045  .0049   .1231
    FedLoRA   1.72 .88   1.15 .75   .49 1.05 .81  1.68 .0058 .2516 .0041  .0051   .1189
    SLoRA     1.45 .81   .95  .68   .42 .85  .71  1.35 .0049 .1832 .0035  .0039   .0948
    LEFF      1.38 .75   .91  .51   .35 .62  .68  1.25 .0045 .1604 .0031  .0035   .0882
    """),
}

TRAINABLE: dict[str, dict[str, int | str]] = {  # Table 5; text where the paper has no number
    "deberta-v3-base": {
        "fedavg": 85_648_130,
        "fedlora": 1_340_930,
        "slora": 1_340_930,
        "fedbitfit": 102_914,
        "leff": 7_681_538,
    },
    "deberta-v3-large": {
        "fedavg": 303_363_074,
        "fedlora": 3_557_378,
        "slora": 3_557_378,
        "fedbitfit": 272_386,
        "leff": 13_649_922,
    },
    "gpt2": {
        "fedavg": 85_056_000,
        "fedlora": 811_008,
        "slora": 811_008,
        "fedbitfit": 102_144,
        "leff": 7_089_408,
    },
    "gpt2-large": {
        "fedavg": 708_390_400,
        "fedlora": 4_055_040,
        "slora": 4_055_040,
        "fedbitfit": 508_160,
        "leff": 19_680_000,
    },
    "llama-3.1-8b": {
        "fedavg": "does not fit",
        "fedlora": 20_971_520,
        "slora": 20_971_520,
        "fedbitfit": "no biases",
        "leff": 743_452_672,
    },
}

MEMORY_GB: dict[str, dict[str, float]] = {  # Table 5, peak on the client's GPU; batch not given
    "deberta-v3-base": {
        "fedavg": 3.841,
        "fedlora": 2.644,
        "slora": 2.644,
        "fedbitfit": 2.198,
        "leff": 2.136,
    },
    "deberta-v3-large": {
        "fedavg": 9.361,
        "fedlora": 6.660,
        "slora": 6.660,
        "fedbitfit": 5.488,
        "leff": 3.005,
    },
    "gpt2": {"fedavg": 3.358, "fedlora": 2.476, "slora": 2.476, "fedbitfit": 2.206, "leff": 1.719},
    "gpt2-large": {
        "fedavg": 15.548,
        "fedlora": 9.739,
        "slora": 9.739,
        "fedbitfit": 8.318,
        "leff": 3.240,
    },
    "llama-3.1-8b": {"fedlora": 46.868, "slora": 46.868, "leff": 29.881},
}
