"""What the server, and whoever sees its models, may learn of one client: bounded and counted.

accountant     ε of noisy sums
noise          Gaussian noise and draws of clients, from a secret key
ledger         every noisy sum of a run, on disk
"""
