"""Metrics: texts (`nlg`: BLEU, NIST, METEOR, ROUGE-L, CIDEr) and labels (`glue`).

python -c "from leff.tasks.metrics.nlg import bleu; print(bleu([['a b c d']], ['a b c d']))"
"""
