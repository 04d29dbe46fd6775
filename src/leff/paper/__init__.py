"""The paper's tables and figures, with our values beside the paper's.

leff table 1 --row LEFF --column CoLA          # runs what is missing, prints the table
leff figure 4 --no-run                         # draws what is there

published.py     the paper's own numbers          experiment.py   reads the TOML files
cells.py         a cell's runs                    results.py      result files, checked
predict.py       a run's seconds and bytes        study.py        one table or figure as a whole
values.py        mean, deviation, averages        counts.py       Table 5, which has no runs
tables.py, figures.py, captions.py                what people see
command.py       the commands `leff table` and `leff figure`
experiments/     one TOML file each               results/        the published results
"""
