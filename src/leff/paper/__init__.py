"""The paper's tables and figures, ours beside the paper's.

leff table 1 --row LEFF --column CoLA          # runs what is missing, prints the table
leff figure 4 --no-run                         # draws what is there

published.py     the paper's own figures          experiment.py   reads the TOML files
cells.py         cells -> runs, keyed by config   results.py      result files, checked
predict.py       seconds and bytes beforehand     sweep.py        runs what is missing
values.py        mean, deviation, averages        counts.py       Table 5, which has no runs
keys.py          what a run is known by           processes.py    runs in processes of their own
study.py         one table or figure, all of it   command.py      from what was typed to the answer
tables.py, figures.py, listing.py, layout.py      what people see
"""
