"""What the server, and whoever sees its models, may learn of one client: bounded and counted.

accountant     ε of noisy sums
noise          Gaussian noise and draws of clients, from a secret key
ledger         every noisy sum of a run, on disk
secure_sums    sums under masks: the server sees no client's values; `secure_client` and
               `secure_server` are its sides, `secure_messages` what they say
fixed_point    floats as the whole numbers that masks are added to
masks          keys, masks, sealed shares
"""
